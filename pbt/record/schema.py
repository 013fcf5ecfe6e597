"""The ledger's tables, version 1.

Decision tables are written before what they say is done; observation tables say what then happened. Rows are plain
dictionaries in the program and Arrow on disk. Hyperparameters are kept as canonical JSON text, so a float comes back
bit for bit and every sweep has the same schema.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

VERSION = 1

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
    seed=pa.int64(),
    bucket=pa.string(),
    stack=pa.int32(),
    slot=pa.int32(),
    age_start=pa.int64(),
    consumed_start=pa.int64(),
    until=pa.int64(),  # value of `consumed` at which it ends
    cause=pa.string(),  # id of the event behind the decision
    at=_when,
)

#: Decisions: everything a strategy ordered or declined, in words.
DECISIONS = _fields(
    kind=pa.string(),  # start | copy | set | decline | evaluate | finish
    member=pa.int32(),  # null where there is none
    donor=pa.int32(),
    segment=pa.int32(),  # the member's last segment when it was decided
    hparams_before=pa.string(),
    hparams=pa.string(),
    reason=pa.string(),
    cause=pa.string(),
    at=_when,
)

#: Observations: how a segment ended, and the hyperparameters the device held while it ran.
OUTCOMES = _fields(
    member=pa.int32(),
    segment=pa.int32(),
    status=pa.string(),  # ended | failed
    hparams_in_effect=pa.string(),
    age_end=pa.int64(),
    consumed_end=pa.int64(),
    score=pa.float64(),  # the objective; NaN where training diverged
    wall_s=pa.float64(),  # of the stack, which trains its members together
    tokens=pa.int64(),
    reason=pa.string(),
    at=_when,
)

#: Observations: metrics as long rows.
METRICS = _fields(
    member=pa.int32(),
    segment=pa.int32(),
    split=pa.string(),  # train | validation | test
    name=pa.string(),
    value=pa.float64(),
    age=pa.int64(),
    consumed=pa.int64(),
    at=_when,
)

#: Observations: what was saved.
CHECKPOINTS = _fields(
    member=pa.int32(),
    segment=pa.int32(),
    digest=pa.string(),  # SHA-256 of the safetensors file, which is named after it
    size_bytes=pa.int64(),
    at=_when,
)

TABLES: Mapping[str, pa.Schema] = {
    "segments": SEGMENTS,
    "decisions": DECISIONS,
    "outcomes": OUTCOMES,
    "metrics": METRICS,
    "checkpoints": CHECKPOINTS,
}

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
)


def canonical(data: Any) -> str:
    """JSON text that is the same for equal data: sorted keys, no spaces, shortest exact floats."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def to_arrow(table: str, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows (with `at` in seconds since the epoch) as an Arrow table of the schema; missing columns become null."""
    schema = TABLES[table]
    rows = list(rows)
    columns = {field.name: [row.get(field.name) for row in rows] for field in schema}
    columns["at"] = [None if at is None else round(at * 1e6) for at in columns["at"]]
    return pa.table([pa.array(columns[field.name], type=field.type) for field in schema], schema=schema)
