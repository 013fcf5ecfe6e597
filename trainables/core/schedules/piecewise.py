"""Whatever was recorded, replayed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.base import HparamSpec
from trainables.core.schedules.base import divisor, duration, whole
from trainables.errors import TrainableError, nearest

_INTERPOLATIONS = ("constant", "linear")


@dataclass(frozen=True)
class Piecewise:
    """Knots, each an age and a multiplier; between them constant or linear.

    To replay a recorded schedule, give `lr` its first value and each later one a knot: the age from which it held, and
    its ratio to the first.

    It begins with 1 at age 0. Constant: the multiplier of the last knot reached (age a of the member >= age of the
    knot). Linear: straight lines from knot to knot. After the last knot its multiplier stays. A knot that is not later
    than all knots before it is not in use; so all are unused as long as nothing is said.

    Attributes:
        num_knots: Number of knots, M.
        interpolation: `constant` or `linear`; linear is continuous.
    """

    num_knots: int = 8
    interpolation: str = "constant"

    def __post_init__(self) -> None:
        """Refuse what is no number of knots and no interpolation."""
        whole("piecewise schedule", "num_knots", self.num_knots)
        if self.interpolation not in _INTERPOLATIONS:
            mend = nearest(self.interpolation, _INTERPOLATIONS)
            raise TrainableError(f"piecewise interpolation {self.interpolation!r} is unknown; {mend}")

    @property
    def hparams(self) -> Mapping[str, HparamSpec]:
        """`knot_1_steps`, `knot_1_lr_ratio`, ..., `knot_M_lr_ratio`."""
        found = {}
        for i in range(1, self.num_knots + 1):
            found[f"knot_{i}_steps"] = duration(f"steps before knot {i}; 0 is no knot")
            found[f"knot_{i}_lr_ratio"] = HparamSpec(kind="live", default=1.0, low=0.0, doc=f"lr at knot {i}, of lr")
        return found

    def __call__(self, age: Tensor, hparams: Mapping[str, Tensor]) -> Tensor:
        """Return the multipliers, `(K,)` float64; see `Schedule`."""
        steps = age.to(torch.float64)
        value, latest = torch.ones_like(steps), torch.zeros_like(steps)
        for i in range(1, self.num_knots + 1):
            knot, ratio = hparams[f"knot_{i}_steps"], hparams[f"knot_{i}_lr_ratio"]
            if self.interpolation == "linear":
                progress = ((steps - latest) / divisor(knot - latest)).clamp(0.0, 1.0)
                # Before the last knot progress is 0; from it on, `value` is its ratio: a line between the two.
                reached = torch.lerp(value, ratio, progress)
            else:
                reached = torch.where(steps >= knot, ratio, value)
            value = torch.where(knot > latest, reached, value)
            latest = torch.maximum(latest, knot)
        return value
