"""A run's segments as numpy columns, for pictures and statistics of sweeps of any size. Pure; tables in, arrays out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pbt.member import Hparams

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Flags: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Frame:
    """All segments, one entry of each column for each, in order of member and segment.

    Attributes:
        member: Whose it is.
        segment: Its number within the member, from 0.
        generation: From 0.
        stack: The stack that trained it.
        parent: Entry of the segment that ended in the weights it started from; -1 where there is none.
        is_copy: Whether these were another member's.
        is_ended: Whether it came to its end; neither this nor `is_failed` while it is under way.
        is_failed: Whether its member failed in it.
        age: Steps in the ancestry of the weights at start and end, `(segments, 2)`; NaN where it has no end yet.
        consumed: Steps the member ran itself, likewise.
        score: The objective at its end; NaN without one, and where training diverged.
        is_scored: Whether there is one, be it no number.
        decided_at: Seconds since the epoch when it was decided.
        ended_at: When its end was recorded; NaN where it has none.
        order: Which work order trained it: equal numbers, one order; -1 where it has no end yet.
        wall_s: Seconds its stack took to train it; NaN where not known, as in the next three.
        tokens: Tokens it was trained on.
        flops: Model FLOPs.
        joules: Its share of the energy.
        distinct: The hyperparameters there are, each once.
        hparams: Entry in `distinct` of those that were ordered.
        in_effect: Those that the device held, as JSON; null where that is not known.
        reason: Why it failed; null or empty where it did not.
    """

    member: Ints
    segment: Ints
    generation: Ints
    stack: Ints
    parent: Ints
    is_copy: Flags
    is_ended: Flags
    is_failed: Flags
    age: Floats
    consumed: Floats
    score: Floats
    is_scored: Flags
    decided_at: Floats
    ended_at: Floats
    order: Ints
    wall_s: Floats
    tokens: Floats
    flops: Floats
    joules: Floats
    distinct: tuple[Hparams, ...]
    hparams: Ints
    in_effect: pa.ChunkedArray
    reason: pa.ChunkedArray

    def __len__(self) -> int:
        """How many segments there are."""
        return len(self.member)

    @cached_property
    def is_diverged(self) -> Flags:
        """Whether it ended in a score that is no number."""
        return self.is_ended & self.is_scored & np.isnan(self.score)

    @cached_property
    def is_last(self) -> Flags:
        """Whether it is the newest of its member."""
        return np.append(self.member[1:] != self.member[:-1], True)[: len(self)]

    @cached_property
    def ends(self) -> Ints:
        """For each member, in order, the entry of its last segment that ended, or of its first if none has."""
        firsts = np.flatnonzero(np.append(True, self.member[1:] != self.member[:-1])[: len(self)])
        entries = np.where(self.is_ended, np.arange(len(self)), -1)
        return np.maximum(np.maximum.reduceat(entries, firsts), firsts) if len(firsts) else firsts

    @cached_property
    def is_living(self) -> Flags:
        """For each member, in order, whether it has not failed."""
        return ~self.is_failed[self.is_last]

    @cached_property
    def is_own(self) -> Flags:
        """Whether it went on from the weights its member had."""
        return ~self.is_copy & (self.parent >= 0)

    @cached_property
    def _keys(self) -> Ints:
        return _key(self.member, self.segment)

    def find(self, member: Ints, segment: Ints) -> Ints:
        """Entries of segments; -1 for those that are not there."""
        return _places(self._keys, _key(member, segment))

    def leader(self, mode: str) -> int | None:
        """Entry of the best last score of a living member; None where there is none."""
        scores = self.score[self.ends] * (1 if mode == "min" else -1)
        scores = np.where(self.is_living & ~np.isnan(scores), scores, np.inf)
        found = int(np.argmin(scores)) if len(scores) else -1
        return int(self.ends[found]) if found >= 0 and scores[found] < np.inf else None

    def path(self, entry: int) -> Ints:
        """Entries of the ancestry of a segment's weights, root first, its own last."""
        found = [entry]
        while (parent := int(self.parent[found[-1]])) >= 0:
            found.append(parent)
        return np.array(found[::-1])

    def each(self, read: Callable[[Hparams], float | None]) -> Floats:
        """A number read from every segment's hyperparameters; NaN for None."""
        return _each(read, self.distinct)[self.hparams]

    def each_in_effect(self, read: Callable[[Hparams], float | None]) -> Floats:
        """A number read from what the device held; NaN for None, and where that is not known."""
        distinct, entries = self._held
        return _each(read, distinct)[entries]

    @cached_property
    def _held(self) -> tuple[tuple[Hparams, ...], Ints]:
        return _distinct(self.in_effect)


