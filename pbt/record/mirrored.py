"""What a mirror of the ledger shows of the sweep and its members: metrics and tags. Pure; knows no server.

Everything here is a function of the ledger alone, down to the millisecond, so that telling it twice tells the same.
`mirrored_segments` adds what is shown of single segments, and of the weights they ended in.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from pbt.lineage import better
from pbt.member import SegmentKey
from pbt.record.schema import canonical, microseconds
from pbt.spec import has_secret

Row: TypeAlias = Mapping[str, Any]
#: A row and the table it stands in.
Entry: TypeAlias = tuple[str, dict[str, Any]]
#: Whose record it is: a segment's, a member's, or None for the sweep's.
Who: TypeAlias = SegmentKey | int | None

#: The tag that MLflow shows as the description of a run or a model.
DESCRIPTION = "mlflow.note.content"
#: The longest value of a tag.
TAG_CHARS = 8_000
#: Columns of `usage` that add up.
_COSTS = ("wall_s", "device_s", "joules", "tokens")


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
    checkpoints: dict[SegmentKey, Row] = field(default_factory=dict)
    takers: dict[SegmentKey, list[SegmentKey]] = field(default_factory=lambda: defaultdict(list))
    measured: dict[SegmentKey, dict[str, Row]] = field(default_factory=lambda: defaultdict(dict))
    sessions: list[Row] = field(default_factory=list)
    incidents: Counter[str] = field(default_factory=Counter)
    usage: dict[int, Row] = field(default_factory=dict)
    records: set[SegmentKey] = field(default_factory=set)
    best: float = math.nan
    record: SegmentKey | None = None
    last_at: float = 0.0

    def add(self, rows: Iterable[Entry]) -> None:
        """Take rows in."""
        for table, row in rows:
            self.last_at = max(self.last_at, row["at"])
            match table:
                case "segments":
                    self._add_segment(row)
                case "outcomes":
                    self._add_outcome(row)
                case "metrics" if row["split"] != "system":
                    self.measured[key_of(row)][f"{row['split']}/{row['name']}"] = row
                case "checkpoints":
                    self.checkpoints[key_of(row)] = row
                case "sessions":
                    self.sessions.append(row)
                case "incidents":
                    self.incidents[row["kind"]] += 1
                case "usage":
                    self.usage[row["session"]] = row

    def _add_segment(self, row: Row) -> None:
        self.segments[row["member"]].append(row)
        if row["start"] == "copied":
            self.takers[SegmentKey(row["parent_member"], row["parent_segment"])].append(key_of(row))

    def _add_outcome(self, row: Row) -> None:
        key = key_of(row)
        self.outcomes[key] = row
        score = row.get("score")
        if row["status"] == "ended" and score is not None and better(self.mode, score, self.best):
            if self.record is not None and _moment(self.outcomes[self.record]) == _moment(row):
                self.records.discard(self.record)  # of one step and moment MLflow shows the largest value, not the last
            self.best, self.record = score, key
            self.records.add(key)

    def metrics(self, rows: Iterable[Entry]) -> dict[int | None, list[Point]]:
        """What the rows have to say of the sweep and its members; one with nothing but new tags has an empty list."""
        found: dict[int | None, list[Point]] = defaultdict(list)
        for table, row in rows:
            if table == "segments":
                found[row["member"]] += self._of_segment(row)
            elif table == "outcomes":
                found[row["member"]] += self.at_end(row)
                found[None] += self._of_record(row)
            elif table == "metrics":
                found[row["member"]] += measurement(row)
            elif table == "checkpoints":
                found[row["member"]] += []
            elif table == "usage":
                found[None] += self._of_usage(row)
            elif table == "nodes":
                found[None] += self._of_node(row)
            elif table in ("sessions", "incidents"):
                found[None] += []
        return found

    def _of_usage(self, row: Row) -> list[Point]:
        """What the sweep has cost so far, over the whole seconds that it has run. A session counts from 0."""
        rows = [*self._before(row["session"]), row]
        known_to_all = [name for name in _COSTS if all(known.get(name) is not None for known in rows)]
        values = [(f"system/{name}", sum(known[name] for known in rows)) for name in known_to_all]
        return points(values, int(sum(known["wall_s"] for known in rows)), milliseconds(row["at"]))

    def _of_node(self, row: Row) -> list[Point]:
        """What a node did, over the whole seconds that the sweep has run, under the names of MLflow's own monitor."""
        ran_s = row["wall_s"] + sum(known["wall_s"] for known in self._before(row["session"]))
        named = f"system/node_{row['node']}/{row['name']}"
        return points([(named, row["value"])], int(ran_s), milliseconds(row["at"]))

    def _before(self, session: int) -> list[Row]:
        """What the sessions before one came to."""
        return [known for number, known in self.usage.items() if number < session]

    def _of_segment(self, row: Row) -> list[Point]:
        """What changes where a segment starts. Told a moment after the end before it, so that it counts as newer."""
        values, at = self.state(row, row["age_start"]), milliseconds(row["at"])
        if row["segment"]:
            before, ended = self.segment(key_of(row, -1)), self.outcomes.get(key_of(row, -1))
            if ended and ended.get("consumed_end") == row["consumed_start"]:
                was = dict(self.state(before, ended["age_end"]))
                values = [(name, value) for name, value in values if was.get(name) != value]
                at = max(at, milliseconds(ended["at"]) + 1)
        return points(values, row["consumed_start"], at)

    def at_end(self, row: Row) -> list[Point]:
        """What an outcome says."""
        if row.get("consumed_end") is None:
            return []
        values = self.state(self.segment(key_of(row)), row["age_end"])
        if row.get("score") is not None:
            values.append(("score", row["score"]))
        used = ((f"system/{name}", row.get(name)) for name in ("flops", "joules"))
        values += [(name, value) for name, value in used if value is not None]
        return points(values, row["consumed_end"], milliseconds(row["at"]))

    def _of_record(self, row: Row) -> list[Point]:
        if key_of(row) not in self.records:
            return []
        return points([("best_score", row["score"])], row["consumed_end"], milliseconds(row["at"]))

    def state(self, segment: Row, age: float) -> list[tuple[str, float]]:
        """Age and varied hyperparameters as numbers."""
        found: list[tuple[str, float]] = [("age", age)]
        values = json.loads(segment["hparams"])
        for name, domain in self.domains.items():
            found += _numbers(f"hparams/{name}", values.get(name), domain)
        return found

    def tags(self, member: int) -> dict[str, str]:
        """What is true of a member now."""
        last = self.segments[member][-1]
        values = json.loads(last["hparams"])
        copies = [row for row in self.segments[member] if row["start"] == "copied"]
        tags = {
            "pbt.status": "failed" if self.failed(member) else "running",
            "pbt.hparams": canonical(values),
            "pbt.num_exploits": str(len(copies)),
            **self.descent(last),
        }
        named = {name: values.get(name) for name in self.domains}
        tags |= {f"pbt.hparams.{name}": value for name, value in named.items() if isinstance(value, str)}
        if copies:
            donor, when = copies[-1]["parent_member"], copies[-1]["generation"]
            tags |= {"pbt.parent_member": str(donor), "pbt.last_exploit": f"gen {when + 1} <- member {donor}"}
        if checkpoint := self._newest_checkpoint(member):
            tags["pbt.checkpoint"] = checkpoint
        return tags

    def descent(self, row: Row) -> dict[str, str]:
        """Where the weights of a segment came from."""
        path = self.ancestry(row)
        return {"pbt.ancestry": _short(path), "pbt.root_member": str(path[0].member)}

    def _newest_checkpoint(self, member: int) -> str | None:
        """Digest of a member's newest checkpoint that is there; `none` if all that there were are gone."""
        keys = [key_of(row) for row in reversed(self.segments[member])]
        rows = [self.checkpoints[key] for key in keys if key in self.checkpoints]
        return next((str(row["digest"]) for row in rows if is_there(row)), "none" if rows else None)

    def sweep_tags(self) -> dict[str, str]:
        """What is true of the sweep now: how often it was taken up, with what, and what went wrong."""
        tags: dict[str, str] = {}
        if self.sessions:
            last = self.sessions[-1]
            tags |= {"pbt.sessions": str(len(self.sessions)), "pbt.resumed": str(len(self.sessions) - 1)}
            tags |= {f"pbt.version.{name}": value for name, value in _parsed(last["software"]).items()}
            tags |= {f"pbt.hardware.{name}": _text(value) for name, value in _parsed(last["hardware"]).items()}
            if commit := last.get("git_commit"):
                tags |= {"pbt.git_commit": commit, "mlflow.source.git.commit": commit.partition("+")[0]}
        if self.incidents:
            tags["pbt.incidents"] = canonical(self.incidents)
        return tags

    def environment(self) -> dict[str, Any]:
        """With what the sweep was run: that of the last session first, then each session's own."""
        told = [
            {
                "session": row["session"],
                "reason": row["reason"],
                "git_commit": row.get("git_commit"),
                "software": _parsed(row["software"]),
                "hardware": _parsed(row["hardware"]),
            }
            for row in self.sessions
        ]
        last = told[-1] if told else {"software": {}, "hardware": {}, "git_commit": None}
        return {name: last[name] for name in ("software", "hardware", "git_commit")} | {"sessions": told}

    def verdict(self, member: int) -> dict[str, str]:
        """What a member came to, once the sweep is over."""
        return verdict(self._last_outcome(member))

    def failed(self, member: int) -> bool:
        """Whether the member's last segment failed."""
        outcome = self._last_outcome(member)
        return outcome is not None and outcome["status"] == "failed"

    def started(self, member: int) -> float:
        """When the member's first segment was decided."""
        return float(self.segments[member][0]["at"])

    def ended(self, member: int) -> float:
        """When the member's last segment ended; if it did not, when the ledger did."""
        outcome = self._last_outcome(member)
        return float(outcome["at"]) if outcome else self.last_at

    def segment(self, key: SegmentKey) -> Row:
        """The row that decided a segment."""
        return self.segments[key.member][key.index]

    def last(self, member: int) -> SegmentKey:
        """A member's last segment."""
        return key_of(self.segments[member][-1])

    def _last_outcome(self, member: int) -> Row | None:
        return self.outcomes.get(self.last(member))

    def ancestry(self, row: Row | None) -> list[SegmentKey]:
        """Segments that made a segment's weights, root first, itself included."""
        path: list[SegmentKey] = []
        while row is not None:
            path.append(key_of(row))
            parent = row.get("parent_member")
            row = None if parent is None else self.segment(SegmentKey(parent, row["parent_segment"]))
        return path[::-1]


