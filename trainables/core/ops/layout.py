"""How members lie in memory where torch's kernels know no member dimension."""

from __future__ import annotations

from torch import Tensor


def fold(x: Tensor) -> Tensor:
    """Members become channels: `[K, B, C, *space]` to `[B, K * C, *space]`.

    A kernel that treats channels (or groups of them) apart then treats members apart, in one launch. `unfold` gives
    a view back, and elementwise operations keep strides, so between two folded layers folding is a view as well:
    only a network's input is copied.
    """
    num_members, batch, channels, *space = x.shape
    return x.transpose(0, 1).reshape(batch, num_members * channels, *space)


def unfold(y: Tensor, num_members: int) -> Tensor:
    """Channels become members again, a view: `[B, K * C, *space]` to `[K, B, C, *space]`."""
    return y.unflatten(1, (num_members, y.shape[1] // num_members)).transpose(0, 1)


def by_channel(values: Tensor | None) -> Tensor | None:
    """A gain or bias `[K, C]` (or `[ghosts, K, C]`) for `fold`'s channels, `(K * C,)`, or None.

    Contiguous: the backward pass of torch 2.13's batch norm on the CPU takes a gain to be, and reads other memory where
    it is not, as `expand` and `flatten` or a slice can make it.
    """
    return None if values is None else values.flatten().contiguous()


def per_member(values: Tensor, like: Tensor) -> Tensor:
    """Make `(K,)` values broadcast over `[K, ...]`, in its dtype."""
    return values.to(like.dtype).view(-1, *(1,) * (like.ndim - 1))
