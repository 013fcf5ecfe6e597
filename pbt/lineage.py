"""The lineage: the graph of segments, read from a ledger's rows. Pure; knows no files."""

from __future__ import annotations

import itertools
import json
import math
import operator
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, Literal, SupportsIndex, TypeAlias

from pbt.errors import LedgerError, PbtError
from pbt.member import Hparams, SegmentKey, Shrinkage

#: How people name weights: a member (`3`, its present ones) or one of its segments (`3:5`, those it ended in).
Reference: TypeAlias = "int | str | SegmentKey"


class MemberNotFound(PbtError):
    """No member, or no segment, of that name."""


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
        shrink: How its weights were shrunk and perturbed before it began; None if they were not.
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
    shrink: Shrinkage | None = None


@dataclass(frozen=True, slots=True)
class ScheduleStep:
    """One stretch of a schedule: from `age_start` to `age_end` steps, these hyperparameters, trained by `member`.

    `shrink` says how the weights were shrunk and perturbed at its start; None if they were not.
    """

    age_start: int
    age_end: int
    hparams: Hparams
    member: int
    shrink: Shrinkage | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """Consecutive segments of one member, each on the weights of the one before: first to last, at least one."""

    segments: tuple[Segment, ...]

    @property
    def first(self) -> Segment:
        """Where it begins: fresh, or with a copy of another line's weights."""
        return self.segments[0]

    @property
    def last(self) -> Segment:
        """Where it ends, or has come to."""
        return self.segments[-1]


_NOTHING = "Nothing was trained yet"

#: What became of the weights in which a segment ended: the member holds them, or it failed, went on from them, was
#: given a copy of another's instead, or began again.
Fate: TypeAlias = Literal["held", "failed", "trained on", "replaced", "restarted"]


