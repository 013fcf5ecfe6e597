"""Learning-rate schedules: a per-member multiplier of `lr` as a function of age.

A schedule reads `age`, the steps in the ancestry of the weights, not `consumed`: a member that copies a donor goes on
where the donor was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from trainables.base import HparamSpec


class Schedule(Protocol):
    """A multiplier of the learning rate and the live hyperparameters it reads."""

    @property
    def hparams(self) -> Mapping[str, HparamSpec]:
        """What the schedule reads, by name."""

    def __call__(self, age: Tensor, hparams: Mapping[str, Tensor]) -> Tensor:
        """Multipliers `(K,)` float64 for the step that begins at `age`, `(K,)` int64."""


@dataclass(frozen=True)
class Constant:
    """The learning rate as given."""

    hparams: Mapping[str, HparamSpec] = field(default_factory=dict)

    def __call__(self, age: Tensor, hparams: Mapping[str, Tensor]) -> Tensor:
        """Return ones."""
        return torch.ones_like(age, dtype=torch.float64)


@dataclass(frozen=True)
class WarmupCosine:
    """Linear warm-up, then a cosine from 1 to `final_lr_ratio`, then constant.

    With age a, warm-up W, decay D and ratio r::

        (a + 1) / W                                       while a < W
        r + (1 - r) * (1 + cos(pi * min(1, (a - W) / D))) / 2    after it
        1                                                 after it, when D = 0

    Source: Loshchilov and Hutter 2017 (SGDR), equation 5, without restarts.
    """

    hparams: Mapping[str, HparamSpec] = field(
        default_factory=lambda: {
            "warmup_steps": HparamSpec(kind="live", default=0, low=0, doc="steps of linear warm-up; 0 is none"),
            "decay_steps": HparamSpec(kind="live", default=0, low=0, doc="steps of cosine decay after it; 0 is none"),
            "final_lr_ratio": HparamSpec(kind="live", default=0.1, low=0.0, high=1.0, doc="lr after the decay, of lr"),
        }
    )

    def __call__(self, age: Tensor, hparams: Mapping[str, Tensor]) -> Tensor:
        """Return the multipliers; branches are `torch.where`, so members differ freely."""
        warmup, decay = hparams["warmup_steps"], hparams["decay_steps"]
        ratio = hparams["final_lr_ratio"]
        steps = age.to(torch.float64)
        rising = (steps + 1.0) / warmup.clamp(min=1.0)
        progress = ((steps - warmup) / decay.clamp(min=1.0)).clamp(0.0, 1.0)
        falling = ratio + (1.0 - ratio) * 0.5 * (1.0 + torch.cos(math.pi * progress))
        settled = torch.where(decay > 0, falling, torch.ones_like(falling))
        return torch.where(steps < warmup, rising, settled)
