"""What a mirror of the ledger shows: rows as metrics over `consumed`, and as tags. Pure; knows no server.

Everything here is a function of the ledger alone, down to the millisecond, so that telling it twice tells the same.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from pbt.lineage import better
from pbt.member import SegmentKey
from pbt.record.schema import canonical

Row: TypeAlias = Mapping[str, Any]
#: A row and the table it stands in.
Entry: TypeAlias = tuple[str, dict[str, Any]]
#: Whose record it is: a member's, or None for the sweep's.
Who: TypeAlias = int | None

#: The longest value of a tag.
TAG_CHARS = 8_000


class Point(NamedTuple):
    """One value of one metric."""

    key: str
    value: float
    timestamp_ms: int
    step: int


@dataclass
class Story:
    """What the ledger says, as metrics and tags. Knows no MLflow server; grows row by row.

    Rows are added first and told later, so what is told of one row may depend on others of the same moment, in
    whatever order the tables were read.
    """

    mode: str
    domains: Mapping[str, Any]
    segments: dict[int, list[Row]] = field(default_factory=lambda: defaultdict(list))
    outcomes: dict[SegmentKey, Row] = field(default_factory=dict)
    checkpoints: dict[int, Row] = field(default_factory=dict)
    records: set[SegmentKey] = field(default_factory=set)
    best: float = math.nan
    last_at: float = 0.0

    def add(self, rows: Iterable[Entry]) -> None:
        """Take rows in."""
        for table, row in rows:
            self.last_at = max(self.last_at, row["at"])
            if table == "segments":
                self.segments[row["member"]].append(row)
            elif table == "outcomes":
                self._add_outcome(row)
            elif table == "checkpoints":
                self.checkpoints[row["member"]] = row

    def _add_outcome(self, row: Row) -> None:
        key = SegmentKey(row["member"], row["segment"])
        self.outcomes[key] = row
        score = row.get("score")
        if row["status"] == "ended" and score is not None and better(self.mode, score, self.best):
            self.best = score
            self.records.add(key)

    def metrics(self, rows: Iterable[Entry]) -> dict[Who, list[Point]]:
        """What the rows have to say of each run; a member with nothing but new tags has an empty list."""
        found: dict[Who, list[Point]] = defaultdict(list)
        for table, row in rows:
            if table == "segments":
                found[row["member"]] += self._of_segment(row)
            elif table == "outcomes":
                found[row["member"]] += self._of_outcome(row)
                found[None] += self._of_record(row)
            elif table == "metrics":
                value = [(f"{row['split']}/{row['name']}", row["value"])]
                found[row["member"]] += _points(value, row["consumed"], milliseconds(row["at"]))
            elif table == "checkpoints":
                found[row["member"]] += []
        return found

    def _of_segment(self, row: Row) -> list[Point]:
        """What changes where a segment starts. Told a moment after the end before it, so that it counts as newer."""
        values, at = self._state(row, row["age_start"]), milliseconds(row["at"])
        if row["segment"]:
            before, ended = self._segment(row["member"], row["segment"] - 1), self._outcome(row, -1)
            if ended and ended.get("consumed_end") == row["consumed_start"]:
                was = dict(self._state(before, ended["age_end"]))
                values = [(name, value) for name, value in values if was.get(name) != value]
                at = max(at, milliseconds(ended["at"]) + 1)
        return _points(values, row["consumed_start"], at)

    def _of_outcome(self, row: Row) -> list[Point]:
        if row.get("consumed_end") is None:
            return []
        values = self._state(self._segment(row["member"], row["segment"]), row["age_end"])
        if row.get("score") is not None:
            values.append(("score", row["score"]))
        used = ((f"system/{name}", row.get(name)) for name in ("flops", "joules"))
        values += [(name, value) for name, value in used if value is not None]
        return _points(values, row["consumed_end"], milliseconds(row["at"]))

    def _of_record(self, row: Row) -> list[Point]:
        if SegmentKey(row["member"], row["segment"]) not in self.records:
            return []
        return _points([("best_score", row["score"])], row["consumed_end"], milliseconds(row["at"]))

    def _state(self, segment: Row, age: float) -> list[tuple[str, float]]:
        """Age and varied hyperparameters as numbers."""
        found: list[tuple[str, float]] = [("age", age)]
        values = json.loads(segment["hparams"])
        for name, domain in self.domains.items():
            found += _numbers(f"hparams/{name}", values.get(name), domain)
        return found

    def tags(self, member: int) -> dict[str, str]:
        """What is true of a member now."""
        last, path = self.segments[member][-1], self._ancestry(member)
        values = json.loads(last["hparams"])
        copies = [row for row in self.segments[member] if row["start"] == "copied"]
        tags = {
            "pbt.status": "failed" if self.failed(member) else "running",
            "pbt.hparams": canonical(values),
            "pbt.ancestry": _short(path),
            "pbt.root_member": str(path[0].member),
            "pbt.num_exploits": str(len(copies)),
        }
        named = {name: values.get(name) for name in self.domains}
        tags |= {f"pbt.hparams.{name}": value for name, value in named.items() if isinstance(value, str)}
        if copies:
            donor, when = copies[-1]["parent_member"], copies[-1]["generation"]
            tags |= {"pbt.parent_member": str(donor), "pbt.last_exploit": f"gen {when} <- member {donor}"}
        if checkpoint := self.checkpoints.get(member):
            tags["pbt.checkpoint"] = checkpoint["digest"]
        return tags

    def verdict(self, member: int) -> dict[str, str]:
        """What a member came to, once the sweep is over."""
        outcome = self._outcome(self.segments[member][-1])
        if self.failed(member) and outcome:
            return {"pbt.status": "failed", "pbt.reason": outcome.get("reason") or "unknown"}
        score = (outcome or {}).get("score")
        return {"pbt.status": "diverged" if score is not None and math.isnan(score) else "ended"}

    def failed(self, member: int) -> bool:
        """Whether the member's last segment failed."""
        outcome = self._outcome(self.segments[member][-1])
        return outcome is not None and outcome["status"] == "failed"

    def started(self, member: int) -> float:
        """When the member's first segment was decided."""
        return float(self.segments[member][0]["at"])

    def ended(self, member: int) -> float:
        """When the member's last segment ended; if it did not, when the ledger did."""
        outcome = self._outcome(self.segments[member][-1])
        return float(outcome["at"]) if outcome else self.last_at

    def _ancestry(self, member: int) -> list[SegmentKey]:
        """Segments that made the member's weights, root first."""
        path: list[SegmentKey] = []
        row: Row | None = self.segments[member][-1]
        while row is not None:
            path.append(SegmentKey(row["member"], row["segment"]))
            parent = row.get("parent_member")
            row = None if parent is None else self._segment(parent, row["parent_segment"])
        return path[::-1]

    def _segment(self, member: int, index: int) -> Row:
        return self.segments[member][index]

    def _outcome(self, row: Row, offset: int = 0) -> Row | None:
        return self.outcomes.get(SegmentKey(row["member"], row["segment"] + offset))