@dataclass(frozen=True, slots=True)
class Standing:
    """A score among those of its generation: the `rank`-th of `of`, best first, with `awaited` still to come."""

    rank: int
    of: int
    awaited: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of age in two ancestries: the segments that trained then, None where that ancestry is over."""

    age_start: int
    age_end: int
    a: Segment | None
    b: Segment | None

    @property
    def is_shared(self) -> bool:
        """Whether both are one and the same training."""
        return self.a is not None and self.b is not None and self.a.key == self.b.key


class Lineage:
    """All segments of a sweep. Asking costs what the answer is long; the segments are indexed once, here.

    Args:
        segments: In any order.

    Raises:
        LedgerError: They are no lineage: a parent is missing, or a segment descends from itself.
    """

    def __init__(self, segments: Iterable[Segment]) -> None:
        self.segments: dict[SegmentKey, Segment] = {segment.key: segment for segment in segments}
        self._own: dict[int, list[Segment]] = _by_member(self.segments)
        #: Children other than the next segment of the same member, which needs no index.
        self._branches: dict[SegmentKey, list[Segment]] = defaultdict(list)
        ages_rise = True
        for segment in self.segments.values():
            if (key := segment.parent) is None:
                continue
            if (parent := self.segments.get(key)) is None:
                raise LedgerError(
                    f"segment {tell(segment.key)} starts from {tell(key)}, which the ledger does not have. "
                    "Restore it from a backup."
                )
            if not _follows(segment.key, key):
                self._branches[key].append(segment)
            ages_rise &= parent.age[0] < segment.age[0]
        if not ages_rise:  # where they do, there is no circle
            self._check_roots()

    @classmethod
    def from_rows(cls, rows: Mapping[str, Iterable[Mapping[str, Any]]]) -> Lineage:
        """Build from the rows of a ledger's `segments` and `outcomes` tables."""
        outcomes = {(row["member"], row["segment"]): row for row in rows["outcomes"]}
        read = cache(json.loads)  # most segments have another's hyperparameters: kept once
        return cls(_segment(row, outcomes.get((row["member"], row["segment"])), read) for row in rows["segments"])

    def _check_roots(self) -> None:
        """See that every segment descends from one without a parent."""
        rooted = [segment for segment in self.segments.values() if segment.parent is None]
        for segment in rooted:  # which grows while it is walked
            rooted += self.children(segment.key)
        lost = self.segments.keys() - {segment.key for segment in rooted}
        if lost:
            circle = self._repeated(min(lost))
            raise LedgerError(f"segment {tell(circle)} descends from itself. Restore the ledger from a backup.")

    def _repeated(self, lost: SegmentKey) -> SegmentKey:
        """The first segment met twice on the way from one that has no root."""
        seen: set[SegmentKey] = set()
        cursor = lost
        while cursor not in seen:
            seen.add(cursor)
            cursor = self.segments[cursor].parent or cursor
        return cursor

    # ------------------------------------------------------------------------------------------------- members

    @property
    def members(self) -> list[int]:
        """Ids of all members, ascending."""
        return list(self._own)

    def of(self, member: int) -> list[Segment]:
        """A member's own segments, first to last; empty if there is no such member."""
        return list(self._own.get(member, ()))

    def last(self, member: int) -> Segment:
        """A member's last segment that has ended, or its first if none has.

        Raises:
            MemberNotFound: There is no such member.
        """
        own = self._known(member)
        return next((segment for segment in reversed(own) if segment.status == "ended"), own[0])

    def present(self, member: int) -> Segment:
        """The segment a member is in now: its newest, or if that failed, its last that ended.

        Raises:
            MemberNotFound: There is no such member.
        """
        own = self._known(member)
        return self.last(member) if own[-1].status == "failed" else own[-1]

    def is_living(self, member: int) -> bool:
        """Whether the member has not failed."""
        return self._known(member)[-1].status != "failed"

    def find(self, reference: Reference) -> Segment:
        """The segment that is meant: the one named, or the member's present one.

        Raises:
            MemberNotFound: There is none.
        """
        member, index = parse(reference)
        own = self._known(member)
        if index is None:
            return self.present(member)
        if (found := self.segments.get(SegmentKey(member, index))) is None:
            raise MemberNotFound(
                f"MEMBER: member {member} has no segment {index}. "
                f"Its {_all_of('segment', tell(own[0].key), tell(own[-1].key))}."
            )
        return found

    def meant(self, reference: Reference) -> list[Segment]:
        """All segments that are meant: the one named, or all of the member's own.

        Raises:
            MemberNotFound: There is none.
        """
        found = self.find(reference)
        return [found] if parse(reference)[1] is not None else self.of(found.key.member)

    def _known(self, member: int) -> Sequence[Segment]:
        own = self._own.get(member)
        if not own:
            there = f"Its {_all_of('member', *map(str, (min(self._own), max(self._own))))}" if self._own else _NOTHING
            raise MemberNotFound(f"MEMBER: the sweep has no member {member}. {there}.")
        return own

    # ------------------------------------------------------------------------------------------------ ancestry

    def path(self, key: SegmentKey) -> list[Segment]:
        """The ancestry of a segment's weights, root first, the segment itself last."""
        found: list[Segment] = []
        cursor: SegmentKey | None = key
        while cursor is not None:
            found.append(self.segments[cursor])
            cursor = found[-1].parent
        return found[::-1]

    def ancestors(self, reference: Reference) -> list[Segment]:
        """The segments that made the weights of a member, or those a segment ended in: root first, itself last.

        Raises:
            MemberNotFound: There is no such member or segment.
        """
        return self.path(self.find(reference).key)

    def children(self, key: SegmentKey) -> list[Segment]:
        """Segments that start from the weights in which this one ended, the member's own next one first."""
        own = self.following(key)
        continued = [own] if own is not None and own.parent == key else []
        return continued + self._branches.get(key, [])

    def descendants(self, reference: Reference) -> list[Segment]:
        """All segments in whose ancestry the segment, or any of the member's, is: that one and its own included.

        In order of age.

        Raises:
            MemberNotFound: There is no such member or segment.
        """
        found = {segment.key: segment for segment in self.meant(reference)}
        waiting = list(found)
        while waiting:
            fresh = {child.key: child for child in self.children(waiting.pop()) if child.key not in found}
            found |= fresh
            waiting += fresh
        return sorted(found.values(), key=lambda segment: (segment.age[0], segment.generation, segment.key))

    def roots(self) -> dict[SegmentKey, SegmentKey]:
        """The first ancestor of every segment's weights."""
        found: dict[SegmentKey, SegmentKey] = {}
        for key in self.segments:
            fresh = []
            cursor = self.segments[key]
            while cursor.key not in found and cursor.parent is not None:
                fresh.append(cursor.key)
                cursor = self.segments[cursor.parent]
            root = found.setdefault(cursor.key, cursor.key)
            found.update(dict.fromkeys(fresh, root))
        return found

    def schedule(self, reference: Reference) -> list[ScheduleStep]:
        """The hyperparameters the member's present weights were trained with, from age 0 on.

        Consecutive segments with equal hyperparameters, trained by one member, are one step. A segment under way is
        one only if there is nothing before it.

        Raises:
            MemberNotFound: There is no such member or segment.
        """
        steps: list[ScheduleStep] = []
        for segment in trained(self.ancestors(reference)):
            end = segment.age[1] if segment.age[1] is not None else segment.age[0]
            if steps and _goes_on(steps[-1], segment):
                steps[-1] = replace(steps[-1], age_end=end)
            else:
                steps.append(ScheduleStep(segment.age[0], end, segment.hparams, segment.key.member, segment.shrink))
        return steps

    def exploits(self) -> list[Segment]:
        """Segments that began with a copy of another member's weights, in order of generation and member."""
        copied = [segment for segment in self.segments.values() if segment.start == "copied"]
        return sorted(copied, key=lambda segment: (segment.generation, segment.key))

    # --------------------------------------------------------------------------------------------------- lines

    def lines(self, segments: Iterable[Segment] | None = None) -> list[Line]:
        """The lines that these segments (all, if not given) make, in order of member and time."""
        chosen = self.segments.values() if segments is None else segments
        found: list[list[Segment]] = []
        for segment in sorted(chosen, key=lambda segment: (segment.key.member, segment.key.index)):
            if found and segment.start == "own" and segment.parent == found[-1][-1].key:
                found[-1].append(segment)
            else:
                found.append([segment])
        return [Line(tuple(line)) for line in found]

    def following(self, key: SegmentKey) -> Segment | None:
        """The member's own next segment, whosever weights it starts from; None if there is none yet."""
        return self.segments.get(_next(key))

    def fate(self, key: SegmentKey) -> Fate:
        """What became of the weights in which a segment ended, as far as its own member is concerned."""
        if (following := self.following(key)) is not None:
            fates: dict[str, Fate] = {"own": "trained on", "copied": "replaced", "fresh": "restarted"}
            return fates[following.start]
        return "failed" if self.segments[key].status == "failed" else "held"

    # ----------------------------------------------------------------------------------------------- comparing

    def standing(self, key: SegmentKey, mode: str) -> Standing | None:
        """Where a segment's score stands in its generation: NaN last, ties in member order; None without a score."""
        segment = self.segments[key]
        if segment.score is None or segment.status != "ended":
            return None
        peers = self._generations[segment.generation]
        ended = [peer for peer in peers if peer.status == "ended" and peer.score is not None]
        ahead = sum(_is_ahead(mode, peer, segment) for peer in ended)
        return Standing(1 + ahead, len(ended), sum(peer.status == "running" for peer in peers))

    @cached_property
    def _generations(self) -> dict[int, list[Segment]]:
        found: dict[int, list[Segment]] = defaultdict(list)
        for segment in self.segments.values():
            found[segment.generation].append(segment)
        return found

    def common(self, a: Reference, b: Reference) -> Segment | None:
        """The last segment that is in the ancestry of both; None if they have nothing in common.

        Raises:
            MemberNotFound: There is no such member or segment.
        """
        shared = [one for one, other in zip(self.ancestors(a), self.ancestors(b), strict=False) if one is other]
        return shared[-1] if shared else None

    def compare(self, a: Reference, b: Reference) -> list[Stretch]:
        """Two ancestries side by side, by age; a new stretch wherever a segment of either begins or ends.

        Segments under way are left out: they have no end yet.

        Raises:
            MemberNotFound: There is no such member or segment.
        """
        ends = [[one for one in self.ancestors(reference) if one.age[1] is not None] for reference in (a, b)]
        ages = sorted({age for path in ends for segment in path for age in segment.age if age is not None})
        pairs = list(itertools.pairwise(ages))
        sides = [list(_covering(path, pairs)) for path in ends]
        return [Stretch(start, end, one, other) for (start, end), one, other in zip(pairs, *sides, strict=True)]


