"""Synchronous generations: decisions are made for the whole population at once.

The population trains for `budget.steps` steps, everybody reports, one function decides who is replaced, and the next
generation begins. All members therefore have consumed the same number of steps when they are compared, newcomers too.
The order in which reports arrive has no influence on anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from pbt.population.roster import Roster, report_id
from pbt.population.verdicts import Replace, Standing, Verdict, rank
from pbt.strategy import Action, Report, Task

#: Given the task, the generation that just ended and its ranking (best first, NaN last): who is replaced.
Evolve: TypeAlias = Callable[[Task, int, Sequence[Standing]], list[Verdict]]


class Memory(Protocol):
    """What a strategy remembers of generations, beyond what the roster knows of members."""

    def observe(self, task: Task, generation: int, ranking: Sequence[Standing]) -> None:
        """Note how a generation ended, before anything is decided about it. Called once for each but the last."""

    def snapshot(self) -> dict[str, Any]:
        """The whole memory as JSON-able data."""

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Become the memory that gave the snapshot."""


class Rounds:
    """The pace of synchronous generations.

    Args:
        evolve: Decides at the end of every generation but the last; None lets every member go on as it is.
        memory: Told of each of those generations before; what it keeps goes with the snapshot.
    """

    def __init__(self, evolve: Evolve | None = None, memory: Memory | None = None) -> None:
        self._evolve, self._memory = evolve, memory
        self._generation = 0

    @property
    def entry(self) -> int:
        """Newcomers catch up: they train to the end of the generation under way in one segment."""
        return self._generation

    def respond(self, reports: Sequence[Report], task: Task, roster: Roster, may_train: bool) -> list[Action]:
        """Once all the living have reported, begin the next generation."""
        if not may_train or self._is_to_wait(task, roster):
            return []
        # Their own reports are the causes, not the last to come in: in which order they come in makes no difference.
        return self._begin({it: report_id(it, roster[it]) for it in roster.idle()}, task, roster)

    def extend(self, cause: str, task: Task, roster: Roster) -> list[Action]:
        """As if all the living had just reported."""
        return [] if self._is_to_wait(task, roster) else self._begin(dict.fromkeys(roster.idle(), cause), task, roster)

    def _is_to_wait(self, task: Task, roster: Roster) -> bool:
        is_last = self._generation >= task.budget.generations - 1
        return is_last or roster.num_under_way > 0 or not roster.num_alive

    def _begin(self, causes: Mapping[int, str], task: Task, roster: Roster) -> list[Action]:
        verdicts = self._decide(task, roster)
        self._generation += 1
        changes = [action for it in verdicts for action in roster.carry_out(causes[_about(it)], it)]
        return changes + [roster.train(cause, task, member, self._generation) for member, cause in causes.items()]

    def _decide(self, task: Task, roster: Roster) -> list[Verdict]:
        if self._evolve is None:
            return []
        ranking = rank(roster.standings(), task.mode)
        if self._memory is not None:
            self._memory.observe(task, self._generation, ranking)
        return self._evolve(task, self._generation, ranking)

    def snapshot(self) -> dict[str, Any]:
        """The generation under way, and what is remembered."""
        memory = {} if self._memory is None else {"memory": self._memory.snapshot()}
        return {"generation": self._generation, **memory}

    def restore(self, snapshot: Mapping[str, Any], task: Task, roster: Roster) -> None:
        """Become the pace that gave the snapshot."""
        self._generation = snapshot["generation"]
        if self._memory is not None:
            self._memory.restore(snapshot["memory"])


def _about(verdict: Verdict) -> int:
    return verdict.receiver if isinstance(verdict, Replace) else verdict.member
