"""Attention and rotary positions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


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


def causal_attention(qkv: Tensor, length: int, heads: int, scale: float | None = None) -> Tensor:
    """Multi-head causal self-attention with rotary positions.

    K is folded into the batch, so that q, k and v are four-dimensional and a fused kernel is chosen.

    Args:
        qkv: `[K, B * length, 3 * width]`, q, k and v side by side.
        length: Positions per sequence.
        heads: Heads; each has `width / heads` dimensions.
        scale: What scores are multiplied by; None means `1 / sqrt(width / heads)`.

    Returns:
        `[K, B * length, width]`.
    """
    num_members, rows, triple = qkv.shape
    width = triple // 3
    split = qkv.view(-1, length, 3, heads, width // heads)
    angles = rotary_angles(length, width // heads, qkv.device, qkv.dtype)
    # Positions and heads, with q and k counted as heads: one rotation for both.
    turned = rotate(split[:, :, :2].flatten(2, 3), angles)
    q, k = turned.transpose(1, 2).chunk(2, dim=1)
    v = split[:, :, 2].transpose(1, 2)
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    return mixed.transpose(1, 2).reshape(num_members, rows, width)


def rotary_angles(length: int, head_dim: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Cosine and sine of every position's angles, `(2, length, head_dim / 2)`.

    Source: Su et al. 2021 (RoFormer), equation 15, base 10,000.
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
