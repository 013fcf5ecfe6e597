"""The power schedule: a learning rate for a batch size and the tokens trained so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.base import HparamSpec
from trainables.core.schedules.base import batch_ratio, divisor, whole


@dataclass(frozen=True)
class Power:
    """A learning rate of min(lr, B * a * n ** b), of which `lr` is only the upper bound.

    B is the batch size in sequences, n the tokens trained so far (1 at the beginning), a and b live. As a multiplier::

        min(1, B * a * n ** b / lr)       1 where lr = 0

    n counts from the very beginning: put it under a `Warmup` that does not shift, which then leads to the value at its
    end, as in the paper. It needs no horizon, and a and b carry over to other batch sizes, numbers of tokens and, under
    mu-P, widths. The paper's `lr` is 0.02.

    Source: Shen et al. 2024 (arXiv 2408.13359), section 4, equations 7 and 8, with its a = 4 and b = -0.51.

    Attributes:
        batch_size: B, sequences of one member in a step; a member with a batch size of its own has that.
        tokens_per_step: Tokens of one member in a step, at that batch size.
    """

    batch_size: int
    tokens_per_step: int

    def __post_init__(self) -> None:
        """Refuse what is no number of sequences or tokens."""
        whole("power schedule", "batch_size", self.batch_size)
        whole("power schedule", "tokens_per_step", self.tokens_per_step)

    @property
    def hparams(self) -> Mapping[str, HparamSpec]:
        """`power_a` and `power_b`. It reads `lr` too, which is the optimizer's to describe."""
        return {
            "power_a": HparamSpec(kind="live", default=4.0, low=0.0, high=1e6, doc="a in lr = batch * a * tokens ** b"),
            "power_b": HparamSpec(kind="live", default=-0.51, low=-2.0, high=0.0, doc="b in it"),
        }

    def __call__(self, age: Tensor, hparams: Mapping[str, Tensor]) -> Tensor:
        """Return the multipliers, `(K,)` float64; see `Schedule`."""
        ratio = batch_ratio(self.batch_size, hparams)
        tokens = (age.to(torch.float64) * (self.tokens_per_step * ratio)).clamp(min=1.0)
        rate = self.batch_size * ratio * hparams["power_a"] * tokens ** hparams["power_b"]
        lr = hparams["lr"]
        multiplier = (rate / divisor(lr)).clamp(max=1.0)
        return torch.where(lr > 0, multiplier, torch.ones_like(multiplier))
