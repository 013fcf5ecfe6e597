"""Durations in tokens instead of steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from trainables.base import HparamSpec
from trainables.core.schedules.base import Schedule, batch_ratio, whole


@dataclass(frozen=True)
class InTokens:
    """A schedule whose durations are given in tokens: `warmup_tokens` for `warmup_steps`, and so on.

    A member has trained age * tokens_per_step tokens, so a duration of n tokens is one of n / tokens_per_step steps,
    whole or not. With durations that are multiples of tokens_per_step the result is, bit for bit, that of the inner
    schedule with as many steps. The tokens of a member with a batch size of its own are counted as if its weights had
    always been trained with that.

    Attributes:
        inner: The schedule; hyperparameters whose name ends in `_steps` are its durations.
        tokens_per_step: Tokens of one member in a step.
        batch_size: The batch size at which it has them.
    """

    inner: Schedule
    tokens_per_step: int
    batch_size: int = 1

    def __post_init__(self) -> None:
        """Refuse what is no number of tokens."""
        whole("schedule", "tokens_per_step", self.tokens_per_step)

    @property
    def hparams(self) -> Mapping[str, HparamSpec]:
        """The inner schedule's, with durations renamed."""
        return {
            _swapped(name, "_steps", "_tokens"): replace(spec, doc=spec.doc.replace("steps", "tokens"))
            if name.endswith("_steps")
            else spec
            for name, spec in self.inner.hparams.items()
        }

    def __call__(self, age: Tensor, hparams: Mapping[str, Tensor]) -> Tensor:
        """Return the multipliers, `(K,)` float64; see `Schedule`."""
        tokens_per_step = self.tokens_per_step * batch_ratio(self.batch_size, hparams)
        durations = {
            _swapped(name, "_tokens", "_steps"): tokens / tokens_per_step
            for name, tokens in hparams.items()
            if name.endswith("_tokens")
        }
        return self.inner(age, {**hparams, **durations})


def _swapped(name: str, suffix: str, other: str) -> str:
    return name.removesuffix(suffix) + other if name.endswith(suffix) else name
