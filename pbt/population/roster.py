"""The members of a population: who lives, where, with what, and how far each has come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pbt.member import Hparams, Slot, generator, member_seed
from pbt.population.verdicts import RECENT, Adopt, Keep, Renew, Replace, Restart, Standing, Verdict
from pbt.spec import require
from pbt.strategy import Action, ContinueUntil, Copy, Decline, SegmentReported, Set, Shrink, Start, Task


def check_initial(initial: object) -> None:
    """Refuse initial configurations that are not a list of mappings."""
    ok = isinstance(initial, list | tuple) and all(isinstance(hparams, Mapping) for hparams in initial)
    mend = "Write [{lr: 0.1}], or leave it out"
    require(ok, "strategy.options.initial", f"{initial!r} is not a list of mappings", mend)


@dataclass(slots=True)
class Member:
    """What a strategy knows of a member.

    Attributes:
        slot: Where it sits.
        hparams: What it trains with, or will when it goes on.
        segment: Index of its last segment; -1 before the first.
        generation: The generation that segment belongs to.
        until: Steps to consume by the end of that segment.
        is_under_way: Whether that segment has yet to be reported.
        is_alive: Whether it has not failed.
        consumed: Steps it had consumed at its last report.
        standing: What it reported last; None before the first report.
        recent: Of its weights, as `Standing.recent`; what was copied brings its own along.
    """

    slot: Slot
    hparams: Hparams
    segment: int = -1
    generation: int = -1
    until: int = 0
    is_under_way: bool = False
    is_alive: bool = True
    consumed: int = 0
    standing: Standing | None = None
    recent: tuple[tuple[int, float], ...] = ()

    @property
    def was_cut_short(self) -> bool:
        """Whether it stands before the end of its last segment."""
        return not self.is_under_way and self.consumed < self.until


class Roster(Mapping[int, Member]):
    """All members by number, in order, those that failed too.

    Args:
        initial: Hyperparameters of the first members; the others are sampled from the space.
        seed_of: A member's seed, given that of the sweep and its number.
    """

    def __init__(self, initial: Sequence[Hparams] = (), seed_of: Callable[[int, int], int] = member_seed) -> None:
        self._initial, self._seed_of = initial, seed_of
        self._members: dict[int, Member] = {}
        self._cut_short: set[int] = set()
        self.num_alive = 0
        self.num_under_way = 0

    def __getitem__(self, member: int) -> Member:
        """A member by its number."""
        return self._members[member]

    def __iter__(self) -> Iterator[int]:
        """Their numbers, in order."""
        return iter(self._members)

    def __len__(self) -> int:
        """How many there are, or were."""
        return len(self._members)

    def idle(self) -> list[int]:
        """Living members that are not under way, in order."""
        return [number for number, known in self._members.items() if known.is_alive and not known.is_under_way]

    def cut_short(self) -> list[int]:
        """Living members that stand before the end of their last segment, in order; costs what these are."""
        return sorted(self._cut_short)

    def standings(self) -> list[Standing]:
        """Last reports of the living, in member order."""
        return [it.standing for it in self._members.values() if it.is_alive and it.standing is not None]

    # --- what happened

    def reported(self, event: SegmentReported, metric: str) -> bool:
        """Note a report; False if it was not waited for."""
        known = self._members.get(event.member)
        if known is None or not known.is_under_way or event.segment != known.segment:
            return False
        known.is_under_way = False
        self.num_under_way -= 1
        known.consumed = event.consumed
        score = event.metrics[metric]
        recent = (*known.recent, (event.age, score))[-RECENT:]
        known.standing = Standing(event.member, score, known.hparams, event.age, recent)
        if known.was_cut_short:
            self._cut_short.add(event.member)
        else:  # what was cut short comes again
            known.recent = recent
        return True

    def failed(self, member: int) -> bool:
        """Note a failure; False if nobody lived there."""
        known = self._members.get(member)
        if known is None or not known.is_alive:
            return False
        self.num_alive -= 1
        self.num_under_way -= known.is_under_way
        known.is_alive = known.is_under_way = False
        self._cut_short.discard(member)
        return True

    # --- what is to be done

    def enlist(self, cause: str, task: Task, slots: Sequence[Slot], generation: int) -> list[Action]:
        """Start the members that are not there yet, at a generation; what they begin with depends on no other."""
        actions: list[Action] = []
        for member in range(len(self._members), task.budget.members):
            hparams = self._initial[member] if member < len(self._initial) else _sample(task, member)
            slot, seed = slots[member], self._seed_of(task.seed, member)
            self._members[member] = Member(slot, hparams)
            self.num_alive += 1
            actions.append(Start(cause=cause, member=member, slot=slot, hparams=hparams, seed=seed))
            actions.append(self.train(cause, task, member, generation))
        return actions

    def train(self, cause: str, task: Task, member: int, generation: int, lends: bool = True) -> ContinueUntil:
        """A member trains to the end of a generation; see `ContinueUntil.lends`."""
        known = self._members[member]
        known.segment += 1
        known.generation = generation
        known.until = (generation + 1) * task.budget.steps
        known.is_under_way = True
        self.num_under_way += 1
        self._cut_short.discard(member)
        return ContinueUntil(cause=cause, member=member, consumed=known.until, generation=generation, lends=lends)

    def carry_out(self, cause: str, verdict: Verdict) -> list[Action]:
        """Do what was decided about a member, save telling it to train on."""
        match verdict:
            case Replace(receiver, donor, hparams, reason):
                known = self._members[receiver]
                copied = self._members[donor].standing
                known.hparams, known.recent = hparams, copied.recent if copied else ()
                return [
                    Copy(cause=cause, donor=donor, receiver=receiver, reason=reason),
                    Set(cause=cause, member=receiver, hparams=hparams),
                ]
            case Restart(member, hparams, seed, reason):
                known = self._members[member]
                known.hparams, known.recent = hparams, ()
                slot = known.slot
                return [Start(cause=cause, member=member, slot=slot, hparams=hparams, seed=seed, reason=reason)]
            case Keep(member, reason):
                return [Decline(cause=cause, member=member, reason=reason)]
            case Adopt(member, hparams):
                self._members[member].hparams = hparams
                return [Set(cause=cause, member=member, hparams=hparams)]
            case Renew(member, donor, hparams, how, reason):
                known = self._members[member]
                known.hparams, known.recent = hparams, ()  # scores of other weights
                copies = [Copy(cause=cause, donor=donor, receiver=member, reason=reason)] if donor != member else []
                values = Set(cause=cause, member=member, hparams=hparams)
                return [*copies, values, Shrink(cause=cause, member=member, how=how, reason=reason)]

    # --- snapshots

    def snapshot(self) -> list[dict[str, Any]]:
        """The whole state as JSON-able data, a row for every member."""
        return [_to_row(known) for known in self._members.values()]

    def restore(self, snapshot: Sequence[Mapping[str, Any]]) -> None:
        """Become the roster that gave the snapshot."""
        self._members = {number: _from_row(number, row) for number, row in enumerate(snapshot)}
        self.num_alive = sum(known.is_alive for known in self._members.values())
        self.num_under_way = sum(known.is_under_way for known in self._members.values())
        self._cut_short = {it for it, known in self._members.items() if known.is_alive and known.was_cut_short}


def report_id(member: int, known: Member) -> str:
    """Id of the event in which a member reported its last segment."""
    return f"report:{member}:{known.segment}"


def _sample(task: Task, member: int) -> Hparams:
    return task.space.sample(generator(task.seed, "initial", member))


def _to_row(known: Member) -> dict[str, Any]:
    last = known.standing
    return {
        "slot": [known.slot.stack, known.slot.index],
        "hparams": dict(known.hparams),
        "segment": known.segment,
        "generation": known.generation,
        "until": known.until,
        "is_under_way": known.is_under_way,
        "is_alive": known.is_alive,
        "consumed": known.consumed,
        "standing": None if last is None else [last.score, dict(last.hparams), last.age, _pairs(last.recent)],
        "recent": _pairs(known.recent),
    }


def _from_row(number: int, row: Mapping[str, Any]) -> Member:
    standing = None
    if row["standing"] is not None:
        score, hparams, age, recent = row["standing"]
        standing = Standing(number, score, hparams, age, _unpaired(recent))
    changed = {"slot": Slot(*row["slot"]), "standing": standing, "recent": _unpaired(row["recent"])}
    return Member(**{**row, **changed})


def _pairs(recent: Iterable[tuple[int, float]]) -> list[list[float]]:
    return [list(pair) for pair in recent]


def _unpaired(rows: Iterable[Sequence[float]]) -> tuple[tuple[int, float], ...]:
    return tuple((int(age), score) for age, score in rows)
