"""What happened in a sweep so far, read from its ledger to build its brain again."""

from __future__ import annotations

import heapq
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from pbt.member import SegmentKey
from pbt.record.ledger import LedgerReader
from pbt.record.schema import canonical, to_rows
from pbt.runtime.budget import Usage
from pbt.strategy import BudgetEnded, EvaluationEnded, Event, MemberFailed, Report, SegmentReported

Row: TypeAlias = Mapping[str, Any]

#: Decisions that people or the budget took: to a strategy they are events.
FROM_OUTSIDE = ("budget", "extend")

#: Decisions of the hosts' planner, which a strategy knows nothing of.
_PLAN = "plan"

_TABLES = ("segments", "decisions", "orders", "outcomes", "evaluations", "checkpoints", "sessions", "usage")

#: Metric rows that are Python objects at the same time: there may be tens of millions.
_AT_ONCE = 65_536


@dataclass(frozen=True, slots=True)
class SegmentEnded:
    """A segment ended, well or not, where that left the member, and the order that trained it, if that is known."""

    event: Report
    segment: int
    age: int
    consumed: int
    order: str | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """Something else that the strategy was told."""

    event: Event


@dataclass(frozen=True, slots=True)
class Extension:
    """The sweep was extended: canonical JSON of the new spec and slots."""

    data: str


Happening: TypeAlias = SegmentEnded | Told | Extension

#: What happened at once: the ends of all segments that one order trained, or one of the other things.
Moment: TypeAlias = tuple[Happening, ...]


def moments(happened: Iterable[Happening]) -> Iterator[Moment]:
    """What happened, moment by moment.

    The order divides, not what was decided in between nor when it came in: so it is the same when it is told again.
    """
    for order, run in itertools.groupby(happened, key=lambda it: it.order if isinstance(it, SegmentEnded) else None):
        together = tuple(run)
        yield from [(it,) for it in together] if order is None else [together]


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """A sweep so far.

    Attributes:
        happened: What happened, moment by moment: as the strategy was told.
        decided: What it decided, as `(table, row)`, in order.
        checkpoints: Digest of the checkpoint of each saved segment.
        damaged: Digests of checkpoints that could not be read.
        sessions: Number of times the sweep was taken up.
        usage: What it has cost.
        plans: How stacks run, as JSON text, of those whose plan is on record.
        trained: Stacks that have trained a segment to its end.
    """

    happened: Sequence[Moment] = ()
    decided: Sequence[tuple[str, Row]] = ()
    checkpoints: Mapping[SegmentKey, str] = field(default_factory=dict)
    damaged: frozenset[str] = frozenset()
    sessions: int = 0
    usage: Usage = field(default_factory=Usage)
    plans: Mapping[int, str] = field(default_factory=dict)
    trained: frozenset[int] = frozenset()


def read_history(reader: LedgerReader, metric: str, split: str) -> History:
    """Read a ledger.

    Args:
        reader: The ledger.
        metric: The objective.
        split: The split that decides.
    """
    rows = reader.rows(_TABLES)
    told = [row for row in rows["decisions"] if row["kind"] in FROM_OUTSIDE]
    taken = [row for row in rows["decisions"] if row["kind"] not in (*FROM_OUTSIDE, _PLAN)]
    metrics = _metrics(reader, split, rows["evaluations"])
    return History(
        happened=tuple(moments(_happened(rows, metrics, told, metric, split))),
        decided=_in_order(segments=rows["segments"], decisions=taken),
        checkpoints=_checkpoints(rows["checkpoints"]),
        damaged=frozenset(row["digest"] for row in rows["checkpoints"] if row.get("status") == "damaged"),
        sessions=max((row["session"] for row in rows["sessions"]), default=0),
        usage=_usage(rows["usage"]),
        plans=_plans(rows["decisions"]),
        trained=_trained(rows["segments"], rows["outcomes"]),
    )


def _plans(decisions: Sequence[Row]) -> dict[int, str]:
    told = (json.loads(row["data"]) for row in decisions if row["kind"] == _PLAN)
    return {data["stack"]: canonical(data["plan"]) for data in told}


def _trained(segments: Sequence[Row], outcomes: Sequence[Row]) -> frozenset[int]:
    ended = {(row["member"], row["segment"]) for row in outcomes}
    return frozenset(row["stack"] for row in segments if (row["member"], row["segment"]) in ended)


def read_usage(reader: LedgerReader) -> Usage:
    """What a sweep has cost, all sessions together."""
    return _usage(reader.rows(("usage",))["usage"])


