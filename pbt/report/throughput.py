"""How fast the stacks of a sweep train: rows of the ledger in, rates out. Pure.

A stack trains its members side by side, each with a rate of its own over the same time; together they are the stack's.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Row: TypeAlias = Mapping[str, Any]


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
    """Collects what was measured of members, and tells it of their stacks."""

    def __init__(self) -> None:
        self._orders: dict[tuple[int, int], tuple[int, str]] = {}
        self._rates: dict[int, dict[str, dict[str, float]]] = defaultdict(dict)

    def add_order(self, row: Row) -> None:
        """Take in a row of `orders`, before the metrics of its segments."""
        if row.get("kind") != "work":  # a recovery trains again what was measured before
            return
        for member, segment in json.loads(row.get("segments") or "[]"):
            self._orders[member, segment] = (row["stack"], row["order"])

    def add_metric(self, row: Row) -> None:
        """Take in a row of `metrics`."""
        if row["split"] != "system" or row["name"] not in ("tokens_per_s", "mfu"):
            return
        if (found := self._orders.get((row["member"], row["segment"]))) is None:
            return
        stack, order = found
        sums = self._rates[stack].setdefault(order, {})
        sums[row["name"]] = sums.get(row["name"], 0.0) + row["value"]

    def typical(self) -> dict[int, Rate]:
        """Each stack's rate in the median of its orders, so that the first, which may compile, does not count."""
        return {stack: _median(list(orders.values())) for stack, orders in sorted(self._rates.items())}

    def latest(self) -> dict[int, Rate]:
        """Each stack's rate in its newest order."""
        return {stack: _rate(next(reversed(orders.values()))) for stack, orders in sorted(self._rates.items())}


def together(stacks: Mapping[int, Rate]) -> Rate | None:
    """The rate of all stacks: their tokens, and the mean of their utilizations. None without stacks."""
    if not stacks:
        return None
    known = [rate.mfu for rate in stacks.values() if rate.mfu is not None]
    return Rate(
        tokens_per_s=sum(rate.tokens_per_s for rate in stacks.values()),
        mfu=statistics.mean(known) if len(known) == len(stacks) else None,
    )


def _rate(sums: Mapping[str, float]) -> Rate:
    return Rate(tokens_per_s=sums.get("tokens_per_s", 0.0), mfu=sums.get("mfu"))


def _median(orders: Sequence[Mapping[str, float]]) -> Rate:
    utilizations = [sums["mfu"] for sums in orders if "mfu" in sums]
    return Rate(
        tokens_per_s=statistics.median(sums.get("tokens_per_s", 0.0) for sums in orders),
        mfu=statistics.median(utilizations) if utilizations else None,
    )
