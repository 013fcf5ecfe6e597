"""Hyperparameters of a stack's members: float64 rows by name, on the device; the live ones are changed in place.

float64 so that what is read back is exactly what was asked for; the step casts to the parameters' dtype at the last
moment. A number is one value per slot, proportions are one for each of their parts.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from numbers import Real
from typing import TypeAlias

import torch
from torch import Tensor

from trainables.base import Hparams, HparamSpec, HparamValue, TrainableError
from trainables.errors import nearest

#: Farthest that a sum of weights may be from 1. As in `searchspaces`, which cannot be asked here.
SUM_TOLERANCE = 1e-9

#: A value as the table holds it: one number, or one for each part.
_Numbers: TypeAlias = tuple[float, ...]


class HparamTable:
    """The values in effect, by name and slot.

    Args:
        specs: Every hyperparameter of a member.
        capacity: Slots.
        device: Where the values are.
        fixed: Names of those that keep their defaults.

    Attributes:
        rows: Float64 views by name, for the training step: `(K,)`, or `[K, parts]`.
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
        self._defaults = {name: _numbers(name, spec, spec.default) for name, spec in self._specs.items()}
        # A copy for the host, to know without a synchronisation what is switched off everywhere.
        self._host = {name: [default] * capacity for name, default in self._defaults.items()}
        column = _column(self._defaults.values())
        self._values = column[:, None].repeat(1, capacity).to(device)
        blocks = self._values.split([len(default) for default in self._defaults.values()])
        self.rows: dict[str, Tensor] = {
            name: block.T if spec.parts else block[0]
            for (name, spec), block in zip(self._specs.items(), blocks, strict=True)
        }

    def check(self, name: str, value: HparamValue, *, admitting: bool = False) -> _Numbers:
        """Return the value as numbers the step can use.

        Args:
            name: Of the hyperparameter.
            value: Its value.
            admitting: Whether a member is admitted, which gives it those of its bucket as well as the live ones.

        Raises:
            TrainableError: The name is unknown or not live, or the value is no number, no proportions, or out of its
                bounds.
        """
        spec = self._specs.get(name)
        if spec is None:
            raise TrainableError(f"hparam {name!r} is unknown; {nearest(name, self._specs)}")
        if spec.kind != "live" and not (admitting and spec.kind == "bucket"):
            raise TrainableError(f"hparam {name!r} is {spec.kind}, not live; start a fresh member")
        numbers = _numbers(name, spec, value)
        if not spec.parts:
            _check_bounds(name, spec, value, numbers[0])
        if name in self._fixed and numbers != self._defaults[name]:
            raise TrainableError(f"hparam {name!r} is {value!r}, but fixed at {spec.default!r} for all members here")
        return numbers

    def checked(self, hparams: Hparams) -> list[_Numbers]:
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
        return frozenset(name for name, column in self._host.items() if not any(map(any, column[first:last])))

    def are_highest(self, name: str, slots: Iterable[int]) -> bool:
        """Whether a hyperparameter has its highest value in all of these slots."""
        return all(self._host[name][slot] == (self._specs[name].high,) for slot in slots)

    def fill(self, slot: int, values: Sequence[_Numbers]) -> None:
        """Set every hyperparameter of one slot, as `checked` returned them."""
        for column, numbers in zip(self._host.values(), values, strict=True):
            column[slot] = numbers
        self._values[:, slot] = _column(values)

    def change(self, slots: Sequence[int], values: Mapping[str, Sequence[HparamValue]]) -> None:
        """Set some hyperparameters of some slots; nothing changes if any value is refused."""
        checked: dict[str, list[_Numbers]] = {}
        for name, column in values.items():
            if len(column) != len(slots):
                raise TrainableError(f"hparam {name!r} has {len(column)} values for {len(slots)} slots")
            checked[name] = [self.check(name, value) for value in column]
        index = torch.tensor(slots, dtype=torch.int64, device=self._values.device)
        for name, column_ in checked.items():
            for slot, numbers in zip(slots, column_, strict=True):
                self._host[name][slot] = numbers
            row = self.rows[name]
            new = torch.tensor(column_, dtype=torch.float64, device=self._values.device)
            row.index_copy_(0, index, new.view(len(slots), *row.shape[1:]))

    def get(self, slot: int) -> dict[str, HparamValue]:
        """Read one slot back from the device."""
        numbers = iter(self._values[:, slot].tolist())
        return {name: _value(spec, [next(numbers) for _ in self._defaults[name]]) for name, spec in self._specs.items()}


def _column(values: Iterable[_Numbers]) -> Tensor:
    return torch.tensor([number for numbers in values for number in numbers], dtype=torch.float64)


def _value(spec: HparamSpec, numbers: Sequence[float]) -> HparamValue:
    if spec.parts:
        return dict(zip(spec.parts, numbers, strict=True))
    return int(numbers[0]) if isinstance(spec.default, int) else numbers[0]


def _numbers(name: str, spec: HparamSpec, value: HparamValue) -> _Numbers:
    return _weights(name, spec.parts, value) if spec.parts else (_finite(name, value),)


def _check_bounds(name: str, spec: HparamSpec, value: HparamValue, number: float) -> None:
    if isinstance(spec.default, int) and not number.is_integer():
        raise TrainableError(f"hparam {name!r} is {value!r}; give a whole number")
    low = -math.inf if spec.low is None else spec.low
    high = math.inf if spec.high is None else spec.high
    if not low <= number <= high:
        where = " or admit the member to another bucket's stack" if spec.kind == "bucket" else ""
        raise TrainableError(f"hparam {name!r} is {value!r}; give a value in [{low}, {high}]{where}")


def _weights(name: str, parts: Sequence[str], value: HparamValue) -> _Numbers:
    """Weights in the order of the parts."""
    if not isinstance(value, Mapping):
        raise TrainableError(f"hparam {name!r} is {value!r}; give a weight for each of {', '.join(parts)}")
    for part in value:
        if part not in parts:
            raise TrainableError(f"hparam {name!r} has no part {part!r}; {nearest(str(part), parts)}")
    for part in parts:
        if part not in value:
            raise TrainableError(f"hparam {name!r} has no weight of {part!r}; add one, which may be 0")
        if _finite(f"{name}[{part}]", value[part]) < 0.0:
            raise TrainableError(f"hparam {name!r} has {value[part]!r} of {part!r}; give a weight of at least 0")
    weights = tuple(float(value[part]) for part in parts)
    if abs(math.fsum(weights) - 1.0) > SUM_TOLERANCE:
        total = math.fsum(weights)
        raise TrainableError(f"hparam {name!r} has weights that sum to {total!r}, not 1; divide each by their sum")
    return weights


def _finite(name: str, value: HparamValue) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise TrainableError(f"hparam {name!r} is {value!r}; give a finite number")
    return float(value)
