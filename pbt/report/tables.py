"""The facts behind every table: ledger rows in, frozen rows out. Pure; prints nothing, reads no clock.

`Population` is fed with a ledger's rows as they come, or all at once, and can be asked at any time. Words for people
count generations from 1; an exploit belongs to the generation that begins with the copied weights, everywhere.
"""

from __future__ import annotations

import bisect
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

from pbt.lineage import Lineage, better
from pbt.member import Hparams, SegmentKey
from pbt.record.sizes import Sizes
from pbt.record.story import is_routine
from pbt.report.throughput import Throughput

Row: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRow:
    """A member as it is now.

    Attributes:
        member: Its id.
        status: `running`, `ended`, `diverged` (its last score is NaN) or `failed`.
        age: Steps in the ancestry of its weights.
        consumed: Steps it ran itself.
        score: Its last; None before the first.
        hparams: What it trains with.
        donor: Whose weights it took over last; None if it never did.
        exploit_generation: The generation that began with them, from 0, as in the ledger.
        num_exploits: How often it did.
        reason: Why it failed, or empty.
        flops: Model FLOPs of all its segments; None where the trainable does not count them.
        joules: Its share of the energy of all its segments; None where that of one could not be read.
        system: What was measured last while it trained: `tokens_per_s`, `mfu`, `memory_bytes` (of its own state) and
            `peak_memory_bytes` (of the process), as far as known.
    """

    member: int
    status: str
    age: int
    consumed: int
    score: float | None
    hparams: Hparams
    donor: int | None = None
    exploit_generation: int | None = None
    num_exploits: int = 0
    reason: str = ""
    flops: float | None = None
    joules: float | None = None
    system: Mapping[str, float] = field(default_factory=dict)

    @property
    def last_exploit(self) -> str:
        """`gen 5 <- member 3`: generation 5, counted from 1, began with the weights of member 3. Empty if none did."""
        return "" if self.donor is None else f"gen {(self.exploit_generation or 0) + 1} <- member {self.donor}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRow:
    """A generation that is over.

    Attributes:
        generation: Counted from 1.
        best: The best score, None if there is none.
        best_member: Who had it.
        median: Of the scores that are not NaN.
        num_exploits: Copies decided on these scores.
        num_declined: Members considered for replacement, and kept.
        num_diverged: Scores that are NaN.
        at: When its last score came in, seconds since the epoch.
    """

    generation: int
    best: float | None
    best_member: int | None
    median: float | None
    num_exploits: int
    num_declined: int
    num_diverged: int
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ExploitRow:
    """A member taking over another's weights.

    Attributes:
        generation: The one that began with the copied weights, from 0, as in the ledger.
        member: The receiver.
        donor: Whose weights it took over.
        score: The receiver's, on which it was decided.
        donor_score: The donor's.
        changed: Hyperparameters that differ, as (before, after).
        reason: The strategy's words.
    """

    generation: int
    member: int
    donor: int
    score: float | None
    donor_score: float | None
    changed: Mapping[str, tuple[Any, Any]]
    reason: str


@dataclass
class _Own:
    """One member's rows, as far as tables need them; of a search, what a step of it counts, and if it is full-sized."""

    segment: Row
    rate: float = 1.0
    is_wanted: bool = True
    outcome: Row | None = None
    copy: Row | None = None
    num_copies: int = 0
    age: int = 0
    consumed: int = 0
    flops: float | None = 0.0
    joules: float | None = 0.0
    system: dict[str, float] = field(default_factory=dict)


@dataclass
class _Generation:
    """One generation's scores and decisions."""

    scores: dict[int, float] = field(default_factory=dict)
    begun: int = 0
    copies: int = 0
    declined: int = 0
    at: float = 0.0


