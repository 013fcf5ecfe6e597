"""Linear warm-up, before any schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.base import HparamSpec
from trainables.core.schedules.base import Schedule, divisor, duration
from trainables.core.schedules.decay import Decay


@dataclass(frozen=True)
class Warmup:
    """Linear warm-up to another schedule's beginning.

    With age a and warm-up W, a schedule f becomes::

        min(1, (a + 1) / W) * f(max(a - W, 0))     with `shifts`
        min(1, (a + 1) / W) * f(max(a, W))         without

    so that the first step is not wasted on a learning rate of 0, and the last one of the warm-up has the whole of f.
    Continuous at W: f stands still during the warm-up.

    Source: Goyal et al. 2017 (arXiv 1706.02677), gradual warmup.

    Attributes:
        inner: The schedule f.
        shifts: Whether f's age 0 is the end of the warm-up. Without, f is asked for the member's own age: for
            schedules that count from the very beginning, such as `Power` and `Piecewise`.
    """

    inner: Schedule
    shifts: bool = True

    @property
    def hparams(self) -> Mapping[str, HparamSpec]:
        """`warmup_steps`, and those of the inner schedule."""
        return {"warmup_steps": duration("steps of linear warm-up; 0 is none"), **self.inner.hparams}

    def __call__(self, age: Tensor, hparams: Mapping[str, Tensor]) -> Tensor:
        """Return the multipliers, `(K,)` float64; see `Schedule`."""
        steps, warmup = age.to(torch.float64), hparams["warmup_steps"]
        rising = ((steps + 1.0) / divisor(warmup)).clamp(max=1.0)
        inner_age = (steps - warmup).clamp(min=0.0) if self.shifts else torch.maximum(steps, warmup)
        return rising * self.inner(inner_age, hparams)


@dataclass(frozen=True)
class WarmupCosine:
    """Linear warm-up, then a cosine from 1 to `final_lr_ratio`, then constant: `Warmup(Decay("cosine"))`.

    With age a, warm-up W, decay D and ratio r::

        (a + 1) / W                                       while a < W
        r + (1 - r) * (1 + cos(pi * min(1, (a - W) / D))) / 2    after it
        1                                                 after it, when D = 0

    Source: Loshchilov and Hutter 2017 (SGDR, arXiv 1608.03983), equation 5, without restarts.
    """

    @property
    def hparams(self) -> Mapping[str, HparamSpec]:
        """`warmup_steps`, `decay_steps` and `final_lr_ratio`."""
        return _WARMUP_COSINE.hparams

    def __call__(self, age: Tensor, hparams: Mapping[str, Tensor]) -> Tensor:
        """Return the multipliers, `(K,)` float64; see `Schedule`."""
        return _WARMUP_COSINE(age, hparams)


_WARMUP_COSINE = Warmup(Decay("cosine"))
