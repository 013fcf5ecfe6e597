"""Continual training: up again, and once more through a schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.base import HparamSpec
from trainables.core.schedules.base import Schedule, divisor, duration


@dataclass(frozen=True)
class Rewarm:
    """A schedule, a linear ramp from where it is at some age, and then a schedule from its beginning.

    With age a, restart A, ramp R, schedule f before and g after::

        f(a)                                               while a < A, and always when A = 0
        f(A) + (g(0) - f(A)) * (a - A + 1) / R             for the R steps of the ramp
        g(a - A - R)                                       after it

    As in `Warmup`, the ramp's first step is already one up and its last one is at the top. Continuous for R > 0; the
    hyperparameters that f and g have in common hold for both.

    Source: Ibrahim et al. 2024 (arXiv 2403.08763), section 6.1: re-warming and re-decaying when new data arrive, there
    with a linear ramp of 1 % of the steps and a cosine anew (and a fresh optimizer state, which is kept here).

    Attributes:
        before: The schedule f.
        after: The schedule g; without a warm-up of its own, as the ramp is one.
    """

    before: Schedule
    after: Schedule

    @property
    def hparams(self) -> Mapping[str, HparamSpec]:
        """Those of both schedules, `rewarm_start_steps` and `rewarm_steps`."""
        return {
            **self.before.hparams,
            **self.after.hparams,
            "rewarm_start_steps": duration("steps in all before lr rises again; 0 is never"),
            "rewarm_steps": duration("steps of linear ramp up from there; 0 is a jump"),
        }

    def __call__(self, age: Tensor, hparams: Mapping[str, Tensor]) -> Tensor:
        """Return the multipliers, `(K,)` float64; see `Schedule`."""
        steps, ramp = age.to(torch.float64), hparams["rewarm_steps"]
        start = hparams["rewarm_start_steps"]
        # Never: a restart that no age reaches.
        start = torch.where(start > 0, start, torch.full_like(start, torch.inf))
        since = steps - start
        held = self.before(torch.minimum(steps, start), hparams)
        anew = self.after((since - ramp).clamp(min=0.0), hparams)
        progress = ((since + 1.0) / divisor(ramp)).clamp(0.0, 1.0)
        return torch.where(since >= 0, torch.lerp(held, anew, progress), held)