def _in_order(**tables: Sequence[Row]) -> tuple[tuple[str, Row], ...]:
    merged = [(name, row) for name, rows in tables.items() for row in rows]
    return tuple(sorted(merged, key=lambda entry: entry[1]["at"]))


def _metrics(reader: LedgerReader, split: str, evaluations: Sequence[Row]) -> Iterator[tuple[str, Row]]:
    """Rows of metrics that a strategy was told, in order."""
    splits = pa.array(sorted({split, *(row["split"] for row in evaluations)}))
    table = reader.table("metrics").select(["member", "segment", "split", "name", "value", "at"])
    table = table.filter(pc.is_in(table["split"], splits)).sort_by("at")
    for batch in table.to_batches(max_chunksize=_AT_ONCE):
        yield from (("metrics", row) for row in to_rows(pa.Table.from_batches([batch])))


def _happened(
    rows: Mapping[str, Sequence[Row]], metrics: Iterable[tuple[str, Row]], told: Sequence[Row], metric: str, split: str
) -> Iterator[Happening]:
    """What happened, in order. Metrics stand before the row of the segment or evaluation they belong to."""
    fresh: dict[tuple[int, int, str], dict[str, float]] = {}
    num_told = 0
    orders = _orders(rows["orders"])
    others = _in_order(outcomes=rows["outcomes"], evaluations=rows["evaluations"], told=told)
    for table, row in heapq.merge(metrics, others, key=lambda entry: entry[1]["at"]):
        if table == "told":
            num_told += row["kind"] == "budget"
            yield _told(row, num_told)
            continue
        where = row["member"], row["segment"]
        if table == "metrics":
            fresh.setdefault((*where, row["split"]), {})[row["name"]] = row["value"]
        elif table == "outcomes":
            yield _ended(row, fresh.pop((*where, split), {}), metric, orders.get(where))
            fresh.pop((*where, "train"), None)
        else:
            yield Told(evaluation_ended(*where, row["split"], fresh.pop((*where, row["split"]), {})))


def _orders(orders: Sequence[Row]) -> dict[tuple[int, int], str]:
    """The order that trained each segment: the last, where those before were given up."""
    work = (row for row in orders if row["kind"] == "work")
    return {(member, segment): row["order"] for row in work for member, segment in json.loads(row["segments"])}


def _told(row: Row, number: int) -> Happening:
    if row["kind"] == "extend":
        return Extension(row["data"])
    return Told(BudgetEnded(id=f"budget:{number}", reason=row["reason"]))


def _ended(row: Row, evaluation: Mapping[str, float], metric: str, order: str | None) -> SegmentEnded:
    score = row.get("score")
    return segment_ended(
        member=row["member"],
        segment=row["segment"],
        age=row["age_end"],
        consumed=row["consumed_end"],
        metrics={**evaluation, metric: math.nan if score is None else score},
        wall_s=row["wall_s"],
        failure=row.get("reason") if row["status"] == "failed" else None,
        order=order,
    )


def segment_ended(
    *,
    member: int,
    segment: int,
    age: int,
    consumed: int,
    metrics: Mapping[str, float],
    wall_s: float,
    failure: str | None,
    order: str | None,
) -> SegmentEnded:
    """What the strategy is told of a segment's end: the same when it happens and when it is told again."""
    event: Report
    if failure:
        event = MemberFailed(id=f"failed:{member}:{segment}", member=member, reason=failure)
    else:
        event = SegmentReported(
            id=f"report:{member}:{segment}",
            member=member,
            segment=segment,
            age=age,
            consumed=consumed,
            metrics=metrics,
            wall_s=wall_s,
        )
    return SegmentEnded(event, segment, age, consumed, order)


def evaluation_ended(member: int, segment: int, split: str, metrics: Mapping[str, float]) -> EvaluationEnded:
    """What the strategy is told of an evaluation."""
    return EvaluationEnded(id=f"evaluation:{member}:{segment}:{split}", member=member, split=split, metrics=metrics)


def _checkpoints(rows: Sequence[Row]) -> dict[SegmentKey, str]:
    saved: dict[SegmentKey, str] = {}
    for row in rows:
        key = SegmentKey(row["member"], row["segment"])
        if row.get("status") in (None, "saved"):
            saved[key] = row["digest"]
        else:
            saved.pop(key, None)
    return saved


def _usage(rows: Sequence[Row]) -> Usage:
    last = {row["session"]: row for row in rows}
    total = Usage()
    for row in last.values():
        total += Usage(wall_s=row["wall_s"], device_s=row["device_s"], joules=row.get("joules"), tokens=row["tokens"])
    return total
