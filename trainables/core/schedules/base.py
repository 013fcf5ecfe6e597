"""What a schedule is, and what its variants share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from trainables.base import HparamSpec
from trainables.core.batch_size import BATCH_SIZE
from trainables.errors import TrainableError


class Schedule(Protocol):
    """A multiplier of the learning rate and the live hyperparameters it reads.

    Implementations neither read from the device nor branch on data: choices between members are `torch.where`. For
    every allowed value of every hyperparameter the multiplier is finite and not negative.
    """

    @property
    def hparams(self) -> Mapping[str, HparamSpec]:
        """What the schedule reads, by name."""

    def __call__(self, age: Tensor, hparams: Mapping[str, Tensor]) -> Tensor:
        """Multipliers for the step that begins at `age`.

        Args:
            age: `(K,)` int64; float64 and perhaps not whole where one schedule calls another.
            hparams: `(K,)` float64 by name; more may be there than the schedule reads.

        Returns:
            `(K,)` float64.
        """


def duration(doc: str) -> HparamSpec:
    """A live number of steps, from 0 (the default), which switches its phase off.

    Its name must end in `_steps`, so that `InTokens` finds it.
    """
    return HparamSpec(kind="live", default=0, low=0, doc=doc)


def divisor(values: Tensor) -> Tensor:
    """The values, with 1 where there is nothing to divide by: `where` computes the branch it does not take, too."""
    return torch.where(values > 0, values, torch.ones_like(values))


def batch_ratio(batch_size: int, hparams: Mapping[str, Tensor]) -> Tensor | float:
    """The members' own batch sizes over the one that a schedule was made for, `(K,)`; 1 where they have none."""
    return hparams[BATCH_SIZE] / batch_size if BATCH_SIZE in hparams else 1.0


def whole(owner: str, name: str, value: object) -> None:
    """Refuse an option that is no whole number of at least 1.

    Raises:
        TrainableError: It is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise TrainableError(f"{owner} {name} is {value!r}; give a whole number >= 1")