class Population:
    """What a ledger has said so far. Taking rows in costs what is new, not what is there.

    Args:
        info: What `run.json` says.

    Attributes:
        members: Size of the population.
        generations: How many there will be.
        steps: Training steps of a member in each.
        target_steps: In a search, the steps of a configuration that is trained to the end; None in any other sweep.
        mode: Whether small or large scores are better.
        generation: The newest generation under way, counted from 1.
        finish: The decision that ended the sweep, once there is one.
        budget_end: Why the budget ended it before its last generation, if it did.
        incidents: What went wrong, newest last; what was only loaded again is left out.
        diverged: Segments whose score is NaN, in the order in which they ended.
        completed: In a search, the outcomes of those that were trained to the end, likewise.
        throughput: How fast its stacks train.
    """

    def __init__(self, info: Mapping[str, Any]) -> None:
        budget = info["spec"]["budget"]
        self.members: int = budget["members"]
        self.generations: int = budget["generations"]
        self.steps: int = budget["steps"]
        self.target_steps: int | None = info.get("target_steps")
        self._sizes = Sizes(info)
        self.mode: str = info["objective"]["mode"]
        self.created: float = info["created"]
        self.finish: Row | None = None
        self.budget_end: str | None = None
        self.incidents: list[Row] = []
        self.diverged: list[SegmentKey] = []
        self.completed: list[Row] = []
        self.throughput = Throughput()
        self.last_at: float = self.created
        self._pauses: list[tuple[float, float]] = []  # when each ended, seconds
        self.generation = 1
        self._own: dict[int, _Own] = {}
        self._configurations: set[str] = set()
        self._generations: dict[int, _Generation] = defaultdict(_Generation)
        self._generation_of: dict[tuple[int, int], int] = {}
        self._joined: dict[int, int] = {}
        self._failures: dict[int, Row] = {}

    def apply(self, rows: Iterable[tuple[str, Row]]) -> None:
        """Take rows in, as `Tail.poll` gives them; each table's rows in order."""
        told: dict[str, list[Row]] = defaultdict(list)
        for table, row in rows:
            told[table].append(row)
        self._look_at_clock(told)
        # Segments first: a clock that was set back must not put an outcome before its segment.
        for table, take in (
            ("segments", self._segment),
            ("orders", self.throughput.add_order),
            ("metrics", self._metric),
            ("outcomes", self._outcome),
            ("decisions", self._decision),
            ("incidents", self._incident),
        ):
            for row in told[table]:
                take(row)

    def _look_at_clock(self, told: Mapping[str, Sequence[Row]]) -> None:
        times = sorted(row["at"] for rows in told.values() for row in rows)
        for begun in sorted(row["at"] for row in told.get("sessions", ()) if row["session"] > 1):
            before = max([self.last_at, *times[: bisect.bisect_left(times, begun)][-1:]])
            self._pauses.append((begun, max(0.0, begun - before)))
        self.last_at = max([self.last_at, *times[-1:]])

    def _segment(self, row: Row) -> None:
        own = self._own.get(row["member"]) or self._begun(row)
        own.segment = row
        self._joined.setdefault(row["member"], row["generation"])
        own.age = row["age_start"]
        own.consumed = max(own.consumed, row["consumed_start"])
        self._generation_of[row["member"], row["segment"]] = row["generation"]
        self.generation = max(self.generation, row["generation"] + 1)
        begun = self._generations[row["generation"]]
        begun.begun += 1
        if row["start"] == "copied":
            own.copy, own.num_copies = row, own.num_copies + 1
            begun.copies += 1

    def _begun(self, row: Row) -> _Own:
        hparams = json.loads(row["hparams"])
        self._configurations.add(self._sizes.configuration(row["member"], hparams))
        self._own[row["member"]] = _Own(row, self._sizes.rate(hparams), self._sizes.is_wanted(hparams))
        return self._own[row["member"]]

    def _outcome(self, row: Row) -> None:
        self.throughput.add_outcome(row)
        own = self._own[row["member"]]
        own.outcome = row
        own.flops, own.joules = _plus(own.flops, row.get("flops")), _plus(own.joules, row.get("joules"))
        if row["segment"] == own.segment["segment"] and row.get("consumed_end") is not None:
            own.age, own.consumed = row["age_end"], row["consumed_end"]
        if row["status"] == "failed":
            self._failures[row["member"]] = row
            return
        if row.get("consumed_end") == self.target_steps and own.is_wanted:
            self.completed.append(row)
        generation = self._generations[self._generation_of[row["member"], row["segment"]]]
        score = math.nan if row["score"] is None else row["score"]
        generation.scores[row["member"]] = score
        if row["score"] is not None and math.isnan(score):
            self.diverged.append(SegmentKey(row["member"], row["segment"]))
        generation.at = max(generation.at, row["at"])

    def _metric(self, row: Row) -> None:
        own = self._own[row["member"]]
        if row["segment"] == own.segment["segment"] and row["consumed"] > own.consumed:
            own.age, own.consumed = row["age"], row["consumed"]
        if row["split"] == "system":
            own.system[row["name"]] = row["value"]
            self.throughput.add_metric(row)

    def _decision(self, row: Row) -> None:
        if row["kind"] == "finish":
            self.finish = row
        elif row["kind"] == "extend":
            self.finish, self.budget_end = None, None
        elif row["kind"] == "budget":
            self.budget_end = row.get("reason")
        elif row["kind"] == "decline":
            key = row["member"], row.get("segment")
            self._generations[self._generation_of.get(key, 0) + 1].declined += 1  # type: ignore[arg-type]

    def _incident(self, row: Row) -> None:
        if not is_routine(row):
            self.incidents.append(row)

    # ------------------------------------------------------------------------------------------------ asking

    @property
    def failures(self) -> dict[int, Row]:
        """How members failed: their last outcomes."""
        return self._failures

    @property
    def elapsed(self) -> float:
        """Seconds between the run's beginning and the newest row, without the pauses."""
        return self.elapsed_at(self.last_at)

    def elapsed_at(self, at: float) -> float:
        """Seconds between the run's beginning and then, without the pauses: nobody trained it meanwhile."""
        return at - self.created - sum(seconds for ended, seconds in self._pauses if ended <= at)

    @property
    def share(self) -> float:
        """How much of the training is done, between 0 and 1; a failed member has nothing left to do."""
        return 1.0 if self.finish else self.trained

    @property
    def trained(self) -> float:
        """Share of the steps that has been trained, whether or not the sweep is over."""
        whole = self.generations * self.steps
        done = self.used
        if self.target_steps is None:  # in a search, others take the place of those that failed
            done += sum(whole - self._own[member].consumed for member in self._failures)
        return min(1.0, done / (whole * self.members))

    @property
    def used(self) -> float:
        """Steps that were trained, as the budget counts them: those of a smaller model count less."""
        return sum(own.consumed * own.rate for own in self._own.values())

    @property
    def num_begun(self) -> int:
        """Members, or configurations, that have begun."""
        return len(self._configurations)

    @property
    def num_complete(self) -> int:
        """Configurations of a search that were trained to the end."""
        return len(self.completed)

    @property
    def num_exploits(self) -> int:
        """Copies so far."""
        return sum(own.num_copies for own in self._own.values())

    @property
    def num_declined(self) -> int:
        """Exploits considered and not done so far."""
        return sum(generation.declined for generation in self._generations.values())

    @property
    def best(self) -> MemberRow | None:
        """The announced winner; before that, the member with the best last score."""
        if self.finish:
            winner = self.finish.get("member")
            return None if winner is None else self.row(winner)
        rows = self.ranked()
        return rows[0] if rows and _good(rows[0]) else None

    def row(self, member: int) -> MemberRow:
        """One member."""
        own = self._own[member]
        copy = own.copy or {}
        return MemberRow(
            member=member,
            status=self._status(member),
            age=own.age,
            consumed=own.consumed,
            score=own.outcome["score"] if own.outcome else None,
            hparams=json.loads(own.segment["hparams"]),
            donor=copy.get("parent_member"),
            exploit_generation=copy.get("generation"),
            num_exploits=own.num_copies,
            reason=self._failures[member].get("reason") or "" if member in self._failures else "",
            flops=own.flops if own.outcome else None,
            joules=own.joules if own.outcome else None,
            system=dict(own.system),
        )

    def _status(self, member: int) -> str:
        own = self._own[member]
        if member in self._failures:
            return "failed"
        if own.outcome is None or own.outcome["segment"] < own.segment["segment"]:
            return "running"
        score = own.outcome["score"]
        return "diverged" if score is None or math.isnan(score) else "ended"

    def ranked(self) -> list[MemberRow]:
        """All members, the best score first; then those without a score, with NaN, and the failed.

        Where smaller models are tried first, those of one size are compared, the largest before the others.
        """
        rows = [self.row(member) for member in sorted(self._own)]
        sign = 1 if self.mode == "min" else -1

        def place(row: MemberRow) -> tuple[float, ...]:
            badness = sign * row.score if _good(row) and row.score else 0.0
            return *_misery(row), -self._own[row.member].rate, badness

        return sorted(rows, key=place)

    def ended(self, after: int = 0) -> list[GenerationRow]:
        """Generations after `after` that are over: all their scores are in, and the next has begun."""
        found = []
        for number in range(after, self.generation):
            if not self._is_over(number):
                break
            found.append(self._summary(number))
        return found

    def _is_over(self, number: int) -> bool:
        gone = sum(self._generation_of[m, row["segment"]] <= number for m, row in self._failures.items())
        here = self._generations[number]
        if not here.scores or len(here.scores) + gone < self._num_joined(number):
            return False
        last = number + 1 >= self.generations
        following = self._generations.get(number + 1, _Generation())
        return self.finish is not None or last or following.begun + gone >= self._num_joined(number + 1)

    def _num_joined(self, number: int) -> int:
        """Members that were there in a generation; an extension adds some."""
        return sum(joined <= number for joined in self._joined.values())

    def _summary(self, number: int) -> GenerationRow:
        here, following = self._generations[number], self._generations.get(number + 1, _Generation())
        best = None
        for member, score in sorted(here.scores.items()):
            if not math.isnan(score) and (best is None or better(self.mode, score, here.scores[best])):
                best = member
        finite = [score for score in here.scores.values() if not math.isnan(score)]
        return GenerationRow(
            generation=number + 1,
            best=None if best is None else here.scores[best],
            best_member=best,
            median=statistics.median(finite) if finite else None,
            num_exploits=following.copies,
            num_declined=following.declined,
            num_diverged=len(here.scores) - len(finite),
            at=here.at,
        )