def key_of(row: Row, offset: int = 0) -> SegmentKey:
    """The segment a row tells of, or so many after it."""
    return SegmentKey(row["member"], row["segment"] + offset)


def is_there(checkpoint: Row) -> bool:
    """Whether a row of `checkpoints` says that the file is there and good."""
    return checkpoint.get("status") in (None, "saved")


def verdict(outcome: Row | None) -> dict[str, str]:
    """What an end comes to, as tags."""
    if outcome is not None and outcome["status"] == "failed":
        return {"pbt.status": "failed", "pbt.reason": outcome.get("reason") or "unknown"}
    score = (outcome or {}).get("score")
    return {"pbt.status": "diverged" if score is not None and math.isnan(score) else "ended"}


def sweep_params(sweep: Mapping[str, Any]) -> dict[str, str]:
    """What a run was asked for: the spec with dotted names, and the space by hyperparameter.

    The tracking options are not of the experiment, and stay out.
    """
    spec = {name: value for name, value in without_secrets(sweep["spec"]).items() if name != "tracking"}
    if not isinstance(spec.get("space"), str):
        spec.pop("space", None)
    params = flat(spec | {"objective": sweep["objective"]})
    params |= {f"space.{name}": canonical(domain) for name, domain in sweep.get("hparams", {}).items()}
    params |= {f"fixed.{name}": canonical(value) for name, value in sweep.get("fixed", {}).items()}
    return {name: value for name, value in params.items() if value != ""}