def trained(path: Sequence[Segment]) -> Sequence[Segment]:
    """An ancestry without a segment under way at its end, unless that is all there is."""
    return path[:-1] if len(path) > 1 and path[-1].age[1] is None else path


def tell(key: SegmentKey) -> str:
    """A segment as people name it: `3:5`."""
    return f"{key.member}:{key.index}"


def parse(reference: Reference) -> tuple[int, int | None]:
    """Member and segment that are meant; None for the member as a whole.

    Raises:
        MemberNotFound: It names neither.
    """
    if isinstance(reference, SegmentKey):
        return reference.member, reference.index
    if isinstance(reference, SupportsIndex):
        return operator.index(reference), None
    if not isinstance(reference, str):
        reference = repr(reference)
    found = re.fullmatch(r"\s*([0-9]{1,9})(?::([0-9]{1,9}))?\s*", reference)
    if found is None:
        raise MemberNotFound(f"MEMBER: {reference!r} names no member. Write its number (3), or a segment of it (3:5).")
    member, index = found.groups()
    return int(member), None if index is None else int(index)


def better(mode: str, score: float, other: float) -> bool:
    """Whether `score` beats `other`; NaN beats nothing and anything finite beats NaN."""
    if math.isnan(score) or math.isnan(other):
        return math.isnan(other) and not math.isnan(score)
    return score < other if mode == "min" else score > other