def exploit_rows(lineage: Lineage, decisions: Iterable[Row]) -> list[ExploitRow]:
    """Every exploit, in order of generation and receiver, with what it changed."""
    words = {(row["member"], row.get("segment")): row.get("reason") or "" for row in decisions if row["kind"] == "copy"}
    found = []
    for segment in lineage.exploits():
        member, index = segment.key.member, segment.key.index
        before = lineage.segments[SegmentKey(member, index - 1)]
        donor = lineage.segments[segment.parent] if segment.parent else None
        found.append(
            ExploitRow(
                generation=segment.generation,
                member=member,
                donor=-1 if donor is None else donor.key.member,
                score=before.score,
                donor_score=None if donor is None else donor.score,
                changed=changes(before.hparams, segment.hparams),
                reason=words.get((member, index - 1), ""),
            )
        )
    return found


def generation_facts(row: GenerationRow) -> dict[str, Any]:
    """The row as programs read it: its generation counted from 0, as in the ledger."""
    return asdict(row) | {"generation": row.generation - 1}


def changes(before: Hparams, after: Hparams) -> dict[str, tuple[Any, Any]]:
    """Hyperparameters whose values differ, as (before, after)."""
    names = [*before, *(name for name in after if name not in before)]
    return {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}


def _plus(total: float | None, more: float | None) -> float | None:
    """Both together; not known where one is not."""
    return None if total is None or more is None else total + more


def _good(row: MemberRow) -> bool:
    return row.score is not None and not math.isnan(row.score)


def _misery(row: MemberRow) -> tuple[bool, bool, bool]:
    return row.status == "failed", row.score is not None and math.isnan(row.score), row.score is None