def sweep_params(sweep: Mapping[str, Any]) -> dict[str, str]:
    """What a run was asked for: the spec with dotted names, and the space by hyperparameter.

    The tracking options stay out: their address may hold a password.
    """
    spec = {name: value for name, value in sweep["spec"].items() if name != "tracking"}
    if not isinstance(spec.get("space"), str):
        spec.pop("space", None)
    params = dict(_flat("", spec | {"objective": sweep["objective"]}))
    params |= {f"space.{name}": canonical(domain) for name, domain in sweep.get("hparams", {}).items()}
    params |= {f"fixed.{name}": canonical(value) for name, value in sweep.get("fixed", {}).items()}
    return {name: value for name, value in params.items() if value != ""}


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(f"{name}.{key}" if name else str(key), item)
    else:
        yield name, value if isinstance(value, str) else canonical(value)


def winner_facts(facts: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, str]]:
    """Facts about the winner as metrics and tags."""
    numbers: dict[str, float] = {}
    words: dict[str, str] = {}
    for name, value in facts.items():
        if name == "member" or not isinstance(value, int | float | Mapping):
            words[f"pbt.best_{name}"] = str(value)
        elif isinstance(value, Mapping):
            words[f"pbt.best_{name}"] = canonical(value)
        else:
            numbers[f"best/{name}"] = float(value)
    return numbers, words


def milliseconds(at: float) -> int:
    """Milliseconds, by way of the microseconds that sealed parts keep, so that both readings agree."""
    return round(at * 1e6) // 1000


def _points(values: Iterable[tuple[str, float]], step: int, at_ms: int) -> list[Point]:
    """Values at one step. An infinite value becomes NaN: MLflow would store 1.8e308 and draw it."""
    return [Point(name, float(value) if math.isfinite(value) else math.nan, at_ms, step) for name, value in values]


def _numbers(name: str, value: Any, domain: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """A hyperparameter as numbers: bools as 0 and 1, a named option as its index, a simplex part by part."""
    if isinstance(value, Mapping):
        for part, weight in value.items():
            yield from _numbers(f"{name}/{part}", weight, {})
    elif isinstance(value, bool | int | float):
        yield name, float(value)
    elif value in (options := list(domain.get("options", ()))):
        yield name, float(options.index(value))


def _short(path: Sequence[SegmentKey]) -> str:
    """Segments as JSON, `["0.0","5.1"]`; where a tag cannot hold them all, without the middle."""
    keys = [f"{key.member}.{key.index}" for key in path]
    while len(text := canonical(keys)) > TAG_CHARS:
        middle, cut = len(keys) // 2, max(1, len(keys) // 10)
        keys = [*keys[: middle - cut], "...", *keys[middle + cut :]]
    return text