def _is_ahead(mode: str, one: Segment, other: Segment) -> bool:
    """Whether `one` ranks before `other`."""
    a, b = float(one.score or 0.0), float(other.score or 0.0)
    return better(mode, a, b) or (not better(mode, b, a) and one.key < other.key)


def _all_of(noun: str, first: str, last: str) -> str:
    """`members are 0 to 5`, `only member is 0`."""
    return f"only {noun} is {first}" if first == last else f"{noun}s are {first} to {last}"


def _next(key: SegmentKey) -> SegmentKey:
    return SegmentKey(key.member, key.index + 1)


def _follows(key: SegmentKey, other: SegmentKey) -> bool:
    return key.member == other.member and key.index == other.index + 1


def _by_member(segments: Mapping[SegmentKey, Segment]) -> dict[int, list[Segment]]:
    found: dict[int, list[Segment]] = defaultdict(list)
    for segment in segments.values():
        found[segment.key.member].append(segment)
    return {member: sorted(found[member], key=lambda segment: segment.key.index) for member in sorted(found)}


def _covering(path: Sequence[Segment], pairs: Collection[tuple[int, int]]) -> Iterator[Segment | None]:
    """For each pair of ages, the segment of the path that was trained between them."""
    at = 0
    for start, end in pairs:
        while at < len(path) and (path[at].age[1] or 0) <= start:
            at += 1
        yield path[at] if at < len(path) and path[at].age[0] < end else None


def _segment(row: Mapping[str, Any], outcome: Mapping[str, Any] | None, read: Callable[[str], Hparams]) -> Segment:
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
        hparams=read(row["hparams"]),
        hparams_in_effect=read(effect) if effect else None,
        seed=row["seed"],
        age=(row["age_start"], ended.get("age_end")),
        consumed=(row["consumed_start"], ended.get("consumed_end")),
        score=ended.get("score"),
        status=ended.get("status", "running"),
        reason=ended.get("reason") or "",
        shrink=Shrinkage(**json.loads(told)) if (told := row.get("shrink")) else None,
    )


def _goes_on(step: ScheduleStep, segment: Segment) -> bool:
    """Whether a segment is more of the same."""
    return step.hparams == segment.hparams and step.member == segment.key.member and segment.shrink is None
