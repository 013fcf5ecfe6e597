"""A member's story: everything the ledger says about it, in order of time. Pure; rows in, frozen entries out."""

from __future__ import annotations

import bisect
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias

from pbt.lineage import Lineage, Reference, Segment, Standing, parse
from pbt.member import Hparams, SegmentKey

Row: TypeAlias = Mapping[str, Any]
Rows: TypeAlias = Mapping[str, Iterable[Row]]

Kind: TypeAlias = Literal[
    "start",  # the first segment, from fresh weights
    "restart",  # again from fresh weights
    "copy",  # on another member's weights
    "set",  # on its own weights with other hyperparameters
    "shrink",  # its own weights were shrunk and perturbed
    "freeze",  # it left its slot
    "thaw",  # it took one again
    "ended",  # a segment ended and was scored
    "failed",  # a segment ended in an error
    "running",  # a segment is under way
    "decline",  # an exploit was considered and not done
    "donate",  # another member took over its weights
    "evaluate",  # an evaluation was asked for
    "evaluated",  # and its metrics came
    "saved",  # a checkpoint was written
    "removed",  # or removed, as no longer needed
    "damaged",  # or found damaged
    "incident",  # something went wrong, or was mended
    "retrained",  # a segment was lost with its host or process, and trained again
    "session",  # the sweep was taken up again
    "budget",  # the sweep's budget ended
    "extend",  # the sweep was extended
    "won",  # the sweep came to its end, and announced it
    "finish",  # the sweep came to its end, and announced another, or nobody
]

#: How a recovery ends that had nothing to train again; the last is how it was once told.
_WITHOUT_LOSS = ("loaded from checkpoints", "all states were at hand", " 0 segments trained again")

#: Decisions that open a segment; the segment's own row says what they did.
_OPENING = ("start", "copy", "set", "shrink")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing that happened to a member.

    Attributes:
        at: When it was recorded, seconds since the epoch; None for what is still going on.
        kind: What happened.
        segment: The segment it happened in, or which it began; None for what happened before the first.
        generation: That segment's, from 0.
        age: Steps in the ancestry of the weights, then.
        consumed: Steps the member had run itself.
        score: Of the weights: at the end of a segment, or of the weights handed over.
        standing: Where the score stood in its generation.
        other: The donor's segment of a `copy`, the receiver's of a `donate`, the winner's of `won` and `finish`.
        other_generation: Of a `donate`: the generation, from 0, that the receiver begins with these weights.
        before: Hyperparameters of the segment before, where one begins.
        hparams: Those ordered.
        in_effect: What the device held where that was not what was ordered, by name.
        metrics: Of an `evaluated`.
        detail: One word more: the split, the kind of incident or session, the checkpoint's SHA-256; `stopped`, if a
            segment is under way and nobody trains it.
        reason: The words that were recorded with it.
    """

    at: float | None
    kind: Kind
    segment: int | None = None
    generation: int | None = None
    age: int | None = None
    consumed: int | None = None
    score: float | None = None
    standing: Standing | None = None
    other: SegmentKey | None = None
    other_generation: int | None = None
    before: Hparams | None = None
    hparams: Hparams | None = None
    in_effect: Hparams | None = None
    metrics: Mapping[str, float] | None = None
    detail: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a member was from `at` on: in this segment, or at its end."""

    at: float
    segment: Segment
    is_over: bool
    stack: int | None

    def entry(self, at: float | None, kind: Kind, **facts: Any) -> Entry:
        """Something that happened there."""
        end = int(self.is_over)
        segment = self.segment
        return Entry(
            at=at,
            kind=kind,
            segment=segment.key.index,
            generation=segment.generation,
            age=segment.age[end],
            consumed=segment.consumed[end],
            **facts,
        )


class _Track:
    """Where a member was at any time."""

    def __init__(self, lineage: Lineage, rows: Rows, member: int) -> None:
        def places(table: str) -> list[_Place]:
            keyed = [(SegmentKey(member, row["segment"]), row) for row in _of(rows, table, member)]
            return [
                _Place(row["at"], lineage.segments[key], table == "outcomes", row.get("stack"))
                for key, row in keyed
                if key in lineage.segments
            ]

        self.begun, self.over = places("segments"), places("outcomes")
        self._places = sorted([*self.begun, *self.over], key=lambda place: place.at)
        self._times = [place.at for place in self._places]

    def entry(self, at: float, kind: Kind, **facts: Any) -> Entry:
        """Something that happened at a time."""
        place = self._before(at)
        return Entry(at=at, kind=kind, **facts) if place is None else place.entry(at, kind, **facts)

    def has_begun(self, at: float) -> bool:
        """Whether the member was there: what concerns the whole sweep is no part of its story before."""
        return self._before(at) is not None

    def at_end_of(self, segment: int | None) -> Callable[..., Entry]:
        """Makes entries at the end of a segment; of one that has not ended, where the member was at that time."""
        over = [place for place in self.over if place.segment.key.index == segment]
        return over[-1].entry if over else self.entry

    def is_on(self, stack: int | None, at: float) -> bool:
        """Whether the member was last sent to that stack."""
        begun = [place for place in self.begun if place.at <= at]
        return stack is not None and bool(begun) and begun[-1].stack == stack

    def _before(self, at: float) -> _Place | None:
        index = bisect.bisect_right(self._times, at)
        return self._places[index - 1] if index else None


