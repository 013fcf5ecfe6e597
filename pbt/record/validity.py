"""Whether a ledger can be true: what must hold of any sweep, however it was interrupted. Used by the chaos tests."""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from pbt.lineage import tell
from pbt.member import SegmentKey
from pbt.spec import Budget

Row: TypeAlias = Mapping[str, Any]

#: The decisions that may open a segment of each kind; an `own` one needs none.
_OPENED_BY = {"fresh": "start", "copied": "copy"}


def violations(
    rows: Mapping[str, Iterable[Row]],
    checkpoint_is_readable: Callable[[str], bool],
    budget: Budget | None = None,
    rate: Callable[[Mapping[str, Any]], float] = lambda hparams: 1.0,
) -> list[str]:
    """What is wrong with a ledger, in plain English; empty if nothing is.

    Args:
        rows: The ledger's, by table.
        checkpoint_is_readable: Whether the checkpoint of that SHA-256 is there, and whole.
        budget: What must be kept; None checks none.
        rate: Steps of the budget that a step with these hyperparameters counts.
    """
    book = _Book({table: sorted(found, key=lambda row: row["at"]) for table, found in rows.items()})
    found = [
        *_times(book),
        *_doubled(book),
        *_numbering(book),
        *_parents(book),
        *_counters(book),
        *_ends(book),
        *_orders(book),
        *_decisions(book),
        *_finishes(book),
        *_checkpoints(book, checkpoint_is_readable),
    ]
    return found + ([] if budget is None else list(_over_budget(book, budget, rate)))


@dataclass(frozen=True)
class _Book:
    """The rows, each table in order of time, with what is looked up often."""

    tables: Mapping[str, Sequence[Row]]

    def __getitem__(self, table: str) -> Sequence[Row]:
        return self.tables.get(table, ())

    @cached_property
    def segments(self) -> Mapping[SegmentKey, Row]:
        """By key."""
        return {_key(row): row for row in self["segments"]}

    @cached_property
    def outcomes(self) -> Mapping[SegmentKey, Row]:
        """By the segment's key."""
        return {_key(row): row for row in self["outcomes"]}

    @cached_property
    def by_member(self) -> Mapping[int, Sequence[Row]]:
        """Each member's segments in order of their index."""
        found: dict[int, list[Row]] = defaultdict(list)
        for key in sorted(self.segments):
            found[key.member].append(self.segments[key])
        return found

    @cached_property
    def decisions(self) -> Mapping[int, Sequence[Row]]:
        """Each member's decisions in order of time."""
        found: dict[int, list[Row]] = defaultdict(list)
        for row in self["decisions"]:
            if row.get("member") is not None:
                found[row["member"]].append(row)
        return found


def _times(book: _Book) -> Iterator[str]:
    """The order of rows over all tables is the order of their times."""
    for at, count in Counter(row["at"] for table in book.tables.values() for row in table).items():
        if count > 1:
            yield f"{count} rows have the same time, {at:.6f}"


def _doubled(book: _Book) -> Iterator[str]:
    for table in ("segments", "outcomes"):
        for key, count in Counter(map(_key, book[table])).items():
            if count > 1:
                yield f"{_name(key)} is in table {table} {count} times"


def _numbering(book: _Book) -> Iterator[str]:
    for member, own in book.by_member.items():
        found = [row["segment"] for row in own]
        missing = sorted(set(range(found[-1] + 1)) - set(found))
        if missing:
            yield f"member {member} has no segment {missing[0]}, but one of index {found[-1]}"
        for before, after in itertools.pairwise(own):
            if after["at"] <= before["at"]:
                yield f"{_name(_key(after))} was begun before {_name(_key(before))}"


def _parents(book: _Book) -> Iterator[str]:
    for key, row in book.segments.items():
        parent = _parent(row)
        if row["start"] == "fresh":
            if parent is not None:
                yield f"{_name(key)} is fresh, but has the parent {tell(parent)}"
            if row["age_start"] != 0:
                yield f"{_name(key)} is fresh, but starts at age {row['age_start']}"
        elif parent is None:
            yield f"{_name(key)} is {row['start']}, but has no parent"
        else:
            yield from _descent(book, key, row, parent)


