"""Decay with the inverse square root of age."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.base import HparamSpec
from trainables.core.schedules.base import divisor, duration


@dataclass(frozen=True)
class InverseSqrt:
    """1 / sqrt(1 + a / T) for age a and time scale T; 1 when T = 0.

    After a warm-up of W steps with T = W it is sqrt(W / a) of the member's own age a, the schedule of the first
    transformers. It has no end: it may go on for any number of steps.

    Source: Vaswani et al. 2017 (arXiv 1706.03762), section 5.3, equation 3, without the factor for the width; the time
    scale of its own follows Zhai et al. 2022 (Scaling Vision Transformers, arXiv 2106.04560).
    """

    @property
    def hparams(self) -> Mapping[str, HparamSpec]:
        """`timescale_steps`."""
        return {"timescale_steps": duration("steps after which lr is 1 / sqrt(2) of its peak; 0 is no decay")}

    def __call__(self, age: Tensor, hparams: Mapping[str, Tensor]) -> Tensor:
        """Return the multipliers, `(K,)` float64; see `Schedule`."""
        timescale = hparams["timescale_steps"]
        falling = (1.0 + age.to(torch.float64) / divisor(timescale)).rsqrt()
        return torch.where(timescale > 0, falling, torch.ones_like(falling))
