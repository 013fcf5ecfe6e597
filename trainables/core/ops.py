"""Stacked layers: K members' tensors side by side, each member seeing its own weights only.

Activations are `[K, N, width]`, N the positions of a member's whole batch; sequences are N = B * T rows, batch-major.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.core.rng import Draws, keep


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """`x @ weight.T` per member: `[K, N, I]` and `[K, O, I]` (torch.nn.Linear's layout) to `[K, N, O]`."""
    return torch.bmm(x, weight.transpose(1, 2))


def embedding(tokens: Tensor, weight: Tensor) -> Tensor:
    """Rows of each member's table: `(K, N)` int64 and `[K, V, D]` to `[K, N, D]`."""
    num_members, vocabulary, width = weight.shape
    first = torch.arange(num_members, device=tokens.device) * vocabulary
    return F.embedding(tokens + first[:, None], weight.view(num_members * vocabulary, width))


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """Divide by the root mean square over the last dimension: `[K, N, D]` and `[K, D]`.

    Source: Zhang and Sennrich 2019, equation 4.
    """
    return F.rms_norm(x, x.shape[-1:], eps=eps) * weight[:, None, :]


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


def causal_attention(qkv: Tensor, length: int, heads: int) -> Tensor:
    """Multi-head causal self-attention with rotary positions.

    K is folded into the batch, so that q, k and v are four-dimensional and a fused kernel is chosen.

    Args:
        qkv: `[K, B * length, 3 * width]`, q, k and v side by side.
        length: Positions per sequence.
        heads: Heads; each has `width / heads` dimensions.

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
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return mixed.transpose(1, 2).reshape(num_members, rows, width)


def dropout(x: Tensor, p: Tensor, draws: Draws, site: int) -> Tensor:
    """Zero elements with each member's probability and scale the rest by `1 / (1 - p)`.

    `F.dropout` takes one p for all; here a counter hash is compared with `(K,)` of them.

    Args:
        x: `[K, ...]`.
        p: `(K,)` float64 in [0, 1).
        draws: The step's random draws.
        site: Where in the model this is; every place needs its own.
    """
    kept = keep(draws.key(site), x[0].numel(), p).view(x.shape)
    scale = (1.0 / (1.0 - p)).to(x.dtype).view(-1, *(1,) * (x.ndim - 1))
    return torch.where(kept, x * scale, 0.0)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy per member in nats: `[K, N, V]` and `(K, N)` int64 to `(K,)`."""
    flat = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return flat.view(targets.shape).mean(dim=1)
