"""Losses, one value per member."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, targets: Tensor, smoothing: Tensor | None = None) -> Tensor:
    """Mean cross entropy per member in nats, in float32 or better.

    Args:
        logits: `[K, N, V]`.
        targets: `(K, N)` int64.
        smoothing: `(K,)` share of the target spread evenly over all V classes, in [0, 1], or None for none.
            `F.cross_entropy` takes one float for all.

    Returns:
        `(K,)`.

    Source: Szegedy et al. 2016, section 7 (label smoothing).
    """
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()  # sums over classes and tokens need more than 8 or 11 bits
    flat = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    hard = flat.view(targets.shape).mean(dim=1)
    if smoothing is None:
        return hard
    share = smoothing.to(hard.dtype)
    even = -logits.log_softmax(-1).mean(-1).mean(1)
    # A class ruled out by a logit of -inf costs those who smooth, not those who do not: 0 * inf would be NaN.
    return torch.where(share > 0, (1.0 - share) * hard + share * even, hard)
