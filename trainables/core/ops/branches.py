"""What stands between a residual stream and its branches: dropout and gates."""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.core.ops.layout import per_member
from trainables.core.rng import Draws, keep


def dropout(x: Tensor, p: Tensor, draws: Draws, site: int) -> Tensor:
    """Zero elements with each member's probability and scale the rest by `1 / (1 - p)`.

    `F.dropout` takes one p for all; here a counter hash is compared with `(K,)` of them. A micro-batch takes its own
    examples' part of the whole batch's mask.

    Args:
        x: `[K, ...]`, examples first.
        p: `(K,)` float64 in [0, 1).
        draws: The step's random draws.
        site: Where in the model this is; every place needs its own.
    """
    key, num = draws.key(site), x[0].numel()
    kept = keep(key, num, p, draws.part * num).view(x.shape)
    return torch.where(kept, x * per_member(1.0 / (1.0 - p), x), 0.0)


def gated_residual(x: Tensor, branch: Tensor, gate: Tensor) -> Tensor:
    """`x + gate * branch`, with a gate that is learned and begins at 0 or close to it.

    Args:
        x: `[K, ..., D]`.
        branch: The same shape.
        gate: `[K]`, one per member (ReZero), or `[K, D]`, one per feature (LayerScale).

    Returns:
        `[K, ..., D]`.

    Source: Bachlechner et al. 2021 (arXiv 2003.04887, ReZero); Touvron et al. 2021 (arXiv 2103.17239, LayerScale).
    """
    shape = (len(gate), *(1,) * (x.ndim - gate.ndim), *gate.shape[1:])
    return torch.addcmul(x, branch, gate.view(shape))