def story(
    lineage: Lineage, rows: Rows, reference: Reference, objective: Mapping[str, str], *, is_trained: bool = True
) -> list[Entry]:
    """What happened to a member, or in one of its segments, in order of time.

    Args:
        lineage: Of the same rows.
        rows: The ledger's, by table.
        reference: A member (3), or one of its segments (3:5).
        objective: `mode` and `split` of the score.
        is_trained: Whether anybody trains the sweep now; if not, what was under way was stopped, or lost.

    Raises:
        MemberNotFound: There is no such member or segment.
    """
    lineage.find(reference)
    member, index = parse(reference)
    track = _Track(lineage, rows, member)
    tellers: Sequence[Callable[[], Iterable[Entry]]] = (
        partial(_beginnings, lineage, rows, track, member),
        partial(_endings, lineage, track, objective["mode"]),
        partial(_under_way, track, is_trained),
        partial(_donations, lineage, rows, member),
        partial(_decisions, lineage, rows, track, member),
        partial(_evaluations, rows, track, member, objective["split"]),
        partial(_checkpoints, rows, track, member),
        partial(_incidents, rows, track, member),
        partial(_retrained, rows, track, member),
        partial(_sessions, rows, track),
    )
    entries = [entry for tell in tellers for entry in tell() if index in (None, entry.segment)]
    return sorted(entries, key=lambda entry: math.inf if entry.at is None else entry.at)


def differing(wanted: Hparams, held: Hparams) -> dict[str, Any]:
    """Values held that are not those wanted; a device may round to float32, so to one part in a million."""
    return {name: held.get(name) for name, value in wanted.items() if not _is_same(value, held.get(name))}


# --------------------------------------------------------------------------------------------------- the tellers


def _beginnings(lineage: Lineage, rows: Rows, track: _Track, member: int) -> Iterator[Entry]:
    """What each segment began with, where that is news, and why."""
    decided = [row for row in _of(rows, "decisions", member) if row["kind"] in _OPENING]
    since = -math.inf
    for place in sorted(track.begun, key=lambda place: place.at):
        told = [row["reason"] for row in decided if since < row["at"] < place.at and row.get("reason")]
        reason = "; ".join(dict.fromkeys(told))  # a copy that is then shrunk has one reason
        since = place.at
        if (entry := _beginning(lineage, place)) is not None:
            yield replace(entry, reason=reason)


def _beginning(lineage: Lineage, place: _Place) -> Entry | None:
    segment = place.segment
    before = lineage.segments.get(SegmentKey(segment.key.member, segment.key.index - 1))
    values = {"before": before.hparams if before else None, "hparams": segment.hparams}
    if segment.start == "copied" and segment.parent is not None:
        score = lineage.segments[segment.parent].score
        return place.entry(place.at, "copy", other=segment.parent, score=score, **values)
    if segment.start == "fresh":
        return place.entry(place.at, "restart" if before else "start", **values)
    if segment.shrink is not None:
        return place.entry(place.at, "shrink", **values)
    if before is not None and before.hparams != segment.hparams:
        return place.entry(place.at, "set", **values)
    return None


def _endings(lineage: Lineage, track: _Track, mode: str) -> Iterator[Entry]:
    for place in track.over:
        segment = place.segment
        yield place.entry(
            place.at,
            "failed" if segment.status == "failed" else "ended",
            score=segment.score,
            standing=lineage.standing(segment.key, mode),
            hparams=segment.hparams,
            in_effect=differing(segment.hparams, segment.hparams_in_effect or segment.hparams) or None,
            reason=segment.reason,
        )


def _under_way(track: _Track, is_trained: bool) -> Iterator[Entry]:
    for place in track.begun:
        if place.segment.status == "running":
            detail = "" if is_trained else "stopped"
            yield place.entry(None, "running", hparams=place.segment.hparams, detail=detail)


def _donations(lineage: Lineage, rows: Rows, member: int) -> Iterator[Entry]:
    for row in rows["segments"]:
        if row["start"] == "copied" and row.get("parent_member") == member:
            given = lineage.segments[SegmentKey(member, row["parent_segment"])]
            receiver = SegmentKey(row["member"], row["segment"])
            place = _Place(row["at"], given, True, None)
            facts = {"score": given.score, "other": receiver, "other_generation": row["generation"]}
            yield place.entry(row["at"], "donate", **facts)


