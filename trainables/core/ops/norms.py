"""Norms without memory: each sample is normalised by itself. For batch norm see `batch_norm`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.core.ops.layout import by_channel, fold, unfold


def rms_norm(x: Tensor, weight: Tensor | None, eps: float | None = 1e-6, dims: int = 1) -> Tensor:
    """Divide by the root mean square over the last dimensions.

    Args:
        x: `[K, ..., *shape]`.
        weight: `[K, *shape]`, or None for no gain.
        eps: Added to the mean square; None takes the dtype's spacing at 1, as torch.nn.RMSNorm does.
        dims: Number of dimensions in `shape`.

    Returns:
        `[K, ..., *shape]`.

    Source: Zhang and Sennrich 2019 (arXiv 1910.07467).
    """
    y = F.rms_norm(x, x.shape[-dims:], eps=eps)
    return y if weight is None else y * _over_samples(weight, x)


def layer_norm(
    x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5, dims: int = 1
) -> Tensor:
    """Subtract the mean and divide by the (biased) standard deviation over the last dimensions.

    Args:
        x: `[K, ..., *shape]`.
        weight: `[K, *shape]`, or None for no gain.
        bias: `[K, *shape]`, or None.
        eps: Added to the variance.
        dims: Number of dimensions in `shape`.

    Returns:
        `[K, ..., *shape]`.

    Source: Ba, Kiros and Hinton 2016 (arXiv 1607.06450).
    """
    y = F.layer_norm(x, x.shape[-dims:], eps=eps)
    if weight is not None and bias is not None:
        return torch.addcmul(_over_samples(bias, x), y, _over_samples(weight, x))
    if weight is not None:
        return y * _over_samples(weight, x)
    return y if bias is None else y + _over_samples(bias, x)


def group_norm(
    x: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Subtract the mean and divide by the (biased) standard deviation over groups of channels and all of space.

    Members are further groups of one call, so that torch's kernel applies the members' gains and biases too.

    Args:
        x: `[K, B, C, *space]`.
        groups: Groups of channels within each member.
        weight: `[K, C]`, or None for no gain.
        bias: `[K, C]`, or None.
        eps: Added to the variance.

    Returns:
        `[K, B, C, *space]`.

    Source: Wu and He 2018 (arXiv 1803.08494).
    """
    gain, shift = by_channel(weight), by_channel(bias)
    return unfold(F.group_norm(fold(x), len(x) * groups, gain, shift, eps), len(x))


def _over_samples(values: Tensor, x: Tensor) -> Tensor:
    """`[K, *shape]` with ones in between, to broadcast over `[K, ..., *shape]`."""
    return values.view(len(values), *(1,) * (x.ndim - values.ndim), *values.shape[1:])
