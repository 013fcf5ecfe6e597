"""Scales: how a range of numbers fills [0, 1], as a continuum or as a grid of places."""

import math
from dataclasses import dataclass
from typing import Any


def clip(x: Any, low: Any, high: Any) -> Any:
    """Returns `x`, or the bound that it exceeds."""
    return min(max(x, low), high)


def sign(x: float) -> int:
    """Returns -1, 0 or 1."""
    return (x > 0) - (x < 0)


def to_unit(x: float, low: float, high: float, log: bool) -> float:
    """Returns where `x` lies between `low` (0) and `high` (1), by distance or by ratio (`log`)."""
    if log:
        x, low, high = math.log(x), math.log(low), math.log(high)
    return clip((x - low) / (high - low), 0.0, 1.0)


def from_unit(u: float, low: float, high: float, log: bool) -> float:
    """Returns the number at a place in [0, 1]; the inverse of `to_unit`."""
    if log:
        x = math.exp(from_unit(u, math.log(low), math.log(high), log=False))
        return clip(x, low, high)
    return clip(low + u * (high - low), low, high)


@dataclass(frozen=True, slots=True)
class Grid:
    """The places `low`, `low + step`, ...: `size` of them, in bins that fill [0, 1].

    Bin `i` is the numbers nearest to place `i`, and as wide as they are on the scale: all equally wide on the linear
    one; on the log scale, of a width that falls as `1 / place`. There the lowest bin begins half a step below `low`, or
    at half of `low` if that is higher.
    """

    low: float
    step: float
    size: int
    log: bool

    def index(self, place: float) -> int:
        """Returns the index of the nearest place."""
        return clip(math.floor((place - self.low) / self.step + 0.5), 0, self.size - 1)

    def perturb(self, index: int, factor: float) -> int:
        """Returns the index nearest to `factor` times the place, or a step towards it."""
        place = self.low + index * self.step
        last = self.low + (self.size - 1) * self.step
        moved = self.index(clip(place * factor, self.low, last))
        if moved != index:
            return moved
        return self.step_by(index, sign(factor - 1.0) * (-1 if place < 0 else 1))

    def step_by(self, index: int, steps: int) -> int:
        """Returns the index that many steps on, at most the end."""
        return clip(index + steps, 0, self.size - 1)

    def encode(self, index: int) -> float:
        """Returns the middle of the bin."""
        if not self.log:
            return (index + 0.5) / self.size
        low, high = self._edge(0), self._edge(self.size)
        edges = (self._edge(index), self._edge(index + 1))
        return sum(to_unit(edge, low, high, log=True) for edge in edges) / 2

    def decode(self, u: float) -> int:
        """Returns the index of the bin that holds `u`."""
        if not self.log:
            return clip(math.floor(u * self.size), 0, self.size - 1)
        return self.index(from_unit(u, self._edge(0), self._edge(self.size), log=True))

    def _edge(self, index: int) -> float:
        edge = self.low + (index - 0.5) * self.step
        return max(edge, self.low / 2) if index == 0 else edge