def _decisions(lineage: Lineage, rows: Rows, track: _Track, member: int) -> Iterator[Entry]:
    """Decisions that open no segment: about this member, or about the whole sweep."""
    for row in rows["decisions"]:
        kind, whose = row["kind"], row.get("member")
        concerns = whose == member if kind in ("decline", "evaluate", "freeze", "thaw") else track.has_begun(row["at"])
        if kind in _OPENING or not concerns or not _is_of_its_stack(row, track):
            continue
        if kind != "finish" or whose is None:
            yield track.entry(row["at"], kind, reason=row.get("reason") or "")
            continue
        winner = SegmentKey(whose, lineage.last(whose).key.index)
        end: Kind = "won" if whose == member else "finish"
        yield track.entry(row["at"], end, other=winner, reason=row.get("reason") or "")


def _is_of_its_stack(decision: Row, track: _Track) -> bool:
    """Whether a plan is that of the stack that the member was on; other decisions concern no stack."""
    if decision["kind"] != "plan" or not decision.get("data"):
        return True
    return track.is_on(json.loads(decision["data"]).get("stack"), decision["at"])


def _evaluations(rows: Rows, track: _Track, member: int, split: str) -> Iterator[Entry]:
    """Evaluations apart from segments; old ledgers have no rows of them, only the metrics.

    Measurements of the system are none: its speed is no reason for anything.
    """
    asked = {(row["segment"], row["split"]): row["at"] for row in _of(rows, "evaluations", member)}
    found: dict[tuple[int, str], dict[str, float]] = defaultdict(dict)
    came: dict[tuple[int, str], float] = {}
    for row in _of(rows, "metrics", member):
        where = row["segment"], row["split"]
        if where in asked or row["split"] not in ("train", "system", split):
            found[where][row["name"]] = row["value"]
            came[where] = row["at"]
    scored = {place.segment.key.index: place.at for place in track.over}
    for where, metrics in found.items():
        # What a report brought besides the score stands in the ledger before it, and is told after it.
        at = asked.get(where) or max(came[where], scored.get(where[0], came[where]))
        yield track.entry(at, "evaluated", metrics=metrics, detail=where[1])


def _checkpoints(rows: Rows, track: _Track, member: int) -> Iterator[Entry]:
    for row in _of(rows, "checkpoints", member):
        tell = track.at_end_of(row["segment"])
        yield tell(row["at"], row.get("status") or "saved", detail=row.get("digest") or "")


def is_routine(incident: Mapping[str, Any]) -> bool:
    """Whether nothing went wrong: a sweep was taken up, and everybody's state was loaded."""
    return incident["kind"] == "recovered" and str(incident.get("message")).endswith(_WITHOUT_LOSS)


def _incidents(rows: Rows, track: _Track, member: int) -> Iterator[Entry]:
    """Those of the member, those of the stack it was on, and those of the whole sweep."""
    for row in rows.get("incidents", ()):
        if is_routine(row):
            continue
        whose, stack = row.get("member"), row.get("stack")
        is_everybodys = whose is None and stack is None and track.has_begun(row["at"])
        if whose == member or is_everybodys or (whose is None and track.is_on(stack, row["at"])):
            tell = track.at_end_of(row.get("segment") if whose == member else None)
            yield tell(row["at"], "incident", detail=row["kind"], reason=(row.get("message") or "").partition("\n")[0])


def _retrained(rows: Rows, track: _Track, member: int) -> Iterator[Entry]:
    """Orders of a recovery; what they gave is not recorded twice."""
    for row in rows.get("orders", ()):
        if row["kind"] == "recovery":
            for segment in (index for who, index in json.loads(row["segments"]) if who == member):
                yield track.at_end_of(segment)(row["at"], "retrained", detail=row["order"])


def _sessions(rows: Rows, track: _Track) -> Iterator[Entry]:
    for row in rows.get("sessions", ()):
        if row["session"] > 1 and track.has_begun(row["at"]):
            yield track.entry(row["at"], "session", detail=row.get("reason") or "")


# ------------------------------------------------------------------------------------------------------- helpers


def _of(rows: Rows, table: str, member: int) -> list[Row]:
    return [row for row in rows.get(table, ()) if row.get("member") == member]


def _is_same(wanted: Any, held: Any) -> bool:
    numbers = (int, float)
    if isinstance(wanted, Mapping) and isinstance(held, Mapping):
        return not differing(wanted, held)
    if isinstance(wanted, numbers) and isinstance(held, numbers):
        return math.isclose(wanted, held, rel_tol=1e-6)
    return bool(wanted == held)
