"""Convolutions: members are groups of one grouped convolution.

Measured on one thread of a shared 2-core EPYC with torch 2.13 in float32, 3x3 kernels, forward and backward in ms, of
members' convolutions as groups in torch's default layout, as groups in the channels-last layout, and one by one:

| B, C, O, side  |        K = 1        |         K = 8         |          K = 32          |
|----------------|---------------------|-----------------------|--------------------------|
| 4, 1, 8, 8     | 0.25 / 0.25 / 0.25  |   0.31 / 0.29 / 1.20  |    0.57 / 0.48 / 4.45    |
| 16, 1, 16, 28  | 2.14 / 2.04 / 2.53  |   5.39 / 5.45 / 7.39  |    55.9 / 74.2 / 57.2    |
| 8, 3, 16, 32   | 0.82 / 0.75 / 0.84  |   9.65 / 4.53 / 6.73  |    39.9 / 35.1 / 26.6    |
| 8, 8, 8, 16    | 0.42 / 0.39 / 0.41  |   0.98 / 1.01 / 2.56  |    3.86 / 4.25 / 10.9    |
| 8, 17, 15, 13  | 0.60 / 0.47 / 0.61  |   5.69 / 2.04 / 4.25  |    22.7 / 9.63 / 17.7    |
| 8, 16, 32, 16  | 0.78 / 0.75 / 0.79  |   4.84 / 4.61 / 6.29  |    20.8 / 26.4 / 27.0    |
| 16, 64, 64, 8  | 2.11 / 2.05 / 2.10  |   16.4 / 16.7 / 17.8  |                          |

Hence groups, so that small convolutions are not all overhead, and channels-last on the CPU: two to three times faster
where a member's channels are no multiple of the vector width, a third slower at worst. Unfolding into matrix products
was no faster with three channels and three to four times slower with sixteen or more. On CUDA nothing has been
measured yet: groups take one launch for all members, and the layout is left to the caller.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.core.ops.layout import fold, unfold
from trainables.errors import TrainableError

Pair: TypeAlias = int | tuple[int, int]
Single: TypeAlias = int | tuple[int]


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Two-dimensional convolution per member, as torch.nn.Conv2d with zero padding.

    Args:
        x: `[K, B, C, H, W]`.
        weight: `[K, O, C / groups, h, w]`.
        bias: `[K, O]`, or None.
        stride: Of the kernel, in both directions or each.
        padding: Zeros on each side, or `same` or `valid`.
        dilation: Distance between the kernel's elements.
        groups: Groups of channels within each member.

    Returns:
        `[K, B, O, H', W']`, a view that folds again without a copy.

    Raises:
        TrainableError: `x` has no batch dimension, or no member dimension.
    """
    _check_dimensions(x, weight)
    num_members = len(weight)
    folded = fold(x)
    if folded.device.type == "cpu":
        folded = folded.contiguous(memory_format=torch.channels_last)
    kernels, shifts = weight.flatten(0, 1), None if bias is None else bias.flatten()
    y = F.conv2d(folded, kernels, shifts, stride, padding, dilation, num_members * groups)
    return unfold(y, num_members)


def conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Single = 1,
    padding: Single | str = 0,
    dilation: Single = 1,
    groups: int = 1,
) -> Tensor:
    """One-dimensional convolution per member, as torch.nn.Conv1d: a `conv2d` of height 1, as in torch itself.

    Args:
        x: `[K, B, C, L]`.
        weight: `[K, O, C / groups, l]`.
        bias: `[K, O]`, or None.
        stride: Of the kernel.
        padding: Zeros on each side, or `same` or `valid`.
        dilation: Distance between the kernel's elements.
        groups: Groups of channels within each member.

    Returns:
        `[K, B, O, L']`, a view that folds again without a copy.

    Raises:
        TrainableError: `x` has no batch dimension, or no member dimension.
    """
    _check_dimensions(x, weight)
    wide = padding if isinstance(padding, str) else (0, _one(padding))
    y = conv2d(x.unsqueeze(-2), weight.unsqueeze(-2), bias, (1, _one(stride)), wide, (1, _one(dilation)), groups)
    return y.squeeze(-2)


def _check_dimensions(x: Tensor, weight: Tensor) -> None:
    if x.ndim != weight.ndim:
        raise TrainableError(f"conv input has {x.ndim} dimensions; give {weight.ndim}: members, batch, channels, space")


def _one(value: Single) -> int:
    return value if isinstance(value, int) else value[0]
