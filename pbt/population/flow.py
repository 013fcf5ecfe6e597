"""No generations in common: a member is compared when it reports, and goes on at once.

Nobody waits for a slower member, except at the very end. Members of one stack, which end at the same moment, are all
taken down before the first of them is considered: none was there before the others. Two questions are asked of
different scores:

- *Is the member bad?* It is compared with every report that came in at its own age by then, so that being behind is no
  fault and being ahead no merit. With the last scores of all, whatever their age, members on slow hosts would be
  replaced again and again and those on fast hosts never. Among the first k at an age, the k-th is one of the worst
  `n(k)` with probability `n(k) / k` if the order says nothing about quality: where `n(k)` is a share of k, summed over
  a generation about as many are replaced as if all had been compared at its end, but for the first of each age, if it
  was alone. The order does say something where the same members are always first: those that are bad then pass more
  often.
- *Who is worth copying?* Those whose weights are best as they are: the last scores of all the living, whatever their
  age. What is copied is the state that earned the score, though its owner may be under way since, or be replaced at
  the same moment. To keep the states of all would take as much memory as the population again, so only those lend
  theirs while they train on that were among the best at their own age when they reported, the first included; others
  cannot be copied from then on until they report again.

Equals stand in member order, as in rounds: were they all no worse than each other, nobody would ever leave a plateau.
Age is what counts, not the member's own number of generations: who takes over older weights is compared with its like.
It is counted in generations, to the nearest: weights that were cut short once have no others of exactly their age.

Sources: Jaderberg et al. 2017, "Population Based Training of Neural Networks" (arXiv 1711.09846), algorithm 1: each
member exploits and explores when it is ready, against the last score of every other. That those that were at the same
point before decide is from Li et al. 2018, "A System for Massively Parallel Hyperparameter Tuning" (arXiv 1810.05934).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pbt.population.gates import spread_of
from pbt.population.ordered import Ordered
from pbt.population.roster import Roster
from pbt.population.verdicts import Standing, Verdict
from pbt.spec import Mode
from pbt.strategy import Action, MemberFailed, Report, SegmentReported, Task, badness


@dataclass(frozen=True, slots=True)
class Company:
    """Whom a member is compared with.

    Attributes:
        at_age: Number of reports so far at its age, to the nearest generation, its own included.
        better: How many of them are better; among equals, those of members with smaller numbers.
        num_ranked: Number of the living whose last score is not NaN, itself included if it is one of them.
        num_donors: Number of others among these whose state can be copied.
        num_better: How many of those have a better last score, by the same rule.
        donor: The `index`-th best of those, from 0.
        spread: Standard deviation of the scores reported at its age.
    """

    at_age: int
    better: int
    num_ranked: int
    num_donors: int
    num_better: int
    donor: Callable[[int], Standing]
    spread: Callable[[], float]


#: Given the task, the generation the member just ended, the member and its company: what becomes of it, if anything.
Consider: TypeAlias = Callable[[Task, int, Standing, Company], Verdict | None]


class Flow:
    """The pace of members that do not wait for each other.

    Args:
        consider: Decides about a member at the end of each of its generations but the last.
        num_lenders: Of so many at one age, how many of the best lend their states when they train on.
        controls: How many members, the first, nobody is compared with, and nobody copies.
    """

    def __init__(self, consider: Consider, num_lenders: Callable[[int], int], controls: int = 0) -> None:
        self._consider, self._num_lenders, self._controls = consider, num_lenders, controls
        #: Badness of all that was reported, and by whom, by age in generations. A member that failed since still says
        #: what is usual.
        self._at_age: dict[int, Ordered[tuple[float, int]]] = {}
        #: Badness and number of those that can be copied: of the living whose last score is not NaN.
        self._donors: Ordered[tuple[float, int]] = Ordered()
        self._place: dict[int, tuple[float, int]] = {}

    @property
    def entry(self) -> int:
        """Newcomers begin at the beginning, and are compared with what others were at their age."""
        return 0

    def respond(self, reports: Sequence[Report], task: Task, roster: Roster, may_train: bool) -> list[Action]:
        """Consider those that reported, once all that ended with them has been noted."""
        for report in reports:
            self._note(report, task, roster)
        causes = {report.member: report.id for report in reports if isinstance(report, SegmentReported)}
        return self._go_on(causes, task, roster) if may_train else []

    def extend(self, cause: str, task: Task, roster: Roster) -> list[Action]:
        """Consider all that stand idle."""
        return self._go_on(dict.fromkeys(roster.idle(), cause), task, roster)

    def snapshot(self) -> dict[str, Any]:
        """Scores by age, and who can be copied; ranks follow from the roster."""
        places = [[age, [list(place) for place in peers]] for age, peers in self._at_age.items()]
        return {"at_age": places, "donors": [member for _, member in self._donors]}

    def restore(self, snapshot: Mapping[str, Any], task: Task, roster: Roster) -> None:
        """Become the pace that gave the snapshot."""
        self._at_age = {age: Ordered((bad, member) for bad, member in peers) for age, peers in snapshot["at_age"]}
        standings = [it for it in roster.standings() if not math.isnan(it.score) and it.member >= self._controls]
        places = [_place(standing, task.mode) for standing in standings]
        self._place = {place[1]: place for place in places}
        self._donors = Ordered(self._place[member] for member in snapshot["donors"])

    def _note(self, report: Report, task: Task, roster: Roster) -> None:
        """Others are compared with a member that reported, and may copy it; one that failed they may not."""
        member = report.member
        self._leave(member)
        if isinstance(report, MemberFailed) or member < self._controls:
            return
        standing = _standing(member, roster)
        if not math.isnan(standing.score):
            self._place[member] = _place(standing, task.mode)
            self._donors.add(self._place[member])
        if not roster[member].was_cut_short:  # it comes again, and is compared then
            self._peers(standing, task).add(_place(standing, task.mode))

    def _leave(self, member: int) -> None:
        place = self._place.pop(member, None)
        if place is not None and place in self._donors:
            self._donors.remove(place)

    def _lends(self, member: int, task: Task, roster: Roster) -> bool:
        """Whether a member that trains on is good enough to lend its state; if not, it is no donor until it reports."""
        if member not in self._place:
            return False
        peers, own = self._peers(_standing(member, roster), task), self._place[member]
        is_good = peers.count_below(own) < self._num_lenders(len(peers))
        if not is_good:
            self._donors.remove(own)
        return is_good

    def _go_on(self, causes: Mapping[int, str], task: Task, roster: Roster) -> list[Action]:
        """All are considered before anybody trains on: till then, whoever is among them can be copied."""
        generations = {member: roster[member].generation for member in causes}
        ready = [member for member in causes if generations[member] < task.budget.generations - 1]
        actions: list[Action] = []
        for member in ready:
            standing, company = _standing(member, roster), self._company(member, task, roster)
            if (verdict := self._consider(task, generations[member], standing, company)) is not None:
                actions += roster.carry_out(causes[member], verdict)
        for member in ready:
            lends = self._lends(member, task, roster)
            actions.append(roster.train(causes[member], task, member, generations[member] + 1, lends))
        return actions

    def _peers(self, standing: Standing, task: Task) -> Ordered[tuple[float, int]]:
        steps = task.budget.steps
        age = (2 * standing.age + steps) // (2 * steps)
        if age not in self._at_age:
            self._at_age[age] = Ordered()
        return self._at_age[age]

    def _company(self, member: int, task: Task, roster: Roster) -> Company:
        standing = _standing(member, roster)
        peers = self._peers(standing, task)
        own = self._place.get(member)  # it has just reported, so it could be copied
        own_index = math.inf if own is None else self._donors.count_below(own)

        def donor(index: int) -> Standing:
            return _standing(self._donors[index + (index >= own_index)][1], roster)

        place = _place(standing, task.mode)
        return Company(
            at_age=len(peers),
            better=peers.count_below(place),
            num_ranked=len(self._place),
            num_donors=len(self._donors) - (own is not None),
            num_better=self._donors.count_below(place),
            donor=donor,
            spread=lambda: spread_of([bad for bad, _ in peers]),
        )


def _standing(member: int, roster: Roster) -> Standing:
    standing = roster[member].standing
    assert standing is not None, f"member {member} has not reported yet"
    return standing


def _place(standing: Standing, mode: Mode) -> tuple[float, int]:
    return badness(standing.score, mode), standing.member
