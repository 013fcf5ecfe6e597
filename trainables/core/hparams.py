"""Hyperparameters of a stack's members: one float64 `[capacity]` row per name, on the device; the live ones are
changed in place.

float64 so that what is read back is exactly what was asked for; the step casts to the parameters' dtype at the last
moment.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from numbers import Real

import torch
from torch import Tensor

from trainables.base import Hparams, HparamSpec, HparamValue, TrainableError
from trainables.errors import nearest


class HparamTable:
    """The values in effect, by name and slot.

    Args:
        specs: Every hyperparameter of a member.
        capacity: Slots.
        device: Where the values are.
        fixed: Names of those that keep their defaults.

    Attributes:
        rows: `(K,)` float64 views by name, for the training step.
    """

    def __init__(
        self,
        specs: Mapping[str, HparamSpec],
        capacity: int,
        device: torch.device,
        fixed: Collection[str] = (),
    ) -> None:
        self._specs = dict(specs)
        self._fixed = frozenset(fixed)
        self._index = {name: i for i, name in enumerate(self._specs)}
        defaults = torch.tensor(
            [_number(name, spec.default) for name, spec in self._specs.items()],
            dtype=torch.float64,
        )
        # A copy for the host, to know without a synchronisation what is switched off everywhere.
        self._host = {name: [float(spec.default)] * capacity for name, spec in specs.items()}
        self._values = defaults[:, None].repeat(1, capacity).to(device)
        self.rows: dict[str, Tensor] = dict(zip(self._specs, self._values, strict=True))

    def check(self, name: str, value: HparamValue, *, admitting: bool = False) -> float:
        """Return the value as a number the step can use.

        Args:
            name: Of the hyperparameter.
            value: Its value.
            admitting: Whether a member is admitted, which gives it those of its bucket as well as the live ones.

        Raises:
            TrainableError: The name is unknown or not live, or the value is no number or out of its bounds.
        """
        spec = self._specs.get(name)
        if spec is None:
            raise TrainableError(f"hparam {name!r} is unknown; {nearest(name, self._specs)}")
        if spec.kind != "live" and not (admitting and spec.kind == "bucket"):
            raise TrainableError(f"hparam {name!r} is {spec.kind}, not live; start a fresh member")
        number = _number(name, value)
        if isinstance(spec.default, int) and not number.is_integer():
            raise TrainableError(f"hparam {name!r} is {value!r}; give a whole number")
        if name in self._fixed and number != spec.default:
            raise TrainableError(f"hparam {name!r} is {value!r}, but fixed at {spec.default!r} for all members here")
        low = -math.inf if spec.low is None else spec.low
        high = math.inf if spec.high is None else spec.high
        if not low <= number <= high:
            where = " or admit the member to another bucket's stack" if spec.kind == "bucket" else ""
            raise TrainableError(f"hparam {name!r} is {value!r}; give a value in [{low}, {high}]{where}")
        return number

    def checked(self, hparams: Hparams) -> list[float]:
        """All values of one member, defaults filled in, in the table's order."""
        given = {name: self.check(name, value, admitting=True) for name, value in hparams.items()}
        return [
            given[name] if name in given else self.check(name, spec.default, admitting=True)
            for name, spec in self._specs.items()
        ]

    @property
    def absent(self) -> frozenset[str]:
        """Names of the hyperparameters without effect in every slot, for good: 0, or all there is of the bucket's."""
        specs = {name: self._specs[name] for name in self._fixed & self._specs.keys()}
        return frozenset(name for name, s in specs.items() if s.default == (s.high if s.kind == "bucket" else 0))

    def off(self, first: int = 0, last: int | None = None) -> frozenset[str]:
        """Names of the hyperparameters that are 0 in every slot of `[first, last)`."""
        return frozenset(name for name, column in self._host.items() if not any(column[first:last]))

    def are_highest(self, name: str, slots: Iterable[int]) -> bool:
        """Whether a hyperparameter has its highest value in all of these slots."""
        return all(self._host[name][slot] == self._specs[name].high for slot in slots)

    def fill(self, slot: int, numbers: Sequence[float]) -> None:
        """Set every hyperparameter of one slot, as `checked` returned them."""
        for column, number in zip(self._host.values(), numbers, strict=True):
            column[slot] = number
        self._values[:, slot] = torch.tensor(numbers, dtype=torch.float64)

    def change(self, slots: Sequence[int], values: Mapping[str, Sequence[HparamValue]]) -> None:
        """Set some hyperparameters of some slots; nothing changes if any value is refused."""
        checked: dict[str, list[float]] = {}
        for name, column in values.items():
            if len(column) != len(slots):
                raise TrainableError(f"hparam {name!r} has {len(column)} values for {len(slots)} slots")
            checked[name] = [self.check(name, value) for value in column]
        index = torch.tensor(slots, dtype=torch.int64, device=self._values.device)
        for name, numbers in checked.items():
            for slot, number in zip(slots, numbers, strict=True):
                self._host[name][slot] = number
            column_ = torch.tensor(numbers, dtype=torch.float64, device=self._values.device)
            self.rows[name].index_copy_(0, index, column_)

    def get(self, slot: int) -> dict[str, HparamValue]:
        """Read one slot back from the device."""
        numbers: list[float] = self._values[:, slot].tolist()
        return {
            name: int(number) if isinstance(spec.default, int) else number
            for (name, spec), number in zip(self._specs.items(), numbers, strict=True)
        }


def _number(name: str, value: HparamValue) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise TrainableError(f"hparam {name!r} is {value!r}; give a finite number")
    return float(value)