def _descent(book: _Book, key: SegmentKey, row: Row, parent: SegmentKey) -> Iterator[str]:
    if parent not in book.segments:
        yield f"{_name(key)} starts from {tell(parent)}, which does not exist"
        return
    if row["start"] == "own" and parent != SegmentKey(key.member, key.index - 1):
        yield f"{_name(key)} goes on from its own weights, but its parent is {tell(parent)}"
    if row["start"] == "copied" and parent.member == key.member:
        yield f"{_name(key)} is a copy, but of its own member's segment {tell(parent)}"
    end = book.outcomes.get(parent)
    if end is None or end["status"] != "ended":
        yield f"{_name(key)} starts from {tell(parent)}, which {'has not ended' if end is None else 'failed'}"
        return
    if end["at"] >= row["at"]:
        yield f"{_name(key)} starts from {tell(parent)}, which ended only later"
    if end["age_end"] != row["age_start"]:
        yield f"{_name(key)} starts at age {row['age_start']}, but its parent {tell(parent)} ended at {end['age_end']}"


def _counters(book: _Book) -> Iterator[str]:
    for own in book.by_member.values():
        consumed: int | None = 0
        for row in own:
            key = _key(row)
            if consumed is None:
                yield f"{_name(key)} was begun, but the segment before it has not ended"
            elif (start := row["consumed_start"]) != consumed:
                yield f"{_name(key)} starts at {start} consumed steps, but the member had run {consumed}"
            end = book.outcomes.get(key)
            consumed = None if end is None else end["consumed_end"]
            if end is not None:
                yield from _arithmetic(key, row, end)


def _arithmetic(key: SegmentKey, row: Row, end: Row) -> Iterator[str]:
    aged, ran = end["age_end"] - row["age_start"], end["consumed_end"] - row["consumed_start"]
    if aged != ran:
        yield f"{_name(key)} aged by {aged} steps, but ran {ran}"
    if ran < 0:
        yield f"{_name(key)} ended at {end['consumed_end']} consumed steps, before its start at {row['consumed_start']}"
    if end["consumed_end"] > row["until"]:
        yield f"{_name(key)} ran to {end['consumed_end']} consumed steps, but was ordered to stop at {row['until']}"


def _ends(book: _Book) -> Iterator[str]:
    for key, row in book.outcomes.items():
        if key not in book.segments:
            yield f"{_name(key)} has an outcome, but was never begun"
        elif row["at"] <= book.segments[key]["at"]:
            yield f"{_name(key)} ended before it was begun"


def _orders(book: _Book) -> Iterator[str]:
    ordered: dict[SegmentKey, float] = {}
    for row in book["orders"]:
        for key in itertools.starmap(SegmentKey, json.loads(row["segments"])):
            if key not in book.segments:
                yield f"{row['order']} names segment {tell(key)}, which does not exist"
            elif row["at"] <= book.segments[key]["at"]:
                yield f"{row['order']} names segment {tell(key)}, which was begun only later"
            ordered.setdefault(key, row["at"])
    for key, at in ordered.items():
        if key in book.outcomes and book.outcomes[key]["at"] <= at:
            yield f"{_name(key)} ended before any order named it"


def _decisions(book: _Book) -> Iterator[str]:
    """Each segment was decided since the one before, and has the hyperparameters decided last."""
    for member, own in book.by_member.items():
        waiting = deque(book.decisions.get(member, ()))
        hparams: str | None = None
        for row in own:
            fresh = []
            while waiting and waiting[0]["at"] < row["at"]:
                fresh.append(waiting.popleft())
            yield from _opening(row, fresh)
            hparams = next((d["hparams"] for d in reversed(fresh) if d.get("hparams") is not None), hparams)
            if hparams is not None and json.loads(hparams) != json.loads(row["hparams"]):
                yield f"{_name(_key(row))} trains with {row['hparams']}, but {hparams} was decided"


