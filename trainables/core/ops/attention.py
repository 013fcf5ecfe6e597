"""Attention and rotary positions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.core.ops.norms import rms_norm


def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = False, scale: float | None = None) -> Tensor:
    """Multi-head attention: `softmax(q @ k.T * scale) @ v`.

    K is folded into the batch, so that q, k and v are four-dimensional and a fused kernel is chosen.

    Args:
        q: `[K, B, H, T, D]`.
        k: `[K, B, H, S, D]`.
        v: `[K, B, H, S, E]`.
        causal: Whether position t of q sees positions up to t of k and v only.
        scale: What scores are multiplied by; None means `1 / sqrt(D)`.

    Returns:
        `[K, B, H, T, E]`.

    Source: Vaswani et al. 2017, equation 1.
    """
    num_members = len(q)
    q_, k_, v_ = (t.flatten(0, 1) for t in (q, k, v))
    mixed = F.scaled_dot_product_attention(q_, k_, v_, is_causal=causal, scale=scale)
    return mixed.unflatten(0, (num_members, q.shape[1]))


def causal_attention(
    qkv: Tensor, length: int, heads: int, scale: float | None = None, gains: Tensor | None = None
) -> Tensor:
    """Multi-head causal self-attention with rotary positions.

    K is folded into the batch, so that q, k and v are four-dimensional and a fused kernel is chosen.

    Args:
        qkv: `[K, B * length, 3 * width]`, q, k and v side by side.
        length: Positions per sequence.
        heads: Heads; each has `width / heads` dimensions.
        scale: What scores are multiplied by; None means `1 / sqrt(width / heads)`.
        gains: `[K, 2, width / heads]`: queries and keys are divided by their root mean square over each head and
            multiplied by these, before they are turned; None leaves them as they are.

    Returns:
        `[K, B * length, width]`.

    Source: Dehghani et al. 2023 (arXiv 2302.05442), section 2, QK normalization: a norm without centering and bias on
    queries and keys, scores scaled as ever. Henry et al. 2020 (arXiv 2010.04245), section 2, whom they follow, divide
    by the length instead and learn one scale for all scores.
    """
    num_members, rows, triple = qkv.shape
    width = triple // 3
    split = qkv.view(-1, length, 3, heads, width // heads)
    queries_keys = split[:, :, :2]
    if gains is not None:
        queries_keys = _normalised(queries_keys, gains)
    angles = rotary_angles(length, width // heads, qkv.device, qkv.dtype)
    # Positions and heads, with q and k counted as heads: one rotation for both.
    turned = rotate(queries_keys.flatten(2, 3), angles)
    q, k = turned.transpose(1, 2).chunk(2, dim=1)
    v = split[:, :, 2].transpose(1, 2)
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    return mixed.transpose(1, 2).reshape(num_members, rows, width)


def _normalised(queries_keys: Tensor, gains: Tensor) -> Tensor:
    """RMSNorm over the last dimension of `[K * B, T, 2, H, D]`, with gains `[K, 2, D]`."""
    by_member = rms_norm(queries_keys, None).unflatten(0, (len(gains), -1))
    return (by_member * gains[:, None, None, :, None]).flatten(0, 1)


def rotary_angles(length: int, head_dim: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Cosine and sine of every position's angles, `(2, length, head_dim / 2)`.

    Source: Su et al. 2021 (RoFormer, arXiv 2104.09864), base 10,000; there the pairs are neighbours, see `rotate`.
    """
    steps = torch.arange(0, head_dim, 2, dtype=torch.float64, device=device) / head_dim
    frequency = torch.exp(-math.log(10_000.0) * steps)
    angle = torch.arange(length, dtype=torch.float64, device=device)[:, None] * frequency
    return torch.stack([angle.cos(), angle.sin()]).to(dtype)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn pairs (i, i + D/2) of the last dimension by their position's angle: `[..., T, H, D]`."""
    cosine, sine = angles[0][:, None, :], angles[1][:, None, :]
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
