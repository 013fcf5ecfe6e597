"""No schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.base import HparamSpec


@dataclass(frozen=True)
class Constant:
    """The learning rate as given."""

    @property
    def hparams(self) -> Mapping[str, HparamSpec]:
        """None."""
        return {}

    def __call__(self, age: Tensor, hparams: Mapping[str, Tensor]) -> Tensor:
        """Return ones, `(K,)` float64."""
        return torch.ones_like(age, dtype=torch.float64)
