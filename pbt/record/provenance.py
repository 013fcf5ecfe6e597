"""Provenance as Arrow tables: segments, schedules, stories, comparisons. docs/provenance.md tells their columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pbt.lineage import Lineage, ScheduleStep, Segment, Stretch
from pbt.member import Hparams, SegmentKey
from pbt.record.schema import canonical, microseconds
from pbt.record.story import Entry

_INT, _LONG, _TEXT, _NUMBER = pa.int32(), pa.int64(), pa.string(), pa.float64()

_SEGMENT = {
    "member": _INT,
    "segment": _INT,
    "generation": _INT,
    "start": _TEXT,
    "parent_member": _INT,
    "parent_segment": _INT,
    "age_start": _LONG,
    "age_end": _LONG,
    "consumed_start": _LONG,
    "consumed_end": _LONG,
    "score": _NUMBER,
    "status": _TEXT,
    "reason": _TEXT,
    "fate": _TEXT,
    "living": pa.bool_(),
    "seed": _LONG,
    "hparams": _TEXT,
    "hparams_in_effect": _TEXT,
}
_STEP = {"age_start": _LONG, "age_end": _LONG, "member": _INT, "keep": _NUMBER, "noise": _NUMBER, "hparams": _TEXT}
_ENTRY = {
    "at": pa.timestamp("us", tz="UTC"),
    "kind": _TEXT,
    "generation": _INT,
    "segment": _INT,
    "age": _LONG,
    "consumed": _LONG,
    "score": _NUMBER,
    "rank": _INT,
    "ranked": _INT,
    "awaited": _INT,
    "other_member": _INT,
    "other_segment": _INT,
    "hparams_before": _TEXT,
    "hparams": _TEXT,
    "in_effect": _TEXT,
    "metrics": _TEXT,
    "detail": _TEXT,
    "reason": _TEXT,
}
_STRETCH = {
    "age_start": _LONG,
    "age_end": _LONG,
    "shared": pa.bool_(),
    "a_member": _INT,
    "a_segment": _INT,
    "b_member": _INT,
    "b_segment": _INT,
    "a_score": _NUMBER,
    "b_score": _NUMBER,
    "differs": pa.list_(_TEXT),
    "a_hparams": _TEXT,
    "b_hparams": _TEXT,
}

#: Columns that hold JSON text.
JSON_COLUMNS = frozenset(
    {"hparams", "hparams_in_effect", "hparams_before", "in_effect", "metrics", "a_hparams", "b_hparams"}
)


def segment_table(lineage: Lineage, segments: Sequence[Segment]) -> pa.Table:
    """One row per segment, in the order given, with a column `hparams/NAME` for each hyperparameter."""
    texts: dict[int, str | None] = {}  # most segments share their hyperparameters with others: told once

    def tell(values: Hparams | None) -> str | None:
        if id(values) not in texts:
            texts[id(values)] = _json(values)
        return texts[id(values)]

    rows = [_segment_row(lineage, segment, tell) for segment in segments]
    return _with_hparams(_table(_SEGMENT, rows), [segment.hparams for segment in segments])


def lineage_table(lineage: Lineage) -> pa.Table:
    """All segments in order of member and index, with the root of each one's ancestry."""
    segments = [lineage.segments[key] for key in sorted(lineage.segments)]
    roots = lineage.roots()
    own = [roots[segment.key] for segment in segments]
    found = segment_table(lineage, segments)
    found = found.append_column("root_member", pa.array([root.member for root in own], _INT))
    return found.append_column("root_segment", pa.array([root.index for root in own], _INT))


def schedule_table(steps: Sequence[ScheduleStep]) -> pa.Table:
    """One row per step, in order of age, with a column `hparams/NAME` for each hyperparameter."""
    rows = [
        {
            "age_start": step.age_start,
            "age_end": step.age_end,
            "member": step.member,
            "keep": step.shrink and step.shrink.keep,
            "noise": step.shrink and step.shrink.noise,
            "hparams": _json(step.hparams),
        }
        for step in steps
    ]
    return _with_hparams(_table(_STEP, rows), [step.hparams for step in steps])