def _opening(row: Row, fresh: Sequence[Row]) -> Iterator[str]:
    kind, parent = _OPENED_BY.get(row["start"]), row.get("parent_member")
    made = [decision for decision in fresh if decision["kind"] == kind]
    if kind is not None and not made:
        yield f"{_name(_key(row))} is {row['start']}, but no decision of kind {kind} came before it"
    elif kind == "copy" and (donor := made[-1]["donor"]) != parent:
        yield f"{_name(_key(row))} starts from member {parent}, but member {donor} was decided on"
    shrunk = [decision["data"] for decision in fresh if decision["kind"] == "shrink"]
    if shrunk[-1:] != [told for told in [row.get("shrink")] if told]:
        yield f"{_name(_key(row))} is shrunk by {row.get('shrink')}, but {shrunk} was decided"


def _finishes(book: _Book) -> Iterator[str]:
    failed = {row["member"]: row["at"] for row in book["outcomes"] if row["status"] == "failed"}
    for row in book["decisions"]:
        winner = row.get("member")
        if row["kind"] != "finish" or winner is None:
            continue
        if winner not in book.by_member:
            yield f"the winner, member {winner}, does not exist"
        elif failed.get(winner, float("inf")) < row["at"]:
            yield f"the winner, member {winner}, had failed"


def _checkpoints(book: _Book, is_readable: Callable[[str], bool]) -> Iterator[str]:
    last: dict[tuple[SegmentKey, str], str] = {}
    for row in book["checkpoints"]:
        key, status = _key(row), row.get("status") or "saved"
        end = book.outcomes.get(key)
        if status == "saved" and (end is None or end["status"] != "ended"):
            yield f"checkpoint {_short(row)} belongs to {_name(key)}, which has not ended"
        if status != "saved" and (key, row["digest"]) not in last:
            yield f"checkpoint {_short(row)} of {_name(key)} is {status}, but was never saved"
        last[key, row["digest"]] = status
    for (key, digest), status in last.items():
        if status == "saved" and not is_readable(digest):
            yield f"checkpoint {digest[:12]} of {_name(key)} cannot be read"


def _over_budget(book: _Book, budget: Budget, rate: Callable[[Mapping[str, Any]], float]) -> Iterator[str]:
    slots = {(row["stack"], row["slot"]) for row in book["segments"]}
    if len(slots) > budget.members:
        yield f"{len(slots)} slots were used, but the budget has {budget.members} members"
    ends = [(book.segments[_key(row)], row["consumed_end"]) for row in book["outcomes"] if _key(row) in book.segments]
    trained = sum((end - row["consumed_start"]) * rate(json.loads(row["hparams"])) for row, end in ends)
    if trained > budget.member_steps * (1.0 + 1e-9):
        yield f"{trained:g} steps were trained, but the budget has {budget.member_steps}"
    steps = budget.generations * budget.steps
    for member, own in book.by_member.items():
        ends = [book.outcomes[_key(row)]["consumed_end"] for row in own if _key(row) in book.outcomes]
        ran = max([row["until"] for row in own] + ends)
        if ran > steps:
            yield f"member {member} was to run {ran} steps, but the budget has {steps} for each member"
    for name, used, limit in _used(book, budget):
        if limit is not None and used > limit:
            yield f"{used:g} {name} were used, but the budget has {limit:g}"


def _used(book: _Book, budget: Budget) -> Iterator[tuple[str, float, float | None]]:
    """Name, use and limit of everything that is counted, over all sessions."""
    sessions = list({row["session"]: row for row in book["usage"]}.values())

    def total(column: str) -> float:
        return sum(row.get(column) or 0.0 for row in sessions)

    trained = sum(row.get("tokens") or 0 for row in book["outcomes"])
    yield "tokens", max(trained, total("tokens")), budget.tokens
    yield "minutes", total("wall_s") / 60, budget.wall_minutes
    yield "GPU hours", total("device_s") / 3600, budget.gpu_hours
    yield "joules", total("joules"), budget.joules


def _key(row: Row) -> SegmentKey:
    return SegmentKey(row["member"], row["segment"])


def _parent(row: Row) -> SegmentKey | None:
    member = row.get("parent_member")
    return None if member is None else SegmentKey(member, row["parent_segment"])


def _name(key: SegmentKey) -> str:
    return f"segment {tell(key)}"


def _short(row: Row) -> str:
    return str(row["digest"])[:12]
