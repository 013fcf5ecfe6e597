"""The lineage: the graph of segments, read from a ledger's rows. Pure; knows no files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pbt.member import Hparams, SegmentKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A stretch of one member's training at constant hyperparameters.

    Attributes:
        key: Member and index.
        generation: The generation it belongs to, from 0.
        start: Where its weights come from.
        parent: The segment that ended in those weights; None if fresh.
        hparams: What was ordered.
        hparams_in_effect: What the device held; None while the segment is under way.
        seed: The member's seed.
        age: Steps in the ancestry of the weights, at start and end; the end is None while under way.
        consumed: Steps the member ran itself, likewise.
        score: The objective at its end; None while under way, NaN where training diverged.
        status: `running`, `ended` or `failed`.
        reason: Why it failed, or empty.
    """

    key: SegmentKey
    generation: int
    start: Literal["fresh", "own", "copied"]
    parent: SegmentKey | None
    hparams: Hparams
    hparams_in_effect: Hparams | None
    seed: int
    age: tuple[int, int | None]
    consumed: tuple[int, int | None]
    score: float | None
    status: Literal["running", "ended", "failed"]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ScheduleStep:
    """One stretch of a schedule: from `age_start` to `age_end` steps, these hyperparameters, trained by `member`."""

    age_start: int
    age_end: int
    hparams: Hparams
    member: int


class Lineage:
    """All segments of a sweep.

    Args:
        segments: In any order.
    """

    def __init__(self, segments: Iterable[Segment]) -> None:
        self.segments: dict[SegmentKey, Segment] = {segment.key: segment for segment in segments}

    @classmethod
    def from_rows(cls, rows: Mapping[str, Iterable[Mapping[str, Any]]]) -> Lineage:
        """Build from the rows of a ledger's `segments` and `outcomes` tables."""
        outcomes = {(row["member"], row["segment"]): row for row in rows["outcomes"]}
        return cls(_segment(row, outcomes.get((row["member"], row["segment"]))) for row in rows["segments"])

    @property
    def members(self) -> list[int]:
        """Ids of all members, ascending."""
        return sorted({key.member for key in self.segments})

    def of(self, member: int) -> list[Segment]:
        """A member's own segments, first to last."""
        keys = sorted(key for key in self.segments if key.member == member)
        return [self.segments[key] for key in keys]

    def last(self, member: int) -> Segment:
        """A member's last segment that has ended, or its first if none has."""
        own = self.of(member)
        return next((segment for segment in reversed(own) if segment.status == "ended"), own[0])

    def path(self, key: SegmentKey) -> list[Segment]:
        """The ancestry of a segment's weights, root first, the segment itself last."""
        found: list[Segment] = []
        cursor: SegmentKey | None = key
        while cursor is not None:
            found.append(self.segments[cursor])
            cursor = found[-1].parent
        return found[::-1]

    def schedule(self, member: int) -> list[ScheduleStep]:
        """The hyperparameters the member's present weights were trained with, from age 0 on.

        Consecutive segments with equal hyperparameters, trained by one member, are one step.
        """
        steps: list[ScheduleStep] = []
        for segment in self.path(self.last(member).key):
            end = segment.age[1] if segment.age[1] is not None else segment.age[0]
            who = segment.key.member
            if steps and steps[-1].hparams == segment.hparams and steps[-1].member == who:
                steps[-1] = ScheduleStep(steps[-1].age_start, end, segment.hparams, who)
            else:
                steps.append(ScheduleStep(segment.age[0], end, segment.hparams, who))
        return steps

    def exploits(self) -> list[Segment]:
        """Segments that began with a copy of another member's weights, in order of generation and member."""
        copied = [segment for segment in self.segments.values() if segment.start == "copied"]
        return sorted(copied, key=lambda segment: (segment.generation, segment.key))


def better(mode: str, score: float, other: float) -> bool:
    """Whether `score` beats `other`; NaN beats nothing and anything finite beats NaN."""
    if math.isnan(score) or math.isnan(other):
        return math.isnan(other) and not math.isnan(score)
    return score < other if mode == "min" else score > other


def _segment(row: Mapping[str, Any], outcome: Mapping[str, Any] | None) -> Segment:
    parent = None
    if row.get("parent_member") is not None:
        parent = SegmentKey(row["parent_member"], row["parent_segment"])
    ended = outcome or {}
    effect = ended.get("hparams_in_effect")
    return Segment(
        key=SegmentKey(row["member"], row["segment"]),
        generation=row["generation"],
        start=row["start"],
        parent=parent,
        hparams=json.loads(row["hparams"]),
        hparams_in_effect=json.loads(effect) if effect else None,
        seed=row["seed"],
        age=(row["age_start"], ended.get("age_end")),
        consumed=(row["consumed_start"], ended.get("consumed_end")),
        score=ended.get("score"),
        status=ended.get("status", "running"),
        reason=ended.get("reason") or "",
    )
