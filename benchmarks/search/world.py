"""A search that is played: workers train by a virtual clock, and a policy says what.

Training costs what the table says; where runs can go on, only what is new. What is recommended is asked for after every
value that comes in. A budget is spent once all that was begun before its end, and ends before it, has ended.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from benchmarks.search.tasks import Table
from pbt.member import Hparams
from pbt.search.policy import Begin, Book, Policy, Value

#: Takes a configuration to the one that is trained in its stead.
Snap: TypeAlias = Callable[[Hparams], Hparams]


@dataclass(frozen=True, slots=True)
class Moment:
    """Once so much has been spent by all workers, this row is recommended."""

    spent: float
    row: int


@dataclass(slots=True)
class Played:
    """How a search went.

    Attributes:
        book: All of it, at its end.
        rows: Which row each run is.
        moments: What was recommended, in order.
        suggest_s: Processor seconds of each choice.
    """

    book: Book
    rows: list[int] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    suggest_s: list[float] = field(default_factory=list)

    @property
    def num_complete(self) -> int:
        """Runs that were trained to the target."""
        return sum(run.steps == self.book.ladder.target for run in self.book.runs)


def play(
    table: Table, policy_for: Callable[[Snap], Policy], *, seed: int, workers: int, runs: float, eta: float = 3.0
) -> Played:
    """Spend a budget on a table.

    Args:
        table: What is searched.
        policy_for: Builds the policy, given what becomes of what it proposes.
        seed: Of its choices.
        workers: So many train at once.
        runs: The budget, in runs to the target.
        eta: Of the ladder.
    """
    budget = runs * table.complete_cost
    played = Played(Book(table.ladder(eta), budget))
    policy = policy_for(lambda hparams: table.nearest(hparams, played.rows)[1])
    busy: list[tuple[float, int, int]] = []
    now = 0.0
    while now < budget / workers:
        while len(busy) < workers:
            run, takes = _choose(table, policy, played, seed)
            heapq.heappush(busy, (now + takes, len(played.suggest_s), run))
        now, _, run = heapq.heappop(busy)
        if now <= budget / workers:
            _end(table, played, run)
            chosen = policy.recommend(played.book)
            if chosen is not None:
                played.moments.append(Moment(now * workers, played.rows[chosen]))
    return played


def _choose(table: Table, policy: Policy, played: Played, seed: int) -> tuple[int, float]:
    """What a free worker does; returns the run, and how long that takes."""
    began = time.process_time()
    (order,) = policy.choose(played.book, seed * 1_000_003 + len(played.suggest_s))
    played.suggest_s.append(time.process_time() - began)
    if isinstance(order, Begin):
        row, hparams = table.nearest(order.hparams, played.rows)
        played.rows.append(row)
        order = Begin(hparams, order.until)
    run = played.book.take(order)
    return run, _cost(table, played, run)


def _cost(table: Table, played: Played, run: int) -> float:
    """Of what a run is being trained for."""
    known, row = played.book.runs[run], played.rows[run]
    assert known.until is not None
    if not known.steps:
        return table.cost(row, known.until)
    return table.overhead + table.cost(row, known.until) - (table.cost(row, known.steps) if table.resumable else 0.0)


def _end(table: Table, played: Played, run: int) -> None:
    known = played.book.runs[run]
    assert known.until is not None
    cost = known.cost + _cost(table, played, run)
    played.book.saw(Value(run, known.until, table.badness(played.rows[run], known.until), cost))
