"""Multiple-frequencies population-based training.

Sub-populations of equal size evolve at different periods: those with short ones find quickly what pays at once, those
with long ones keep what pays in the long run. When one evolves, it is ranked and cut into quarters:

- the last quarter takes over the weights of the first, with that quarter's hyperparameters, perturbed;
- the third quarter takes in the best outsiders that are better: weights and hyperparameters from a population with a
  longer period; from one with a shorter period the weights alone, with the hyperparameters of its own best member. What
  pays in the short run does not spread to those that look further, but what others have learned does.

Nothing else is changed; migrants are not perturbed. A member that diverged is replaced at once, whatever the period.

Source: Doulazmi et al. 2025, "Multiple-Frequencies Population-Based Training" (arXiv 2506.03225), section 4; where the
text leaves a choice, as in the authors' code (github.com/WaelDLZ/MF-PBT, `mf_pbt_genetics.py`): the hyperparameters of
those that take in weights from a shorter period; the k-th of the last quarter gets the k-th best.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pbt.errors import SpecError
from pbt.member import Hparams
from pbt.population.draws import all_again
from pbt.population.evolution import Evolution
from pbt.population.explore import check_explore, fitted, perturbed
from pbt.population.roster import check_initial
from pbt.population.rounds import Rounds
from pbt.population.verdicts import Keep, Replace, Standing, Verdict, rank
from pbt.spec import Budget, require
from pbt.strategy import Strategy, Task, badness

#: Members of a sub-population: one in each quarter at least.
_QUARTERS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class MFPBT:
    """Options of multiple-frequencies population-based training.

    Attributes:
        periods: Generations between two evolutions of each sub-population, ascending. Member m is in the m-th of them,
            counted round.
        factors: The two perturbation factors.
        resample_probability: The chance of each hyperparameter being resampled instead.
        initial: Hyperparameters of the first members; the others are sampled from the space.
    """

    periods: Sequence[int] = (1, 10, 25, 50)
    factors: tuple[float, float] = (0.8, 1.25)
    resample_probability: float = 0.0
    initial: Sequence[Hparams] = ()

    def __post_init__(self) -> None:
        """Refuse options outside their range."""
        periods = self.periods
        is_known = (
            isinstance(periods, list | tuple)
            and len(periods) > 0
            and all(isinstance(it, int) and not isinstance(it, bool) and it >= 1 for it in periods)
            and list(periods) == sorted(set(periods))
        )
        told = list(periods) if isinstance(periods, tuple) else periods
        where = "strategy.options.periods"
        mend = "Write a list like [1, 4]"
        require(is_known, where, f"{told!r} is not a list of ascending whole numbers of at least 1", mend)
        check_explore(self.factors, self.resample_probability)
        check_initial(self.initial)

    @property
    def synchronous(self) -> bool:
        """All members are compared at the end of a generation."""
        return True

    def check(self, budget: Budget) -> None:
        """Refuse too few members to have a quarter of each sub-population, or an end before all of them evolve.

        Raises:
            SpecError: It is one.
        """
        longest = self.periods[-1]
        if budget.generations <= longest:
            problem = f"is {budget.generations}, so a sub-population with a period of {longest} never evolves"
            mend = f"Write {longest + 1} or more, or shorter strategy.options.periods"
            raise SpecError("budget.generations", problem, mend)
        least = _QUARTERS * len(self.periods)
        if budget.members < least:
            problem = f"{budget.members} members cannot be {len(self.periods)} sub-populations with four quarters each"
            raise SpecError("budget.members", problem, f"Write {least} or more, or name fewer strategy.options.periods")

    def begin(self, task: Task) -> Strategy:
        """Start on a task."""
        return Evolution(task, Rounds(self.evolve), self.initial, self.remark)

    def remark(self, task: Task, standings: Sequence[Standing]) -> str:
        """How far each sub-population came: where those with long periods lead, short ones are too greedy."""
        ranking = [it for it in rank(standings, task.mode) if not math.isnan(it.score)]
        best = {self.population(it.member): it.score for it in reversed(ranking)}
        if len(best) < 2:
            return ""
        told = [f"{best[place]:.6g} of period {period}" for place, period in enumerate(self.periods) if place in best]
        return f"best {task.metric}: {', '.join(told)}"

    def evolve(self, task: Task, generation: int, ranking: Sequence[Standing]) -> list[Verdict]:
        """Decide who is replaced at the end of a generation, by whom, and with what.

        Args:
            task: What is optimised.
            generation: The generation that just ended.
            ranking: Best first, diverged members last.
        """
        if verdicts := all_again(task, generation, ranking):
            return verdicts
        for place, period in enumerate(self.periods):
            own = [it for it in ranking if self.population(it.member) == place]
            outsiders = [it for it in ranking if self.population(it.member) != place and not math.isnan(it.score)]
            if (generation + 1) % period == 0:
                verdicts += self._exploit(task, generation, own)
                verdicts += self._migrate(task, generation, own, outsiders)
            judged = {it.receiver if isinstance(it, Replace) else it.member for it in verdicts}
            diverged = [it for it in own if math.isnan(it.score) and it.member not in judged]
            verdicts += [self._rescue(task, generation, it, own, outsiders) for it in diverged]
        return verdicts

    def population(self, member: int) -> int:
        """Which of the sub-populations it is in. New members of a sweep that is extended change nobody else's."""
        return member % len(self.periods)

    def _exploit(self, task: Task, generation: int, own: Sequence[Standing]) -> Iterator[Verdict]:
        share = len(own) // _QUARTERS
        for place in range(share):
            loser, donor = own[len(own) - share + place], own[place]
            if not math.isnan(donor.score):
                reason = f"{_stands(task, loser, own)}; {_has(task, donor, own)}"
                yield Replace(loser.member, donor.member, self._explore(task, generation, loser, donor), reason)

    def _migrate(
        self, task: Task, generation: int, own: Sequence[Standing], outsiders: Sequence[Standing]
    ) -> Iterator[Verdict]:
        share, waiting = len(own) // _QUARTERS, list(outsiders)
        for member in own[2 * share : 3 * share]:
            if not waiting or math.isnan(member.score):
                return
            migrant = waiting[0]
            reason = f"{_stands(task, member, own)}; outsider {migrant.member} has {migrant.score:.6g}"
            if badness(migrant.score, task.mode) >= badness(member.score, task.mode):
                yield Keep(member.member, f"{reason}, which is not better")
                continue
            waiting.pop(0)
            is_longer = self.periods[self.population(migrant.member)] > self.periods[self.population(member.member)]
            hparams = migrant.hparams
            if not is_longer:
                hparams = fitted(task, generation, member.member, own[0].hparams, migrant.hparams)
            words = "with its hyperparameters" if is_longer else f"with the hyperparameters of member {own[0].member}"
            yield Replace(member.member, migrant.member, hparams, f"{reason}, and comes {words}")

    def _rescue(
        self, task: Task, generation: int, lost: Standing, own: Sequence[Standing], outsiders: Sequence[Standing]
    ) -> Replace:
        """A member that diverged goes on from the best of its own, or of all where its own have diverged, too."""
        donor = own[0] if not math.isnan(own[0].score) else outsiders[0]
        reason = f"{task.metric} {lost.score:.6g}; donor {donor.member} has {donor.score:.6g}"
        return Replace(lost.member, donor.member, self._explore(task, generation, lost, donor), reason)

    def _explore(self, task: Task, generation: int, loser: Standing, donor: Standing) -> Hparams:
        chance = self.resample_probability
        return perturbed(task, generation, loser.member, donor.hparams, self.factors, chance)


def _stands(task: Task, member: Standing, own: Sequence[Standing]) -> str:
    return f"{task.metric} {member.score:.6g} is rank {own.index(member) + 1} of {len(own)} in its sub-population"


def _has(task: Task, donor: Standing, own: Sequence[Standing]) -> str:
    return f"donor {donor.member} has {donor.score:.6g}, rank {own.index(donor) + 1}"