def without_secrets(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values without those that are addresses with a password in them, at any depth."""
    return {name: _cleared(value) for name, value in values.items() if not _is_secret(value)}


def _cleared(value: Any) -> Any:
    if isinstance(value, Mapping):
        return without_secrets(value)
    return [_cleared(one) for one in value if not _is_secret(one)] if isinstance(value, list | tuple) else value


def _is_secret(value: Any) -> bool:
    return isinstance(value, str) and has_secret(value)


def flat(values: Mapping[str, Any]) -> dict[str, str]:
    """Values with dotted names, as text."""
    return {name: _text(value) for name, value in leaves(values)}


def leaves(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Values with dotted names: the parts of a simplex, say, one by one."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from ((f"{name}.{part}", item) for part, item in leaves(value))
        else:
            yield str(name), value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else canonical(value)


def _parsed(text: str | None) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text) if text else {}
    return found


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


def _moment(outcome: Row) -> tuple[int | None, int]:
    """Step and milliseconds of an end."""
    return outcome.get("consumed_end"), milliseconds(outcome["at"])


def milliseconds(at: float) -> int:
    """Milliseconds, by way of the microseconds that sealed parts keep, so that both readings agree."""
    return microseconds(at) // 1000


def measurement(row: Row) -> list[Point]:
    """What a row of `metrics` says."""
    return points([(f"{row['split']}/{row['name']}", row["value"])], row["consumed"], milliseconds(row["at"]))


def points(values: Iterable[tuple[str, float]], step: int, at_ms: int) -> list[Point]:
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
