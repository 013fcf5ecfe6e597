"""Who goes on, by comparing runs with those that came as far: random search, successive halving, Hyperband, the median.

All are asynchronous: nobody waits for a rung to fill. A run that is not promoted rests, and may be promoted later, when
others have come that it is better than. What is begun is up to a proposer.

Sources: Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning" (ASHA, arXiv 1810.05934), algorithm 2;
Li et al. 2018, "Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization" (arXiv 1603.06560), of
brackets; Golovin et al. 2017, "Google Vizier: A Service for Black-Box Optimization", section 3.2, of the median.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeAlias

from pbt.member import Hparams
from pbt.search.policy import Begin, Book, GoOn, Order, one_by_one

#: Given what is known, a seed, and values that it is to have: the configuration to begin.
Proposer: TypeAlias = Callable[[Book, int, Hparams], Hparams]


@dataclass(frozen=True)
class Straight:
    """Every configuration is trained to the target.

    Attributes:
        propose: What is begun.
    """

    propose: Proposer

    def choose(self, book: Book, seed: int, number: int = 1, alike: Sequence[str] = ()) -> Sequence[Order]:
        """What so many free slots do."""

        def begin(known: Book, own: int, given: Hparams) -> Order:
            return Begin(self.propose(known, own, given), known.ladder.target)

        return one_by_one(book, seed, number, alike, begin)

    def recommend(self, book: Book) -> int | None:
        """The best at the target."""
        return lowest(book)


@dataclass(frozen=True)
class Halving:
    """Asynchronous successive halving with promotions; with several brackets, Hyperband.

    Attributes:
        propose: What is begun.
        eta: One in so many is promoted from a rung.
        brackets: Runs begin on so many of the lowest rungs: in bracket `b`, on the rung `b`.
    """

    propose: Proposer
    eta: float = 3.0
    brackets: int = 1

    def choose(self, book: Book, seed: int, number: int = 1, alike: Sequence[str] = ()) -> Sequence[Order]:
        """What so many free slots do."""
        return one_by_one(book, seed, number, alike, self.decide)

    def recommend(self, book: Book) -> int | None:
        """The best of all last values."""
        return lowest(book)

    def decide(self, book: Book, seed: int, given: Hparams) -> Order:
        """What one free slot does; whatever it begins has the given values."""
        bracket = self._bracket(book)
        found = self._promotable(book, bracket)
        if found is not None:
            return found
        return Begin(self.propose(book, seed, given), book.ladder.rungs[bracket])

    def _bracket(self, book: Book) -> int:
        """The one that has had the smallest part of its share: as many steps in each, as in Hyperband."""
        rungs = book.ladder.rungs
        brackets = range(min(self.brackets, len(rungs)))
        ordered = dict.fromkeys(brackets, 0.0)
        for run in book.runs:
            ordered[book.ladder.index(run.first)] += run.until or run.steps
        return min(brackets, key=lambda it: (ordered[it], it))

    def _promotable(self, book: Book, bracket: int) -> GoOn | None:
        """Of the highest rung that has one, the best that is among the best of it and has not gone on."""
        rungs = book.ladder.rungs
        resting = set(book.resting())
        for rung, above in zip(rungs[-2::-1], rungs[:0:-1], strict=True):
            there = book.at(rung)
            there = {it: bad for it, bad in there.items() if book.ladder.index(book.runs[it].first) == bracket}
            best = sorted(there, key=lambda it: (there[it], it))[: math.floor(len(there) / self.eta)]
            for run in best:
                if run in resting and book.runs[run].steps == rung:
                    return GoOn(run, above, f"rank {best.index(run) + 1} of {len(there)} after {rung:g} steps")
        return None


@dataclass(frozen=True)
class MedianStopping:
    """Who is worse than the median of those that came as far rests for good.

    Attributes:
        propose: What is begun.
        least: So many must have come as far before anybody is stopped there.
    """

    propose: Proposer
    least: int = 5

    def choose(self, book: Book, seed: int, number: int = 1, alike: Sequence[str] = ()) -> Sequence[Order]:
        """What so many free slots do."""
        return one_by_one(book, seed, number, alike, self._choose)

    def recommend(self, book: Book) -> int | None:
        """The best of all last values."""
        return lowest(book)

    def _choose(self, book: Book, seed: int, given: Hparams) -> Order:
        for run in book.resting():
            known = book.runs[run]
            there = book.at(known.steps)
            if len(there) < self.least or there[run] <= median(there.values()):
                better = sum(bad < there[run] for bad in there.values())
                reason = f"rank {better + 1} of {len(there)} after {known.steps:g} steps"
                return GoOn(run, book.ladder.next(known.steps), reason)
        return Begin(self.propose(book, seed, given), book.ladder.rungs[0])


def lowest(book: Book) -> int | None:
    """The run with the lowest last value, wherever that was; None before the first."""
    seen = [number for number, run in enumerate(book.runs) if math.isfinite(run.badness)]
    return min(seen, key=lambda it: (book.runs[it].badness, it), default=None)
