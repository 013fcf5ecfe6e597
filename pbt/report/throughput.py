"""How fast the stacks of a sweep train: rows of the ledger in, rates out. Pure.

A stack trains its members side by side, each with a rate of its own over the same time; together they are the stack's.
Stacks train at once or, where there are more than hosts, by turns: how many train at once is told by the times of their
orders, as nothing on record says which host had which.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Row: TypeAlias = Mapping[str, Any]

#: Names of the system's metrics that are looked at.
RATES = ("tokens_per_s", "mfu")
#: Latest orders of each stack that tell how many train at once now.
_LATEST = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """How fast something trains.

    Attributes:
        tokens_per_s: Tokens (or examples) in a second of training.
        mfu: Model FLOPs utilization: model FLOP/s over the peak of the device; None where one of them is not known.
    """

    tokens_per_s: float
    mfu: float | None = None


class Throughput:
    """Collects what was measured of members since the sweep was last taken up, and tells it of their stacks.

    It may have been taken up elsewhere, or with other numbers of hosts and processes.
    """

    def __init__(self) -> None:
        self._orders: dict[tuple[int, int], tuple[int, str]] = {}
        self._session = ""
        self._given: dict[str, float] = {}
        self._turns: list[tuple[float, float, float]] = []  # when an order was given and reported, seconds at work
        self._rates: dict[int, dict[str, dict[str, float]]] = defaultdict(dict)

    def add_order(self, row: Row) -> None:
        """Take in a row of `orders`, before the metrics of its segments."""
        if row.get("kind") != "work":  # a recovery trains again what was measured before
            return
        session, _, _ = row["order"].rpartition(":")
        if session != self._session:
            self._session = session
            for known in (self._orders, self._given, self._turns, self._rates):
                known.clear()
        for member, segment in json.loads(row.get("segments") or "[]"):
            self._orders[member, segment] = (row["stack"], row["order"])
            self._given[row["order"]] = row["at"]

    def add_metric(self, row: Row) -> None:
        """Take in a row of `metrics`."""
        if row["split"] != "system" or row["name"] not in RATES:
            return
        if (found := self._orders.get((row["member"], row["segment"]))) is None:
            return
        stack, order = found
        sums = self._rates[stack].setdefault(order, {})
        sums[row["name"]] = sums.get(row["name"], 0.0) + row["value"]

    def add_outcome(self, row: Row) -> None:
        """Take in a row of `outcomes`, after the orders."""
        _, order = self._orders.get((row["member"], row["segment"]), (0, ""))
        given = self._given.pop(order, None)  # the others of the stack say the same
        if given is not None and row.get("wall_s") is not None:
            self._turns.append((given, row["at"], row["wall_s"]))

    def typical(self) -> dict[int, Rate]:
        """Each stack's rate in the median of its orders, so that the first, which may compile, does not count."""
        return {stack: _median(list(orders.values())) for stack, orders in sorted(self._rates.items())}

    def latest(self) -> dict[int, Rate]:
        """Each stack's rate in its newest order."""
        return {stack: _rate(next(reversed(orders.values()))) for stack, orders in sorted(self._rates.items())}

    def at_once(self, *, is_latest: bool = False) -> float:
        """How many stacks train at the same time, in the mean over the time in which any does; 1 without any.

        Args:
            is_latest: Whether only the newest orders count.
        """
        num_stacks = max(1, len(self._rates))
        turns = self._turns[-_LATEST * num_stacks :] if is_latest else self._turns
        covered = _covered((given, reported) for given, reported, _ in turns)
        found = sum(seconds for *_, seconds in turns) / covered if covered > 0.0 else 1.0
        return min(max(found, 1.0), float(num_stacks))


def together(stacks: Mapping[int, Rate], at_once: float) -> Rate | None:
    """The rate of all stacks: that of one, times how many train at once; the mean of their utilizations.

    Args:
        stacks: The rate of each; None is answered where there are none.
        at_once: See `Throughput.at_once`.
    """
    if not stacks:
        return None
    known = [rate.mfu for rate in stacks.values() if rate.mfu is not None]
    return Rate(
        tokens_per_s=at_once * statistics.mean(rate.tokens_per_s for rate in stacks.values()),
        mfu=statistics.mean(known) if len(known) == len(stacks) else None,
    )


def _covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of spans of time."""
    total, reached = 0.0, -math.inf
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def _rate(sums: Mapping[str, float]) -> Rate:
    return Rate(tokens_per_s=sums.get("tokens_per_s", 0.0), mfu=sums.get("mfu"))


def _median(orders: Sequence[Mapping[str, float]]) -> Rate:
    utilizations = [sums["mfu"] for sums in orders if "mfu" in sums]
    return Rate(
        tokens_per_s=statistics.median(sums.get("tokens_per_s", 0.0) for sums in orders),
        mfu=statistics.median(utilizations) if utilizations else None,
    )
