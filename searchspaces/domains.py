"""Domains: what a single hyperparameter may be, how it moves, and where it lies in the unit cube.

`Float`, `Int`, `Choice` and `Simplex` are values without behaviour in common; a `Domain` is one of
them, and each answers the same calls:

| call | meaning |
|---|---|
| `contains(value)` | is the value allowed |
| `mend(value)` | what to do about a value that is not |
| `sample(rng)` | a draw from the prior |
| `perturb(value, rng, factors)` | PBT's explore step, always within the domain |
| `encode(value)`, `decode(u)` | to and from `num_dims` columns of the unit cube |
| `labels(name)` | the names of those columns |

Unless a method says otherwise, `sample(rng)` is `decode(rng.random(num_dims))`: a uniform point of
the unit cube *is* the prior, so a space-filling design (Sobol, Latin hypercube) passed through
`decode` follows it too.

`contains` comes first: the other calls take a value that the domain contains.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import accumulate, pairwise
from numbers import Integral
from typing import TypeAlias

import numpy as np

from searchspaces._checks import (
    Scalar,
    When,
    check_bounds,
    check_flag,
    check_step,
    exact,
    is_real,
    same,
    to_conditions,
    to_float,
    to_int,
    to_scalars,
    write_number,
)
from searchspaces._scales import Grid, clip, from_unit, sign, to_unit
from searchspaces.errors import SpaceError, suggest

# How far from 1 the weights of a Simplex may sum: rounding, not a mistake of the user.
SUM_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Float:
    """A real number in `[low, high]`.

    Args:
        low: Smallest value.
        high: Largest value.
        log: Uniform in `log x` rather than in `x`; needs `low > 0`.
        step: Only `low`, `low + step`, ... up to `high`, exact in decimal: 0, 0.1, 0.2, 0.3.
        when: Active only where each named parent has (one of) the given values.
        log_complement: Uniform in `log(1 - x)`, and perturbed by multiplying `1 - x`: the scale of
            a decay rate such as Adam's beta, whose memory is `1 / (1 - beta)` steps. Needs
            `high < 1`; excludes `log` and `step`.

    Raises:
        SpaceError: A bound, the step or the scale is unusable.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    when: When | None = field(default=None, hash=False)
    log_complement: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        _set(self, "low", to_float("Float.low", self.low))
        _set(self, "high", to_float("Float.high", self.high))
        _set(self, "when", to_conditions("Float", self.when))
        check_flag("Float.log", self.log)
        check_flag("Float.log_complement", self.log_complement)
        check_bounds("Float", self.low, self.high, self.log, smallest=1.0 if self.log_complement else 0.0)
        if self.step is not None:
            _set(self, "step", to_float("Float.step", self.step))
            check_step("Float", self.low, self.high, self.step)
        if self.log_complement:
            self._check_complement()

    def _check_complement(self) -> None:
        if self.high >= 1:
            raise SpaceError(f"Float.high={self.high!r} has no log(1 - x): lower it below 1")
        if self.log or self.step is not None:
            other = "log=True" if self.log else f"step={self.step!r}"
            raise SpaceError(f"Float.{other} excludes log_complement=True: drop one of the two")

    def __str__(self) -> str:
        steps = "" if self.step is None else f" in steps of {self.step!r}"
        return f"a number in [{self.low!r}, {self.high!r}]{steps}"

    @property
    def num_dims(self) -> int:
        """One column."""
        return 1

    def labels(self, name: str) -> tuple[str, ...]:
        """Returns the column's name."""
        return (name,)

    def contains(self, value: object) -> bool:
        """Is it a number within the bounds and, with a step, a multiple of it from `low`."""
        return is_real(value) and self._nearest(float(value)) == float(value)

    def mend(self, value: object) -> str:
        """Returns the nearest allowed number in words."""
        if not is_real(value):
            return write_number(value)
        return f"the nearest is {self._nearest(float(value))!r}"

    def sample(self, rng: np.random.Generator) -> float:
        """Draws from the uniform distribution on the domain's scale (linear, log or `log(1-x)`)."""
        return self.decode(rng.random(1).tolist())

    def perturb(self, value: float, rng: np.random.Generator, factors: Sequence[float]) -> float:
        """Multiplies by one of `factors`, drawn uniformly, and clips to the bounds.

        The factor multiplies the value itself on every scale (`1 - value` with `log_complement`),
        below zero too. So zero stays zero, and only resampling takes a member away from it; the toy
        problem of the paper relies on that. With a step, the product goes to the nearest allowed
        number, and one step along the drawn direction if that is the one it came from (see `Int`).

        Source: Jaderberg et al. 2017, Population Based Training, section 4.1.1 (explore: perturb).
        """
        value, factor = float(value), _draw(rng, factors)
        if self.step is not None:
            grid = self._grid()
            return self._at(grid.perturb(grid.index(value), factor))
        if self.log_complement:
            return clip(1.0 - (1.0 - value) * factor, self.low, self.high)
        return clip(value * factor, self.low, self.high)

    def encode(self, value: float) -> list[float]:
        """Returns the place in [0, 1] on the domain's scale; a stepped value is its bin's middle."""
        value = float(value)
        if self.step is not None:
            grid = self._grid()
            return [grid.encode(grid.index(value))]
        if self.log_complement:
            return [1.0 - to_unit(1.0 - value, 1.0 - self.high, 1.0 - self.low, log=True)]
        return [to_unit(value, self.low, self.high, self.log)]

    def decode(self, u: Sequence[float]) -> float:
        """Returns the value at a place in [0, 1]; the inverse of `encode`.

        A round trip is exact with a step; otherwise to 1e-12 of the value (`log`), of the largest
        bound (linear), or of the larger of that and 1 (`log_complement`).
        """
        if self.step is not None:
            return self._at(self._grid().decode(u[0]))
        if self.log_complement:
            complement = from_unit(1.0 - u[0], 1.0 - self.high, 1.0 - self.low, log=True)
            return clip(1.0 - complement, self.low, self.high)
        return from_unit(u[0], self.low, self.high, self.log)

    def _nearest(self, value: float) -> float:
        value = clip(value, self.low, self.high)
        return value if self.step is None else self._at(self._grid().index(value))

    def _at(self, index: int) -> float:
        """Returns `low + index * step` as it would be written: 0.3, not 0.30000000000000004."""
        low, step = self._lattice()
        return float(low + index * step)

    def _grid(self) -> Grid:
        low, step = self._lattice()
        return Grid(self.low, float(step), int((exact(self.high) - low) // step) + 1, self.log)

    def _lattice(self) -> tuple[Fraction, Fraction]:
        assert self.step is not None  # only a stepped Float has one
        return exact(self.low), exact(self.step)


@dataclass(frozen=True, slots=True)
class Int:
    """An integer in `[low, high]`, both ends included.

    Args:
        low: Smallest value.
        high: Largest value.
        log: The nearest integer to a draw that is uniform in `log x`; needs `low > 0`.
        step: Only `low`, `low + step`, ... up to `high`.
        when: Active only where each named parent has (one of) the given values.

    Raises:
        SpaceError: A bound, the step or the scale is unusable.
    """

    low: int
    high: int
    log: bool = False
    step: int = 1
    when: When | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        for name in ("low", "high", "step"):
            _set(self, name, to_int(f"Int.{name}", getattr(self, name)))
        _set(self, "when", to_conditions("Int", self.when))
        check_flag("Int.log", self.log)
        check_bounds("Int", self.low, self.high, self.log)
        check_step("Int", self.low, self.high, self.step)

    def __str__(self) -> str:
        steps = "" if self.step == 1 else f" in steps of {self.step}"
        return f"an integer in [{self.low}, {self.high}]{steps}"

    @property
    def num_dims(self) -> int:
        """One column."""
        return 1

    def labels(self, name: str) -> tuple[str, ...]:
        """Returns the column's name."""
        return (name,)

    def contains(self, value: object) -> bool:
        """Is it an integer (not 8.0, not True) within the bounds and on the step."""
        if not isinstance(value, Integral) or isinstance(value, bool):
            return False
        return int(value) in range(self.low, self.high + 1, self.step)

    def mend(self, value: object) -> str:
        """Returns the nearest allowed integer in words."""
        if not is_real(value):
            return write_number(value)
        near = clip(float(value), self.low, self.high)
        return f"the nearest is {self._at(self._grid().index(near))}"

    def sample(self, rng: np.random.Generator) -> int:
        """Draws an allowed integer, each as likely as any other (or as its share of the log)."""
        return self.decode(rng.random(1).tolist())

    def perturb(self, value: int, rng: np.random.Generator, factors: Sequence[float]) -> int:
        """Multiplies by one of `factors`, drawn uniformly, and goes to the nearest allowed integer.

        Where that is the integer it came from, it moves one step along the drawn direction: up for
        a factor above 1 and down below it (away from and towards zero for negative integers), if
        the bounds allow. So 1 with bounds [1, 8] becomes 2 and never 0, and zero can be left.
        """
        grid = self._grid()
        return self._at(grid.perturb(grid.index(value), _draw(rng, factors)))

    def encode(self, value: int) -> list[float]:
        """Returns the middle of the value's bin; the bins fill [0, 1] as the values' shares do."""
        grid = self._grid()
        return [grid.encode(grid.index(value))]

    def decode(self, u: Sequence[float]) -> int:
        """Returns the integer whose bin holds the place in [0, 1]."""
        return self._at(self._grid().decode(u[0]))

    def _at(self, index: int) -> int:
        return self.low + index * self.step

    def _grid(self) -> Grid:
        return Grid(self.low, self.step, (self.high - self.low) // self.step + 1, self.log)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few named options.

    Args:
        options: Strings, numbers or bools, no two alike.
        ordered: The options have an order (small, medium, large): a perturbation goes to a
            neighbour, and one column of the unit cube holds them as an `Int` would.
        when: Active only where each named parent has (one of) the given values.

    Raises:
        SpaceError: There is no option, or one is not a scalar, or two are alike.
    """

    options: Sequence[Scalar]
    ordered: bool = False
    when: When | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        _set(self, "options", to_scalars("Choice.options", self.options))
        _set(self, "when", to_conditions("Choice", self.when))
        check_flag("Choice.ordered", self.ordered)

    def __str__(self) -> str:
        return f"one of {', '.join(map(repr, self.options))}"

    @property
    def num_dims(self) -> int:
        """One column if ordered or of at most two options, otherwise one per option."""
        return 1 if self._binned() else len(self.options)

    def labels(self, name: str) -> tuple[str, ...]:
        """Returns the columns' names: `optimizer`, or `optimizer=sgd`, `optimizer=adamw`, ..."""
        if self._binned():
            return (name,)
        return tuple(f"{name}={option}" for option in self.options)

    def contains(self, value: object) -> bool:
        """Is it one of the options (`True` is not 1)."""
        return any(same(option, value) for option in self.options)

    def mend(self, value: object) -> str:
        """Returns the nearest option in words."""
        return suggest(value, self.options)

    def sample(self, rng: np.random.Generator) -> Scalar:
        """Draws an option, each as likely as any other."""
        return self.decode(rng.random(self.num_dims).tolist())

    def perturb(self, value: Scalar, rng: np.random.Generator, factors: Sequence[float]) -> Scalar:
        """Goes to the next option for a factor above 1 and to the previous below it, if ordered.

        At an end it stays. Unordered options have no neighbours: they change by resampling only.
        """
        index = self._index(value)
        if self.ordered:
            index = self._grid().step_by(index, sign(_draw(rng, factors) - 1.0))
        return self.options[index]

    def encode(self, value: Scalar) -> list[float]:
        """Returns the bin's middle if ordered, otherwise a one-hot row.

        One-hot puts unordered options at equal distances, as the kernel of a Gaussian process
        should see them; for two options a single column already does.
        """
        index = self._index(value)
        if self._binned():
            return [self._grid().encode(index)]
        return [float(index == column) for column in range(len(self.options))]

    def decode(self, u: Sequence[float]) -> Scalar:
        """Returns the option of the bin, or of the largest column (the first of equals)."""
        if self._binned():
            return self.options[self._grid().decode(u[0])]
        return self.options[max(range(len(u)), key=u.__getitem__)]

    def _index(self, value: Scalar) -> int:
        return next(index for index, option in enumerate(self.options) if same(option, value))

    def _binned(self) -> bool:
        return self.ordered or len(self.options) <= 2

    def _grid(self) -> Grid:
        return Grid(0, 1, len(self.options), log=False)


@dataclass(frozen=True, slots=True)
class Simplex:
    """Proportions: a non-negative weight for each part, together 1 (a data mixture, say).

    Args:
        parts: Names of the proportions, two at least.
        concentration: Of the symmetric Dirichlet prior; 1 is uniform over the simplex, above 1
            prefers even mixtures, below 1 prefers few parts.
        when: Active only where each named parent has (one of) the given values.

    Raises:
        SpaceError: Fewer than two parts, two alike, or a concentration that is not positive.
    """

    parts: Sequence[str]
    concentration: float = 1.0
    when: When | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        _set(self, "parts", to_scalars("Simplex.parts", self.parts))
        _set(self, "concentration", to_float("Simplex.concentration", self.concentration))
        _set(self, "when", to_conditions("Simplex", self.when))
        if len(self.parts) < 2 or not all(isinstance(part, str) for part in self.parts):
            raise SpaceError(f"Simplex.parts={self.parts!r} are not two or more names: write [web, code]")
        if self.concentration <= 0:
            raise SpaceError(f"Simplex.concentration={self.concentration!r} is not positive: 1.0 is uniform")

    def __str__(self) -> str:
        return f"weights of {', '.join(self.parts)} that sum to 1"

    @property
    def num_dims(self) -> int:
        """One column fewer than parts: the last weight is what the others leave."""
        return len(self.parts) - 1

    def labels(self, name: str) -> tuple[str, ...]:
        """Returns the columns' names: `mix[web]`, `mix[code]`, ... but for the last part."""
        return tuple(f"{name}[{part}]" for part in self.parts[:-1])

    def contains(self, value: object) -> bool:
        """Is it a mapping of exactly the parts to non-negative weights that sum to 1 (1e-9)."""
        if not isinstance(value, Mapping) or set(value) != set(self.parts):
            return False
        if not all(is_real(weight) and weight >= 0 for weight in value.values()):
            return False
        return abs(math.fsum(value.values()) - 1.0) <= SUM_TOLERANCE

    def mend(self, value: object) -> str:
        """Returns what is wrong with the weights in words."""
        if not isinstance(value, Mapping):
            return f"give a mapping such as {dict.fromkeys(self.parts, 1 / len(self.parts))!r}"
        for part in value:
            if part not in self.parts:
                return f"{part!r} is no part, {suggest(part, self.parts)}"
        absent = [part for part in self.parts if part not in value]
        if absent:
            return f"add {', '.join(absent)} (a weight may be 0)"
        return "divide non-negative weights by their sum"

    def sample(self, rng: np.random.Generator) -> dict[str, float]:
        """Draws from the symmetric Dirichlet distribution.

        At `concentration` 1 this is `decode(rng.random(num_dims))`. At others numpy draws it:
        `decode` does not depend on the concentration (see there).
        """
        if self.concentration == 1.0:
            return self.decode(rng.random(self.num_dims).tolist())
        weights = rng.dirichlet([self.concentration] * len(self.parts)).tolist()
        return dict(zip(self.parts, weights, strict=True))

    def perturb(
        self, value: Mapping[str, float], rng: np.random.Generator, factors: Sequence[float]
    ) -> dict[str, float]:
        """Multiplies each weight by a factor of its own and divides by the sum; zero stays zero."""
        drawn = [_draw(rng, factors) for _ in self.parts]
        # Relative to the largest factor on a positive weight, the sum can neither over- nor
        # underflow: that weight itself stays in it.
        largest = max(f for f, part in zip(drawn, self.parts, strict=True) if value[part] > 0)
        scaled = [
            float(value[part]) * (f / largest) if value[part] > 0 else 0.0
            for f, part in zip(drawn, self.parts, strict=True)
        ]
        total = math.fsum(scaled)
        return {part: w / total for part, w in zip(self.parts, scaled, strict=True)}

    def encode(self, value: Mapping[str, float]) -> list[float]:
        """Returns the stick-breaking coordinates of the weights.

        With `k` parts after part `i`, `u_i = (1 - w_i / (w_i + ... + w_last)) ** k`: what breaking
        off part `i` leaves of the stick. That share is Beta(k, 1) under the uniform distribution,
        so `u_i` is uniform. Where no stick is left to break, 0.5.
        """
        # left[i] is the stick before part i is broken off: w_i + ... + w_last.
        left = list(accumulate(float(value[part]) for part in reversed(self.parts)))[::-1]
        return [
            (after / before) ** (self.num_dims - i) if before > 0 else 0.5
            for i, (before, after) in enumerate(pairwise(left))
        ]

    def decode(self, u: Sequence[float]) -> dict[str, float]:
        """Returns the weights at a point of the cube: uniform points fill the simplex uniformly.

        The inverse of `encode`, to 1e-12. The coordinates are the same at every `concentration`:
        those of Dirichlet(a) need Beta quantiles, which in float64 cannot tell small weights from
        zero when `a > 1`.

        Source: stick-breaking of the Dirichlet distribution, Connor and Mosimann 1969, Concepts of
        independence for proportions with a generalization of the Dirichlet distribution.
        """
        weights, stick = [], 1.0
        for i, place in enumerate(u):
            left = stick * place ** (1.0 / (self.num_dims - i))
            weights.append(stick - left)
            stick = left
        return dict(zip(self.parts, [*weights, stick], strict=True))


Domain: TypeAlias = Float | Int | Choice | Simplex


def _draw(rng: np.random.Generator, factors: Sequence[float]) -> float:
    return float(factors[int(rng.integers(len(factors)))])


def _set(domain: object, name: str, value: object) -> None:
    object.__setattr__(domain, name, value)
