"""Time as a sweep has it: the pauses between its sessions left out; and what its stacks did in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pbt.record.frame import Floats, Ints, seconds
from pbt.record.result import Result

#: Shorter pauses are not told.
_PAUSE_S = 1.0


@dataclass(frozen=True)
class Elapsed:
    """Turns times of the clock into seconds since the sweep began, pauses left out.

    Attributes:
        begun: When it was first taken up, seconds since the epoch.
        ended: When its newest row was recorded.
        pauses: When each pause began and ended, in order, `(pauses, 2)`.
    """

    begun: float
    ended: float
    pauses: Floats

    def __call__(self, at: Floats) -> Floats:
        """Seconds since the beginning; a time within a pause is where the pause began."""
        at = np.asarray(at, dtype=float)
        paused = [np.clip(at - start, 0.0, end - start) for start, end in self.pauses]
        return np.asarray(at - self.begun - sum(paused, np.zeros_like(at)))

    @property
    def total(self) -> float:
        """Seconds from the beginning to the newest row."""
        return float(self(np.array([self.ended]))[0])


def elapsed(result: Result) -> Elapsed:
    """The time of a run, as its ledger tells it."""
    at = np.unique(np.concatenate([seconds(table) for table in result.tables.values() if table.num_rows]))
    sessions = result.tables["sessions"]
    begins = seconds(sessions)[np.asarray(sessions["session"]) > 1] if sessions.num_rows else np.empty(0)
    before = at[np.maximum(np.searchsorted(at, begins) - 1, 0)]
    pauses = np.column_stack([before, begins])
    begun = min(float(result.run.info["created"]), float(at[0]))
    return Elapsed(begun, float(at[-1]), pauses[begins - before > _PAUSE_S])


@dataclass(frozen=True)
class Work:
    """Work orders that came to their end, in the order of their ends.

    Attributes:
        stack: Which stack.
        generation: Of its segments, the first.
        start: Seconds since the epoch when the stack began to work on it.
        end: When it reported.
        wall_s: How long that took; 0 where it is not known.
    """

    stack: Ints
    generation: Ints
    start: Floats
    end: Floats
    wall_s: Floats


def work(result: Result) -> Work:
    """What the stacks did."""
    frame = result.frame
    done = np.flatnonzero(frame.order >= 0)
    _, first, number = np.unique(frame.order[done], return_index=True, return_inverse=True)
    end, wall_s = np.zeros(len(first)), np.zeros(len(first))
    generation = frame.generation[done][first].copy()
    np.maximum.at(end, number, frame.ended_at[done])
    np.maximum.at(wall_s, number, np.nan_to_num(frame.wall_s[done]))
    np.minimum.at(generation, number, frame.generation[done])
    order = np.argsort(end, kind="stable")
    return Work(frame.stack[done][first][order], generation[order], (end - wall_s)[order], end[order], wall_s[order])


def busy(found: Work, clock: Elapsed, rows: Ints, edges: Floats) -> Floats:
    """For each row, how many seconds its orders worked between consecutive edges: `(rows, columns)`.

    Args:
        found: The orders.
        clock: What the edges are counted by.
        rows: The row of each order.
        edges: Seconds since the beginning.
    """
    num_rows = int(rows.max()) + 1 if len(rows) else 0
    counts, sums = np.zeros((2, num_rows, len(edges)))
    for times, sign in ((clock(found.start), 1.0), (clock(found.end), -1.0)):
        places = np.searchsorted(edges, times)
        inside = places < len(edges)
        np.add.at(counts, (rows[inside], places[inside]), sign)
        np.add.at(sums, (rows[inside], places[inside]), sign * times[inside])
    until = np.cumsum(counts, axis=1) * edges - np.cumsum(sums, axis=1)
    return np.diff(until, axis=1)
