"""Batch norm, whose running statistics are passed in and returned: nothing is captured or changed in place.

Members' channels are further channels of one kernel call, which returns the batch's statistics as it goes. These are in
float32 or better whatever the inputs are in, and so must running statistics be.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.core.ops.layout import by_channel, fold, unfold
from trainables.errors import TrainableError


class Running(NamedTuple):
    """Running statistics of the members' channels, for inference.

    Attributes:
        mean: `[K, C]`.
        var: `[K, C]`, of unbiased estimates.
    """

    mean: Tensor
    var: Tensor


def batch_norm(
    x: Tensor,
    running: Running | None,
    momentum: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, Running | None]:
    """Normalise each channel by its batch, as torch.nn.BatchNorm1d and 2d do in training.

    Args:
        x: `[K, B, C, *space]`; more than one value per channel.
        running: Statistics so far, or None to keep none.
        momentum: `(K,)` share of the batch in the new running statistics.
        weight: `[K, C]`, or None for no gain.
        bias: `[K, C]`, or None.
        eps: Added to the (biased) variance.

    Returns:
        `[K, B, C, *space]`, and the new running statistics, outside the graph.

    Source: Ioffe and Szegedy 2015, algorithm 1; momentum and the unbiased running variance as in torch.
    """
    num_members = len(x)
    y, mean, var = _by_batch(fold(x), weight, bias, eps)
    if running is None:
        return unfold(y, num_members), None
    share = momentum.to(mean.dtype)[:, None]
    mean, var = mean.view_as(running.mean), var.view_as(running.var)
    new = Running(share * mean + (1.0 - share) * running.mean, share * var + (1.0 - share) * running.var)
    return unfold(y, num_members), new


def ghost_batch_norm(
    x: Tensor,
    running: Running | None,
    momentum: Tensor,
    ghost_size: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, Running | None]:
    """Normalise each channel by its part of the batch: a large batch keeps the noise of a small one.

    Of G ghost batches, ghost i has the samples i, i + G, i + 2 G, ...: batches are drawn at random, so it does not
    matter which, and these are further channels without a copy. Running statistics take the ghosts in one after the
    other, as G calls of `batch_norm` would.

    Args:
        x: `[K, B, C, *space]`.
        running: Statistics so far, or None to keep none.
        momentum: `(K,)` share of one ghost batch in the running statistics.
        ghost_size: Samples in a ghost batch; divides B.
        weight: `[K, C]`, or None for no gain.
        bias: `[K, C]`, or None.
        eps: Added to the (biased) variance.

    Returns:
        `[K, B, C, *space]`, and the new running statistics, outside the graph.

    Raises:
        TrainableError: The ghost size does not divide the batch.

    Source: Hoffer, Hubara and Soudry 2017 (arXiv 1705.08741), algorithm 1.
    """
    num_members, batch, channels, *space = x.shape
    if ghost_size < 1 or batch % ghost_size:
        raise TrainableError(f"ghost_size is {ghost_size}; give a divisor of the batch size {batch}")
    ghosts = batch // ghost_size
    folded = fold(x).reshape(ghost_size, ghosts * num_members * channels, *space)
    gain, shift = (None if t is None else t.expand(ghosts, -1, -1) for t in (weight, bias))
    y, mean, var = _by_batch(folded, gain, shift, eps)
    y = unfold(y.reshape(batch, num_members * channels, *space), num_members)
    if running is None:
        return y, None
    eta = momentum.to(mean.dtype)[:, None]
    later = torch.arange(ghosts - 1, -1, -1, device=x.device)
    # (ghosts, K, 1): what is left of each ghost's share after the ones that follow it.
    shares = eta * (1.0 - eta) ** later[:, None, None]
    left = (1.0 - eta) ** ghosts
    found = (t.view(ghosts, num_members, channels) for t in (mean, var))
    return y, Running(*(left * old + (shares * new).sum(0) for old, new in zip(running, found, strict=True)))


def batch_norm_inference(
    x: Tensor, running: Running, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Normalise each channel by its running statistics, as torch.nn.BatchNorm1d and 2d do in evaluation.

    Args:
        x: `[K, B, C, *space]`.
        running: Statistics of each member's channels.
        weight: `[K, C]`, or None for no gain.
        bias: `[K, C]`, or None.
        eps: Added to the variance.

    Returns:
        `[K, B, C, *space]`.
    """
    wide = _wide(x)
    mean, var, gain, shift = (_to(t, wide) for t in (running.mean, running.var, weight, bias))
    return unfold(F.batch_norm(fold(x), mean, var, gain, shift, training=False, eps=eps), len(x))


def _by_batch(folded: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised `[B, channels, *space]`, and the batch's means and unbiased variances, `(channels,)` each."""
    # The kernel adds its statistics to those it is given, here with a share of 1 to zeros: no second pass over x. Not
    # two rows of one tensor: torch.vmap writes to a copy of what is not contiguous.
    wide = _wide(folded)
    mean, var = (folded.new_zeros(folded.shape[1], dtype=wide) for _ in range(2))
    gain, shift = _to(weight, wide), _to(bias, wide)
    y = F.batch_norm(folded, mean, var, gain, shift, training=True, momentum=1.0, eps=eps)
    return y, mean, var


def _wide(x: Tensor) -> torch.dtype:
    """Statistics of bfloat16 inputs are not kept in it: a running mean would stop moving."""
    return torch.promote_types(x.dtype, torch.float32)


def _to(values: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """For the kernel, which takes all of a channel's numbers in one dtype, in the inputs' or a wider one."""
    flat = by_channel(values)
    return None if flat is None else flat.to(dtype)
