"""Population-based training.

Bad members take over the weights of good ones (exploit) and go on with changed hyperparameters (explore): all at the
end of every generation (`synchronous`), or each as soon as it reports. Who is bad is a matter of `select`:

- `truncation`: the worst share of the population is replaced, each by one of the best share.
- `tournament`: every member meets another, drawn at random, and is replaced by it if that is better.
- `t_test`: the same, if it is significantly better by Welch's t-test over the last reports of both.

Members are compared at equal age, and gates may ask for more than a better score (`gates`). Members that diverged are
always replaced. Control members, if there are any, keep their hyperparameters and weights to the end, neither copying
nor copied: how far they are behind the others says whether choosing what was best at each moment was worth it.

Source: Jaderberg et al. 2017, "Population Based Training of Neural Networks" (arXiv 1711.09846), sections 3 and 4.1.1:
truncation (over the top and bottom 20 % there; the default here is a quarter, as in Ray Tune, since a population is
often of eight, of which 20 % is one), binary tournament, t-test over the last ten rewards with p < 0.05; perturbing
by 0.8 or 1.2, resampling.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from pbt.member import Hparams, generator
from pbt.population.draws import donor_index, restart, without_donors
from pbt.population.evolution import Evolution, Pace
from pbt.population.explore import check_explore, fitted, perturbed, resampled
from pbt.population.flow import Company, Flow
from pbt.population.gates import Gates, spread_of
from pbt.population.roster import check_initial
from pbt.population.rounds import Rounds
from pbt.population.truncation import check_quantile, compared, pairs, places_of, share_of
from pbt.population.verdicts import Keep, Replace, Standing, Verdict, rank
from pbt.spec import Budget, at_least, require
from pbt.strategy import Strategy, Task, badness

Select = Literal["truncation", "tournament", "t_test"]
Explore = Literal["perturb", "resample"]

#: Level of the test of `t_test`, unless `alpha` names another.
_ALPHA = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class PBT:
    """Options of population-based training.

    Attributes:
        quantile: With `truncation`, the share of the population that is replaced in a generation, and share that may
            be a donor; at least one member each. In (0, 0.5]. With the others, the share whose members those that
            diverged copy.
        select: Who is replaced, and by whom: `truncation`, `tournament` or `t_test`.
        burn_in: Generations of its own in which a member is not replaced unless it diverges: early scores say little.
        min_gap: By which share of the larger of both scores a donor has to be better.
        min_gap_std: By how many standard deviations of the scores at that age it has to be.
        alpha: Level at which it has to be by Welch's t-test over the last ten reports of both; None asks for no test,
            but with `t_test`, where it is 0.05.
        explore: `perturb` multiplies by one of `factors`; `resample` draws anew from the space.
        factors: The two perturbation factors.
        resample_probability: With `perturb`, the chance of each hyperparameter being resampled instead.
        inherit_hparams: Exploring begins from the donor's hyperparameters (True) or the receiver's own (False).
        synchronous: True compares the population at the end of every generation, which can be repeated exactly. False
            considers each member when it reports, and nobody waits for slower ones; donors may be under way.
        controls: How many members, the first, are control members: with a configuration in `initial`, that of the
            person is what PBT is measured by. One that diverges begins again elsewhere in the space.
        initial: Hyperparameters of the first members; the others are sampled from the space.
    """

    quantile: float = 0.25
    select: Select = "truncation"
    burn_in: int = 0
    min_gap: float = 0.0
    min_gap_std: float = 0.0
    alpha: float | None = None
    explore: Explore = "perturb"
    factors: tuple[float, float] = (0.8, 1.2)
    resample_probability: float = 0.25
    inherit_hparams: bool = True
    synchronous: bool = True
    controls: int = 0
    initial: Sequence[Hparams] = ()

    def __post_init__(self) -> None:
        """Refuse options outside their range."""
        where = "strategy.options."
        check_quantile(self.quantile)
        for name, known in (("select", get_args(Select)), ("explore", get_args(Explore))):
            value, words = getattr(self, name), " or ".join([", ".join(known[:-1]), known[-1]])
            require(value in known, where + name, f"{value!r} is unknown", f"Write {words}")
        for name in ("burn_in", "controls"):
            at_least(0, where + name, getattr(self, name), "Write 0 for none")
        check_explore(self.factors, self.resample_probability)
        for name in ("inherit_hparams", "synchronous"):
            value = getattr(self, name)
            require(
                isinstance(value, bool), where + name, f"{value!r} is neither true nor false", "Write true or false"
            )
        check_initial(self.initial)
        _ = self.gates  # which refuses what is not in its range

    @property
    def gates(self) -> Gates:
        """What is asked of a donor besides a better score."""
        alpha = _ALPHA if self.select == "t_test" and self.alpha is None else self.alpha
        return Gates(min_gap=self.min_gap, min_gap_std=self.min_gap_std, alpha=alpha)

    def begin(self, task: Task) -> Strategy:
        """Start on a task."""
        pace: Pace = Rounds(self.evolve)
        if not self.synchronous:
            pace = Flow(self.consider, self._num_lenders, self.controls)
        return Evolution(task, pace, self.initial, self.remark)

    def check(self, budget: Budget) -> None:
        """Refuse a population of control members alone.

        Raises:
            SpecError: It is.
        """
        problem = f"{self.controls} of {budget.members} members leaves nobody to evolve"
        mend = "Name fewer, or raise budget.members"
        require(self.controls < budget.members, "strategy.options.controls", problem, mend)

    def remark(self, task: Task, standings: Sequence[Standing]) -> str:
        """How far the control members are behind the others, once the sweep ends; empty if that cannot be said."""
        ranking = [it for it in rank(standings, task.mode) if not math.isnan(it.score)]
        control = next((it for it in ranking if it.member < self.controls), None)
        other = next((it for it in ranking if it.member >= self.controls), None)
        if control is None or other is None:
            return ""
        gap = badness(control.score, task.mode) - badness(other.score, task.mode)
        words = "behind" if gap >= 0 else "ahead"
        which = "the control member" if self.controls == 1 else f"the best of {self.controls} control members"
        return f"{which}, {control.member}, has {task.metric} {control.score:.6g}, {abs(gap):.6g} {words}"

    # --- at the end of a generation

    def evolve(self, task: Task, generation: int, ranking: Sequence[Standing]) -> list[Verdict]:
        """Decide who is replaced at the end of a generation, by whom, and with what.

        Args:
            task: What is optimised.
            generation: The generation that just ended.
            ranking: Best first, diverged members last.
        """
        lost = [it for it in ranking if it.member < self.controls and math.isnan(it.score)]
        begun = [restart(task, generation, standing) for standing in lost]
        return [*begun, *self._evolve(task, generation, [it for it in ranking if it.member >= self.controls])]

    def _evolve(self, task: Task, generation: int, ranking: Sequence[Standing]) -> list[Verdict]:
        """The same, of those that are no control members."""
        if verdicts := without_donors(task, generation, ranking):
            return verdicts
        spread = spread_of([standing.score for standing in ranking]) if self.min_gap_std else 0.0
        places = places_of(ranking)
        return [
            self._judge(task, generation, loser, donor, compared(task, places, loser, donor), spread)
            for loser, donor in self._pairs(task, generation, ranking)
        ]

    def _pairs(self, task: Task, generation: int, ranking: Sequence[Standing]) -> Iterator[tuple[Standing, Standing]]:
        """Who may be replaced by whom: first those that have a score, then those that diverged."""
        is_burnt_in, truncates = generation >= self.burn_in, self.select == "truncation"
        if is_burnt_in and not truncates:
            yield from _meetings(task, generation, [it for it in ranking if not math.isnan(it.score)])
        yield from pairs(task, generation, ranking, self.quantile, only_diverged=not (is_burnt_in and truncates))

    # --- as soon as a member reports

    def consider(self, task: Task, generation: int, member: Standing, company: Company) -> Verdict | None:
        """Decide about one member as soon as it has reported.

        Args:
            task: What is optimised.
            generation: The generation of its own that the member just ended.
            member: Where it stands.
            company: Whom it is compared with.

        Returns:
            What becomes of it; None if there is no reason to replace it.
        """
        diverged = math.isnan(member.score)
        if member.member < self.controls:
            return restart(task, generation, member) if diverged else None
        if not diverged and not self._is_beaten(task, generation, member, company):
            return None
        if company.num_donors == 0:
            keep = Keep(member.member, "there is nobody to copy from")
            return restart(task, generation, member) if diverged else keep
        count = min(self._share(company.num_ranked + int(diverged)), company.num_donors)
        if self.select != "truncation" and not diverged:
            count = max(1, company.num_better)
        donor = company.donor(donor_index(task, generation, member.member, count))
        place = f"rank {company.better + 1} of {company.at_age} around age {member.age}"
        bad = f"{task.metric} {member.score:.6g} is {place}"
        good = f"donor {donor.member} has {donor.score:.6g} at age {donor.age}"
        spread = company.spread() if self.min_gap_std else 0.0  # which looks at all that have reported
        return self._judge(task, generation, member, donor, f"{bad}; {good}", spread)

    def _is_beaten(self, task: Task, generation: int, member: Standing, company: Company) -> bool:
        """Whether it is one of those to be replaced, among all that have reported at its age."""
        if company.at_age < 2 or generation < self.burn_in:
            return False
        if self.select == "truncation":
            return self._is_bottom(task, generation, member, company)
        opponent = generator(task.seed, "opponent", generation, member.member).integers(company.at_age - 1)
        return bool(opponent < company.better)

    def _is_bottom(self, task: Task, generation: int, member: Standing, company: Company) -> bool:
        """Whether fewer of the others at its age are no better than it than are to be replaced.

        The share of the population that a generation replaces is seldom a whole number of the few that have reported.
        It is rounded up or down at random, so that it is right in the mean: rounded up always, four times too many of
        100 would be replaced for a quantile of 0.01.
        """
        members = task.budget.members - self.controls
        share = round(company.at_age * self._share(members) / members, 9)
        over = company.at_age - company.better - math.floor(share)  # how far it is from being one of those
        if over > 1:
            return False
        rest = share - math.floor(share)
        return over < 1 or generator(task.seed, "share", generation, member.member).random() < rest

    def _num_lenders(self, number: int) -> int:
        """How many of so many at one age keep their states for others while they train on."""
        return self._share(number) if self.select == "truncation" else number

    # --- both

    def _judge(
        self, task: Task, generation: int, loser: Standing, donor: Standing, reason: str, spread: float
    ) -> Verdict:
        if objection := self.gates.objection(loser, donor, task.mode, spread):
            return Keep(loser.member, f"{reason}, {objection}")
        return Replace(loser.member, donor.member, self._explore(task, generation, loser, donor), reason)

    def _share(self, number: int) -> int:
        """How many of so many are replaced, may be donors, or lend their states."""
        return share_of(self.quantile, number)

    def _explore(self, task: Task, generation: int, loser: Standing, donor: Standing) -> Hparams:
        if self.explore == "resample":
            return resampled(task, generation, loser.member, donor.hparams)
        base = donor.hparams
        if not self.inherit_hparams:
            base = fitted(task, generation, loser.member, loser.hparams, donor.hparams)
        return perturbed(task, generation, loser.member, base, self.factors, self.resample_probability)


def _meetings(task: Task, generation: int, healthy: Sequence[Standing]) -> Iterator[tuple[Standing, Standing]]:
    """Every member and another that was drawn for it, where that stands before it."""
    for place, member in enumerate(healthy if len(healthy) > 1 else ()):
        drawn = int(generator(task.seed, "opponent", generation, member.member).integers(len(healthy) - 1))
        if drawn < place:
            yield member, healthy[drawn]
