"""The ledger's tables, version 3.

Decision tables are written before what they say is done; observation tables say what then happened. Rows are plain
dictionaries in the program and Arrow on disk. Hyperparameters are kept as canonical JSON text, so a float comes back
bit for bit and every sweep has the same schema.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

VERSION = 3

#: The oldest version that can be written on: what it has not, are columns that may be null.
OLDEST_WRITTEN = 2

_when = pa.timestamp("us", tz="UTC")


def _fields(**types: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, kind) for name, kind in types.items()])


#: Decisions: a stretch of one member's training at constant hyperparameters.
SEGMENTS = _fields(
    member=pa.int32(),
    segment=pa.int32(),  # counted from 0 within the member
    generation=pa.int32(),
    start=pa.string(),  # fresh | own | copied
    parent_member=pa.int32(),  # whose weights it starts from; null if fresh
    parent_segment=pa.int32(),  # the segment that ended in those weights
    hparams=pa.string(),  # wanted, canonical JSON
    seed=pa.int64(),  # with `consumed_start` the whole state of the member's randomness
    bucket=pa.string(),
    stack=pa.int32(),
    slot=pa.int32(),
    age_start=pa.int64(),
    consumed_start=pa.int64(),
    until=pa.int64(),  # value of `consumed` at which it ends
    shrink=pa.string(),  # how its weights were shrunk and perturbed first, JSON; null if they were not
    cause=pa.string(),  # id of the event behind the decision
    at=_when,
)

#: Decisions: everything a strategy ordered or declined, and what people asked for, in words.
DECISIONS = _fields(
    kind=pa.string(),  # start | copy | set | shrink | decline | evaluate | finish | plan | budget | extend
    member=pa.int32(),  # null where there is none
    donor=pa.int32(),
    segment=pa.int32(),  # the member's last segment when it was decided
    hparams_before=pa.string(),
    hparams=pa.string(),
    reason=pa.string(),
    cause=pa.string(),
    data=pa.string(),  # canonical JSON. extend: the new spec; shrink: how; plan: which
    at=_when,
)

#: Decisions: work orders, which carry out what was decided.
ORDERS = _fields(
    order=pa.string(),
    stack=pa.int32(),
    kind=pa.string(),  # work | recovery | saving
    segments=pa.string(),  # trained by it: JSON list of [member, segment]
    at=_when,
)

#: Decisions: the planner's choices, one row per stack and session.
STACKS = _fields(
    session=pa.int32(),
    stack=pa.int32(),
    capacity=pa.int32(),
    bucket=pa.string(),
    device=pa.string(),
    dtype=pa.string(),
    compile=pa.string(),  # auto | never | always
    rng=pa.string(),  # what turns (seed, consumed) into random numbers
    at=_when,
)

#: Observations: how a segment ended, and the hyperparameters the device held while it ran.
OUTCOMES = _fields(
    member=pa.int32(),
    segment=pa.int32(),
    status=pa.string(),  # ended | failed
    hparams_in_effect=pa.string(),
    age_end=pa.int64(),
    consumed_end=pa.int64(),  # less than `until` where a budget cut it short
    score=pa.float64(),  # the objective; NaN where training diverged
    wall_s=pa.float64(),  # of the stack, which trains its members together
    tokens=pa.int64(),
    flops=pa.float64(),  # counted by formula, not measured; null where the trainable does not say
    joules=pa.float64(),  # the member's share of what its device used; null where it cannot be read
    reason=pa.string(),
    at=_when,
)

#: Observations: evaluations that were asked for apart from segments. Their metrics are in `metrics`.
EVALUATIONS = _fields(
    member=pa.int32(),
    segment=pa.int32(),
    split=pa.string(),
    age=pa.int64(),
    consumed=pa.int64(),
    at=_when,
)

#: Observations: metrics as long rows.
METRICS = _fields(
    member=pa.int32(),
    segment=pa.int32(),
    split=pa.string(),  # train | validation | test; system: speed and memory, measured while the segment trained
    name=pa.string(),
    value=pa.float64(),
    age=pa.int64(),
    consumed=pa.int64(),
    at=_when,
)

#: Observations: what was saved, removed, or found damaged.
CHECKPOINTS = _fields(
    member=pa.int32(),
    segment=pa.int32(),
    digest=pa.string(),  # SHA-256 of the safetensors file, which is named after it
    size_bytes=pa.int64(),
    status=pa.string(),  # saved | removed | damaged
    at=_when,
)

#: Observations: one row each time the sweep was taken up: by whom, with what.
SESSIONS = _fields(
    session=pa.int32(),  # counted from 1
    reason=pa.string(),  # start | resume | extend | restart (of a brain under Ray)
    software=pa.string(),  # versions by package, JSON
    hardware=pa.string(),  # JSON
    git_commit=pa.string(),  # of the folder the sweep was started in; `+changes` if it had any
    spec=pa.string(),  # in force, JSON
    at=_when,
)

#: Observations: what went wrong, and what was done about it.
INCIDENTS = _fields(
    kind=pa.string(),  # host_lost | moved | exception | out_of_memory | checkpoint_damaged | checkpoint_failed | ...
    member=pa.int32(),
    segment=pa.int32(),
    stack=pa.int32(),
    message=pa.string(),  # a line for people; below it, the traceback of an exception
    at=_when,
)

#: Observations: what a session has used of the budget so far; the last row of a session counts.
USAGE = _fields(
    session=pa.int32(),
    wall_s=pa.float64(),
    device_s=pa.float64(),  # summed over stacks
    joules=pa.float64(),
    tokens=pa.int64(),
    at=_when,
)

#: Observations: what nodes did, each told of by one of its processes, in long rows.
NODES = _fields(
    session=pa.int32(),
    node=pa.int32(),  # counted from 0 within the session, in the order in which they were heard of
    name=pa.string(),  # with its unit
    value=pa.float64(),  # since the node's last row of that name
    wall_s=pa.float64(),  # how long the session had run
    at=_when,
)

TABLES: Mapping[str, pa.Schema] = {
    "segments": SEGMENTS,
    "decisions": DECISIONS,
    "orders": ORDERS,
    "stacks": STACKS,
    "outcomes": OUTCOMES,
    "evaluations": EVALUATIONS,
    "metrics": METRICS,
    "checkpoints": CHECKPOINTS,
    "sessions": SESSIONS,
    "incidents": INCIDENTS,
    "usage": USAGE,
    "nodes": NODES,
}

#: Columns of each table, to look names up in.
COLUMNS: Mapping[str, frozenset[str]] = {table: frozenset(fields.names) for table, fields in TABLES.items()}

#: Columns of `segments` and `outcomes` that `Ledger.digest` covers: decisions, not observations.
DIGEST = (
    "member",
    "segment",
    "generation",
    "start",
    "parent_member",
    "parent_segment",
    "hparams",
    "hparams_in_effect",
    "seed",
    "bucket",
    "stack",
    "slot",
    "age_start",
    "consumed_start",
    "until",
    "shrink",
)


_encoder = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def canonical(data: Any) -> str:
    """JSON text that is the same for equal data: sorted keys, no spaces, shortest exact floats."""
    return _encoder.encode(data)


def microseconds(at: float) -> int:
    """Seconds since the epoch as whole microseconds, the nearest.

    The fraction is scaled by itself: `at * 1e6` would round once more, and miss by one now and then from 2106 on.
    """
    whole = math.floor(at)
    return whole * 1_000_000 + round((at - whole) * 1e6)


def to_arrow(table: str, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows (with `at` in seconds since the epoch) as an Arrow table of the schema; missing columns become null."""
    schema = TABLES[table]
    rows = list(rows)
    columns = {name: [row.get(name) for row in rows] for name in schema.names}
    columns["at"] = [None if at is None else microseconds(at) for at in columns["at"]]
    return pa.table([pa.array(columns[field.name], type=field.type) for field in schema], schema=schema)


def to_rows(found: pa.Table) -> list[dict[str, Any]]:
    """An Arrow table as rows, with `at` in seconds since the epoch.

    No two microseconds become the same float, nor change their order, before the year 2242.
    """
    names = found.column_names
    columns = [_seconds(found[name]) if name == "at" else found[name].to_pylist() for name in names]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _seconds(stamps: pa.ChunkedArray) -> list[float | None]:
    return [None if us is None else us / 1e6 for us in stamps.cast(pa.int64()).to_pylist()]


def conform(table: str, found: pa.Table) -> pa.Table:
    """A table as any version wrote it, as one of this version: a column it does not have is null."""
    there = set(found.column_names)
    columns = [
        found[field.name] if field.name in there else pa.nulls(found.num_rows, field.type) for field in TABLES[table]
    ]
    return pa.table(columns, schema=TABLES[table])