def story_table(entries: Iterable[Entry]) -> pa.Table:
    """One row per entry, in the order given."""
    return _table(_ENTRY, [_entry_row(entry) for entry in entries])


def stretch_table(stretches: Iterable[Stretch]) -> pa.Table:
    """One row per stretch, in the order given."""
    return _table(_STRETCH, [_stretch_row(stretch) for stretch in stretches])


# ---------------------------------------------------------------------------------------------------------- rows


def _segment_row(lineage: Lineage, segment: Segment, tell: Callable[[Hparams | None], str | None]) -> dict[str, Any]:
    fate = lineage.fate(segment.key)
    return {
        **_key("", segment.key),
        "generation": segment.generation,
        "start": segment.start,
        **_key("parent_", segment.parent),
        "age_start": segment.age[0],
        "age_end": segment.age[1],
        "consumed_start": segment.consumed[0],
        "consumed_end": segment.consumed[1],
        "score": segment.score,
        "status": segment.status,
        "reason": segment.reason,
        "fate": fate,
        "living": fate == "held",
        "seed": segment.seed,
        "hparams": tell(segment.hparams),
        "hparams_in_effect": tell(segment.hparams_in_effect),
    }


def _entry_row(entry: Entry) -> dict[str, Any]:
    standing = entry.standing
    return {
        "at": None if entry.at is None else microseconds(entry.at),
        "kind": entry.kind,
        "generation": entry.generation,
        "segment": entry.segment,
        "age": entry.age,
        "consumed": entry.consumed,
        "score": entry.score,
        "rank": standing.rank if standing else None,
        "ranked": standing.of if standing else None,
        "awaited": standing.awaited if standing else None,
        **_key("other_", entry.other),
        "hparams_before": _json(entry.before),
        "hparams": _json(entry.hparams),
        "in_effect": _json(entry.in_effect),
        "metrics": _json(entry.metrics),
        "detail": entry.detail or None,
        "reason": entry.reason or None,
    }


def _stretch_row(stretch: Stretch) -> dict[str, Any]:
    a, b = stretch.a, stretch.b
    return {
        "age_start": stretch.age_start,
        "age_end": stretch.age_end,
        "shared": stretch.is_shared,
        **_key("a_", a.key if a else None),
        **_key("b_", b.key if b else None),
        "a_score": score_at(a, stretch.age_end),
        "b_score": score_at(b, stretch.age_end),
        "differs": differing_names(a.hparams, b.hparams) if a and b else None,
        "a_hparams": _json(a.hparams if a else None),
        "b_hparams": _json(b.hparams if b else None),
    }


def score_at(segment: Segment | None, age: int) -> float | None:
    """A segment's score if it ended at that age."""
    return segment.score if segment is not None and segment.age[1] == age else None


def differing_names(a: Hparams, b: Hparams) -> list[str]:
    """Names of hyperparameters that differ, or that only one has, in order."""
    return sorted(name for name in {*a, *b} if name not in a or name not in b or a[name] != b[name])


def _key(prefix: str, key: SegmentKey | None) -> dict[str, int | None]:
    return {f"{prefix}member": key.member if key else None, f"{prefix}segment": key.index if key else None}


def _json(values: Mapping[str, Any] | None) -> str | None:
    return None if values is None else canonical(dict(values))


# ------------------------------------------------------------------------------------------------------- columns


def _table(columns: Mapping[str, pa.DataType], rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    return pa.table({name: pa.array([row[name] for row in rows], kind) for name, kind in columns.items()})


def _with_hparams(table: pa.Table, values: Sequence[Hparams]) -> pa.Table:
    for name in sorted({name for row in values for name in row}):
        table = table.append_column(f"hparams/{name}", column([row.get(name) for row in values]))
    return table


def column(values: list[Any]) -> pa.Array:
    """Values of a hyperparameter; options of mixed types become words."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else str(value) for value in values])
