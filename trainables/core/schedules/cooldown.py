"""A decay at the end of another schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.base import HparamSpec
from trainables.core.schedules.base import Schedule, duration
from trainables.core.schedules.decay import Decay


@dataclass(frozen=True)
class Cooldown:
    """A schedule until some age, and from there a decay of the value it had then.

    With age a, start S, decay D, schedule f and decay d::

        f(a)                 while a < S, and always when D = 0
        f(S) * d(a - S)      from there on

    Around `Constant`, with a warm-up before it, this is warmup-stable-decay (WSD). Continuous where f is.

    Source: Hu et al. 2024 (MiniCPM, arXiv 2404.06395), section 4.2, equation 1; Hägele et al. 2024 (arXiv 2405.18392),
    section 3, equation 1; around the power schedule, Shen et al. 2024 (arXiv 2408.13359), equation 8.

    Attributes:
        inner: The schedule f.
        decay: The decay d.
        begins: Name of the hyperparameter S, ending in `_steps`. Give it another than `stable_steps` where ages count
            from before a warm-up.
    """

    inner: Schedule
    decay: Decay
    begins: str = "stable_steps"

    @property
    def hparams(self) -> Mapping[str, HparamSpec]:
        """Those of the inner schedule, the start, and those of the decay."""
        after = "after the warm-up" if self.begins == "stable_steps" else "in all, a warm-up included,"
        return {
            **self.inner.hparams,
            self.begins: duration(f"steps {after} before the decay begins"),
            **self.decay.hparams,
        }

    def __call__(self, age: Tensor, hparams: Mapping[str, Tensor]) -> Tensor:
        """Return the multipliers, `(K,)` float64; see `Schedule`."""
        steps, start = age.to(torch.float64), hparams[self.begins]
        held = torch.where(hparams["decay_steps"] > 0, torch.minimum(steps, start), steps)
        return self.inner(held, hparams) * self.decay((steps - start).clamp(min=0.0), hparams)
