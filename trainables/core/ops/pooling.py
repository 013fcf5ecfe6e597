"""Pooling over space; members' channels are further channels of one kernel call."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from trainables.core.ops.convolution import Pair, Single
from trainables.core.ops.layout import fold, unfold


def max_pool1d(
    x: Tensor,
    kernel_size: Single,
    stride: Single | None = None,
    padding: Single = 0,
    dilation: Single = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """Largest value of each window, `[K, B, C, L]` to `[K, B, C, L']`; arguments as in torch.nn.MaxPool1d."""
    return unfold(F.max_pool1d(fold(x), kernel_size, stride, padding, dilation, ceil_mode), len(x))


def max_pool2d(
    x: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """Largest value of each window, `[K, B, C, H, W]` to `[K, B, C, H', W']`; arguments as in torch.nn.MaxPool2d."""
    return unfold(F.max_pool2d(fold(x), kernel_size, stride, padding, dilation, ceil_mode), len(x))


def avg_pool1d(
    x: Tensor,
    kernel_size: Single,
    stride: Single | None = None,
    padding: Single = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """Mean of each window, `[K, B, C, L]` to `[K, B, C, L']`; arguments as in torch.nn.AvgPool1d."""
    step = kernel_size if stride is None else stride
    return unfold(F.avg_pool1d(fold(x), kernel_size, step, padding, ceil_mode, count_include_pad), len(x))


def avg_pool2d(
    x: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Mean of each window, `[K, B, C, H, W]` to `[K, B, C, H', W']`; arguments as in torch.nn.AvgPool2d."""
    pooled = F.avg_pool2d(fold(x), kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    return unfold(pooled, len(x))


def adaptive_avg_pool1d(x: Tensor, size: Single) -> Tensor:
    """Means over `size` stretches of space, `[K, B, C, L]` to `[K, B, C, size]`."""
    return unfold(F.adaptive_avg_pool1d(fold(x), size), len(x))


def adaptive_avg_pool2d(x: Tensor, size: int | tuple[int | None, int | None]) -> Tensor:
    """Means over a grid of `size` fields, `[K, B, C, H, W]` to `[K, B, C, *size]`; None keeps a side."""
    return unfold(F.adaptive_avg_pool2d(fold(x), size), len(x))