def frame(tables: Mapping[str, pa.Table]) -> Frame:
    """The columns of a ledger's `segments`, `outcomes` and `orders`."""
    segments, outcomes = tables["segments"], tables["outcomes"]
    keys, rows = _last_of_each(_keys(segments))
    chosen = segments.take(rows)
    ends = outcomes.take(_rows_of(_places(keys, _keys(outcomes)), len(keys)))
    status = np.asarray(pc.fill_null(ends["status"], ""))
    parent = _key(whole(chosen, "parent_member"), whole(chosen, "parent_segment"))
    distinct, hparams = _distinct(chosen["hparams"])
    return Frame(
        member=whole(chosen, "member"),
        segment=whole(chosen, "segment"),
        generation=whole(chosen, "generation"),
        stack=whole(chosen, "stack"),
        parent=_places(keys, parent),
        is_copy=np.asarray(chosen["start"]) == "copied",
        is_ended=status == "ended",
        is_failed=status == "failed",
        age=np.column_stack([_number(chosen, "age_start"), _number(ends, "age_end")]),
        consumed=np.column_stack([_number(chosen, "consumed_start"), _number(ends, "consumed_end")]),
        score=_number(ends, "score"),
        is_scored=np.asarray(ends["score"].is_valid()),
        decided_at=seconds(chosen),
        ended_at=seconds(ends),
        order=np.where(status == "", -1, _orders(keys, chosen, tables["orders"])),
        wall_s=_number(ends, "wall_s"),
        tokens=_number(ends, "tokens"),
        flops=_number(ends, "flops"),
        joules=_number(ends, "joules"),
        distinct=distinct,
        hparams=hparams,
        in_effect=ends["hparams_in_effect"],
        reason=ends["reason"],
    )


@dataclass(frozen=True, kw_only=True)
class Points:
    """All values of a metric, in order of their segments and, within a segment, as they were measured.

    Attributes:
        entry: The segment it is of, as its entry in the frame.
        age: Steps in the ancestry of the weights.
        consumed: Steps the member ran itself.
        value: What was measured.
    """

    entry: Ints
    age: Ints
    consumed: Ints
    value: Floats

    def until(self, num_segments: int) -> Ints:
        """For each segment, the place behind its last value."""
        return np.searchsorted(self.entry, np.arange(num_segments), "right")


def points(metrics: pa.Table, segments: Frame, split: str, name: str) -> Points:
    """The values of one metric; what is of no known segment is left out."""
    rows = metrics.filter(pc.and_(pc.equal(metrics["split"], split), pc.equal(metrics["name"], name)))
    entry, age = segments.find(whole(rows, "member"), whole(rows, "segment")), whole(rows, "age")
    order = np.lexsort((age, entry))
    order = order[entry[order] >= 0]
    return Points(
        entry=entry[order],
        age=age[order],
        consumed=whole(rows, "consumed")[order],
        value=_number(rows, "value")[order],
    )


def seconds(table: pa.Table) -> Floats:
    """When each row was recorded, in seconds since the epoch; NaN for null."""
    return _number(table.select(["at"]).cast(pa.schema([("at", pa.int64())])), "at") / 1e6


def _orders(keys: Ints, segments: pa.Table, orders: pa.Table) -> Ints:
    """Which order trained each segment; where that is not recorded, those of a stack and generation are one."""
    _, found = np.unique(_key(whole(segments, "stack"), whole(segments, "generation")), return_inverse=True)
    work = orders.filter(pc.equal(orders["kind"], "work"))
    trained = [json.loads(text or "[]") for text in work["segments"].to_pylist()]
    pairs = np.array([pair for each in trained for pair in each], dtype=np.int64).reshape(-1, 2)
    numbers = np.repeat(np.arange(len(trained)), [len(each) for each in trained])
    places = _places(keys, _key(pairs[:, 0], pairs[:, 1]))
    found = found + len(trained)  # so that no two meet
    found[places[places >= 0]] = numbers[places >= 0]
    return found


def _distinct(texts: pa.ChunkedArray) -> tuple[tuple[Hparams, ...], Ints]:
    """Hyperparameters, each once, and which of them every entry has; -1 for null. Most are another's, too."""
    coded = pc.dictionary_encode(texts.combine_chunks())
    values = tuple(json.loads(text) for text in coded.dictionary.to_pylist())
    return values, np.asarray(pc.fill_null(coded.indices, -1), dtype=np.int64)


def _each(read: Callable[[Hparams], float | None], values: Sequence[Hparams]) -> Floats:
    """A number read from each; NaN for None, and behind the last, where the entry -1 finds it."""
    found = [*map(read, values), None]
    return np.array([np.nan if value is None else value for value in found], dtype=float)


def _rows_of(places: Ints, size: int) -> pa.Array:
    """For each entry, the last row that has it as its place; null for those that none has."""
    rows = np.full(size, -1)
    rows[places[places >= 0]] = np.flatnonzero(places >= 0)
    return pa.array(rows, mask=rows < 0)


def _keys(table: pa.Table) -> Ints:
    return _key(whole(table, "member"), whole(table, "segment"))


def _key(member: Ints, segment: Ints) -> Ints:
    """Member and segment in one number, in their order; negative where there is none."""
    return (member << 32) + segment


def _last_of_each(keys: Ints) -> tuple[Ints, Ints]:
    """The keys in order, and the last row of each."""
    found, rows = np.unique(keys[::-1], return_index=True)
    return found, len(keys) - 1 - rows


def _places(keys: Ints, wanted: Ints) -> Ints:
    """Where in `keys`, which are in order, the wanted ones are; -1 for those that are not there."""
    if not len(keys):
        return np.full(len(wanted), -1)
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, places, -1)


def whole(table: pa.Table, name: str) -> Ints:
    """A column of whole numbers, -1 for null."""
    return np.asarray(pc.fill_null(table[name].cast(pa.int64()), -1), dtype=np.int64)


def _number(table: pa.Table, name: str) -> Floats:
    """A column of numbers, NaN for null."""
    return np.asarray(pc.fill_null(table[name].cast(pa.float64()), float("nan")), dtype=float)
