"""The words of a search over configurations that can be trained further: what is known, and what is decided.

A policy is asked what a slot that is free should do: begin a new configuration, or go on with one that was trained less
far than it could be. What it answers is a function of the book and the seed, so whoever resumes goes on as if nothing
had happened.

Steps are those of the target, or what costs as much: half as many of a model that takes twice the time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol, TypeAlias

from pbt.member import Hparams


class Value(NamedTuple):
    """What was seen of a run, in the order it came in.

    Attributes:
        run: Its number.
        steps: After how many steps (or epochs, tokens: whatever counts).
        badness: Low is good; NaN or infinite where it diverged, which is for good.
        cost: Of all its training so far, in whatever the search is to spare.
    """

    run: int
    steps: float
    badness: float
    cost: float


@dataclass(slots=True)
class Run:
    """A configuration that was begun.

    Attributes:
        hparams: With which hyperparameters.
        until: To how many steps it is being trained; None while it rests.
        steps: How far it has come.
        badness: What it was worth there; NaN before the first value.
        cost: What it has cost.
        is_over: Whether nobody can go on with it, because it failed or diverged.
        first: To how many steps it was to be trained when it was begun.
        trained: Steps that were trained of it in all; more than `steps` if it was begun again on its way.
        known: So many values were known when it was begun.
    """

    hparams: Hparams
    until: float | None = None
    steps: float = 0.0
    badness: float = math.nan
    cost: float = 0.0
    is_over: bool = False
    first: float = 0.0
    trained: float = 0.0
    known: int = 0


@dataclass(frozen=True, slots=True)
class Ladder:
    """The steps at which runs are looked at: each `eta` times as many as the one before, the target last.

    Attributes:
        rungs: In ascending order.
        kinds: Of each, what is trained there: from a rung of one kind to one of another, a run begins again. Empty if
            all are alike.
    """

    rungs: tuple[float, ...]
    kinds: tuple[int, ...] = ()

    @classmethod
    def between(cls, least: float, target: float, eta: float = 3.0) -> Ladder:
        """From about `least` steps to the target."""
        number = max(0, round(math.log(target / least) / math.log(eta)))
        rungs = [max(least, float(round(target / eta**it))) for it in range(number, 0, -1)]
        return cls((*dict.fromkeys(it for it in rungs if it < target), float(target)))

    @property
    def target(self) -> float:
        """Steps of a run that is complete."""
        return self.rungs[-1]

    def next(self, steps: float) -> float:
        """The rung above so many steps."""
        return next(it for it in self.rungs if it > steps)

    def index(self, steps: float) -> int:
        """Number of the highest rung that was reached; -1 below all."""
        return sum(it <= steps for it in self.rungs) - 1

    def above(self, steps: float) -> int:
        """Number of the lowest rung that is not below so many steps."""
        return min(sum(it < steps for it in self.rungs), len(self.rungs) - 1)

    def begins_again(self, steps: float, until: float) -> bool:
        """Whether a run that rests after so many steps begins again on its way."""
        return bool(steps and self.kinds) and self.kinds[self.index(steps)] != self.kinds[self.index(until)]

    def to_train(self, steps: float, until: float) -> float:
        """Steps between two rungs; all of them, where a run begins again."""
        return until if self.begins_again(steps, until) else until - steps


@dataclass(slots=True)
class Book:
    """All that a search knows.

    Attributes:
        ladder: Where runs are looked at.
        budget: What all of it may cost.
        runs: By number.
        values: In the order in which they came in.
    """

    ladder: Ladder
    budget: float = math.inf
    runs: list[Run] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)

    def after(self, orders: Sequence[Order]) -> Book:
        """Another, in which these orders are given."""
        book = Book(self.ladder, self.budget, [replace(run) for run in self.runs], list(self.values))
        for order in orders:
            book.take(order)
        return book

    def take(self, order: Order) -> int:
        """Note what was decided; returns which run it is about."""
        if isinstance(order, Begin):
            self.runs.append(Run(order.hparams, until=order.until, first=order.until, known=len(self.values)))
            return len(self.runs) - 1
        self.runs[order.run].until = order.until
        return order.run

    def saw(self, value: Value) -> None:
        """Note what a run came to, which rests then."""
        self.values.append(value)
        run = self.runs[value.run]
        run.until = None
        run.trained += self.ladder.to_train(run.steps, value.steps)
        run.steps, run.badness, run.cost = value.steps, value.badness, value.cost
        run.is_over = not math.isfinite(value.badness)

    @property
    def spent(self) -> float:
        """What all of it has cost so far."""
        return sum(run.cost for run in self.runs)

    def resting(self) -> list[int]:
        """Runs that somebody could go on with."""
        return [
            number
            for number, run in enumerate(self.runs)
            if run.until is None and not run.is_over and 0 < run.steps < self.ladder.target
        ]

    def at(self, rung: float) -> Mapping[int, float]:
        """What each run that reached a rung was worth there; as bad as can be if it diverged on the way or before."""
        found = {value.run: value.badness for value in self.values if value.steps == rung}
        diverged = {number: math.inf for number, run in enumerate(self.runs) if run.is_over and run.steps <= rung}
        return {number: bad if math.isfinite(bad) else math.inf for number, bad in {**found, **diverged}.items()}


@dataclass(frozen=True, slots=True)
class Begin:
    """A new configuration is trained for so many steps. `reason` is for people."""

    hparams: Hparams
    until: float
    reason: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class GoOn:
    """A run is trained further, until it has so many steps. `reason` is for people."""

    run: int
    until: float
    reason: str = field(default="", compare=False)


Order: TypeAlias = Begin | GoOn


class Policy(Protocol):
    """Decides what free slots do."""

    def choose(self, book: Book, seed: int, number: int = 1, alike: Sequence[str] = ()) -> Sequence[Order]:
        """What so many free slots do, all at once. The book is left as it is.

        Args:
            book: What is known.
            seed: Of these choices.
            number: How many slots.
            alike: Configurations that are begun at once have the same values of these hyperparameters.
        """

    def recommend(self, book: Book) -> int | None:
        """The run that is expected to be the best at the target; None before the first value."""


def one_by_one(
    book: Book, seed: int, number: int, alike: Sequence[str], choose: Callable[[Book, int, Hparams], Order]
) -> list[Order]:
    """Each knowing of those before it.

    Args:
        book: What is known; left as it is.
        seed: Of these choices.
        number: How many.
        alike: Hyperparameters of which all that are begun have the same values.
        choose: Given what is known, a seed, and values that whatever is begun is to have.
    """
    orders: list[Order] = []
    given: Hparams = {}
    for it in range(number):
        order = choose(book.after(orders) if orders else book, seed + it, given)
        if isinstance(order, Begin):
            given = {name: order.hparams[name] for name in alike if name in order.hparams}
        orders.append(order)
    return orders
