"""Problems in closed form that cost nothing to train: a deceptive one, and a noisy one.

Each is a rule for one step of one member; `ToyStack` makes it a stack. They show how strategies decide, and nothing
about speed: slots are trained one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Protocol

import numpy as np
import torch

from trainables.arguments import check_slots
from trainables.base import (
    Capabilities,
    Hparams,
    HparamSpec,
    HparamValue,
    Metrics,
    MetricSpec,
    Place,
    Shard,
    Split,
    Stack,
    State,
    TrainableError,
)

_BUCKET = "toy"
#: The objective of both toys, to be maximised.
METRIC = "Q"


@dataclass(frozen=True, slots=True)
class Moment:
    """When a step is taken, and by whom.

    Attributes:
        age: Steps in the ancestry of the weights before this one.
        consumed: Steps the member ran itself before this one.
        seed: The member's.
    """

    age: int
    consumed: int
    seed: int


class Rule(Protocol):
    """What one member of a toy does."""

    @property
    def names(self) -> Sequence[str]:
        """Hyperparameters, each in [0, 1]."""

    def begin(self) -> np.ndarray:
        """Fresh weights, float64."""

    def step(self, weights: np.ndarray, hparams: np.ndarray, moment: Moment) -> np.ndarray:
        """The weights after one more step, with hyperparameters in the order of their names."""

    def score(self, weights: np.ndarray, split: Split) -> float:
        """What the weights are worth."""


@dataclass(frozen=True)
class Deceptive:
    """What pays at once costs more later, and the weights remember it.

    Each of two coordinates has a hyperparameter h in [0, 1], and in step t of T

        debt  <- debt + |h - (1 - t / T)|,
        theta <- theta - 0.002 max(2 - h - 0.2 debt, 0) theta.

    Maximised is `1.2 - sum(theta^2)`. A smaller h pays at once, and the debt is to be paid in every later step: to
    leave the line by d gains d now and costs 0.2 d in each step from now on. Whoever looks less than nine steps ahead
    drops h to 0 and soon stands still; but for the last five steps, the best h falls linearly from 1 to 0. In a formula
    without memory, which takes only the deviation of the present step, h = 0 would be best from beginning to end.

    Attributes:
        horizon: T.
    """

    horizon: int

    @property
    def names(self) -> Sequence[str]:
        """One for each coordinate."""
        return ("h0", "h1")

    def begin(self) -> np.ndarray:
        """Both coordinates of theta, then both debts."""
        return np.array([0.9, 0.9, 0.0, 0.0])

    def step(self, weights: np.ndarray, hparams: np.ndarray, moment: Moment) -> np.ndarray:
        """One step of both coordinates."""
        theta, debt = weights[:2], weights[2:]
        debt = debt + np.abs(hparams - (1.0 - moment.age / self.horizon))
        theta = theta - 0.002 * np.maximum(2.0 - hparams - 0.2 * debt, 0.0) * theta
        return np.concatenate([theta, debt])

    def score(self, weights: np.ndarray, split: Split) -> float:
        """The same of every split."""
        return float(1.2 - np.square(weights[:2]).sum())


@dataclass(frozen=True)
class Noisy:
    """The problem of the noisy bandit: how much a step gains depends on h, and on chance.

    A step gains `-(h - 0.7)^2` and normal noise, and what was gained stays. The training and validation splits have the
    sum with the noise, which is all that a strategy sees; the test split has the sum without, which is what was
    achieved: luck that the winner was chosen for does not count.

    Source: Parker-Holder et al. 2020, "Provably Efficient Online Hyperparameter Optimization with Population-Based
    Bandits" (arXiv 2002.02518), section 3, whose model of training this is: a function of h, observed with noise.

    Attributes:
        noise: Standard deviation of a step's noise, relative to that of what uniform guesses gain.
    """

    noise: float = 0.1

    @property
    def names(self) -> Sequence[str]:
        """One."""
        return ("h",)

    def begin(self) -> np.ndarray:
        """The sum with noise, and without."""
        return np.zeros(2)

    def step(self, weights: np.ndarray, hparams: np.ndarray, moment: Moment) -> np.ndarray:
        """Gain something."""
        gain = -float(np.square(hparams[0] - BEST))
        luck = self.noise * SIGNAL * np.random.default_rng([moment.seed, moment.consumed]).normal()
        return weights + np.array([gain + luck, gain])

    def score(self, weights: np.ndarray, split: Split) -> float:
        """With noise, or of the test split without."""
        return float(weights[1 if split == "test" else 0])


#: The best value of the noisy one.
BEST = 0.7
#: Standard deviation of what uniform guesses gain.
SIGNAL = float(np.std((np.linspace(0.0, 1.0, 1001) - BEST) ** 2))


@dataclass(frozen=True)
class Toy:
    """A rule as something that can be trained."""

    rule: Rule

    def describe(self) -> Capabilities:
        """`Q` to be maximised; every hyperparameter live."""
        known = {name: HparamSpec(kind="live", default=0.5, low=0.0, high=1.0) for name in self.rule.names}
        return Capabilities(
            metrics={METRIC: MetricSpec(mode="max")}, hparams=known, data={"source": "none: a closed form"}
        )

    def bucket(self, hparams: Hparams) -> str:
        """All members share one bucket."""
        return _BUCKET

    def build(self, bucket: str, capacity: int, place: Place) -> Stack:
        """Build an empty stack."""
        if bucket != _BUCKET:
            raise TrainableError(f"bucket {bucket!r} is unknown; a toy has only {_BUCKET!r}")
        if capacity < 1:
            raise TrainableError(f"capacity is {capacity}; give a whole number of at least 1")
        return ToyStack(self.rule, capacity)


@dataclass(slots=True)
class _Seat:
    weights: np.ndarray
    hparams: dict[str, float]
    seed: int
    age: int = 0
    consumed: int = 0


@dataclass
class ToyStack:
    """Members of a toy, one after the other."""

    rule: Rule
    capacity: int
    _seats: dict[int, _Seat] = field(default_factory=dict)

    def admit(
        self, slot: int, hparams: Hparams, seed: int, state: State | None = None, consumed: int | None = None
    ) -> None:
        """Put a member into a slot; see `Stack.admit`."""
        check_slots([slot], self.capacity)
        known = dict.fromkeys(self.rule.names, 0.5) | _checked(self.rule, hparams)
        weights = self.rule.begin() if state is None else state.shards[0].tensor.numpy().copy()
        age, own = (0, 0) if state is None else (state.age, state.consumed)
        self._seats[slot] = _Seat(weights, known, int(seed), age, own if consumed is None else int(consumed))

    def evict(self, slot: int) -> State:
        """Return the member's state and free the slot."""
        state = self.state(slot)
        del self._seats[slot]
        return state

    def run(self, until: Sequence[int]) -> Metrics:
        """Train each slot until its `consumed` reaches its entry of `until`; see `Stack.run`."""
        found = np.full(self.capacity, np.nan)
        for slot, seat in self._seats.items():
            values = np.array([seat.hparams[name] for name in self.rule.names])
            if seat.consumed >= until[slot]:
                continue
            while seat.consumed < until[slot]:
                seat.weights = self.rule.step(seat.weights, values, Moment(seat.age, seat.consumed, seat.seed))
                seat.age, seat.consumed = seat.age + 1, seat.consumed + 1
            found[slot] = self.rule.score(seat.weights, "train")
        return {METRIC: found}

    def evaluate(self, split: Split, slots: Sequence[int]) -> Metrics:
        """Evaluate slots."""
        found = np.full(self.capacity, np.nan)
        for slot in slots:
            found[slot] = self.rule.score(self._seat(slot).weights, split)
        return {METRIC: found}

    def hparams(self, slot: int) -> dict[str, HparamValue]:
        """Read back the values in effect."""
        return dict(self._seat(slot).hparams)

    def set_hparams(self, slots: Sequence[int], **values: Sequence[HparamValue]) -> None:
        """Change hyperparameters; see `Stack.set_hparams`."""
        changes = [{name: column[place] for name, column in values.items()} for place in range(len(slots))]
        checked = [_checked(self.rule, change) for change in changes]
        for slot, change in zip(slots, checked, strict=True):
            self._seat(slot).hparams |= change

    def copy(self, src: Sequence[int], dst: Sequence[int]) -> None:
        """Weights and age of `src[i]` into `dst[i]`; see `Stack.copy`."""
        read = [(self._seat(slot).weights, self._seat(slot).age) for slot in src]
        for slot, (weights, age) in zip(dst, read, strict=True):
            seat = self._seat(slot)
            seat.weights, seat.age = weights.copy(), age

    def state(self, slot: int) -> State:
        """Copy out the member's state, leaving it in place."""
        seat = self._seat(slot)
        shards = (Shard.whole("params.weights", torch.from_numpy(seat.weights.copy())),)
        return State(shards, seat.age, seat.consumed, seat.seed)

    def progress(self, slot: int) -> tuple[int, int]:
        """`(age, consumed)` of the member in the slot."""
        seat = self._seat(slot)
        return seat.age, seat.consumed

    def _seat(self, slot: int) -> _Seat:
        if slot not in self._seats:
            raise TrainableError(f"slot {slot} is empty; admit a member first")
        return self._seats[slot]


def _checked(rule: Rule, hparams: Mapping[str, HparamValue]) -> dict[str, float]:
    for name, value in hparams.items():
        if name not in rule.names:
            raise TrainableError(f"hparam {name!r} is unknown; give one of {', '.join(rule.names)}")
        if not isinstance(value, Real) or not 0.0 <= float(value) <= 1.0:
            raise TrainableError(f"hparam {name!r} is {value!r}; give a value in [0, 1]")
    return {name: float(value) for name, value in hparams.items()}  # type: ignore[arg-type]
