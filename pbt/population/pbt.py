"""Population-based training with truncation selection.

The worst members take over the weights of the best (exploit) and go on with changed hyperparameters (explore): all at
the end of every generation (`synchronous`), or each as soon as it reports.

Source: Jaderberg et al. 2017, "Population Based Training of Neural Networks" (arXiv 1711.09846), section 3 and
appendix A: truncation selection over the top and bottom 20 %, perturbation by 0.8 or 1.2, or resampling.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pbt.member import Hparams, generator
from pbt.population.evolution import Evolution, Pace
from pbt.population.flow import Company, Flow
from pbt.population.roster import check_initial
from pbt.population.rounds import Rounds
from pbt.population.verdicts import Keep, Replace, Restart, Standing, Verdict, badness
from pbt.spec import is_number, require
from pbt.strategy import Strategy, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class PBT:
    """Options of population-based training.

    Attributes:
        quantile: Share of the population that is replaced in a generation, and share that may be a donor;
            at least one member each. In (0, 0.5].
        explore: `perturb` multiplies by one of `factors`; `resample` draws anew from the space.
        factors: The two perturbation factors.
        resample_probability: With `perturb`, the chance of each hyperparameter being resampled instead.
        inherit_hparams: Exploring begins from the donor's hyperparameters (True) or the receiver's own (False).
        synchronous: True compares the population at the end of every generation, which can be repeated exactly. False
            considers each member when it reports, and nobody waits for slower ones; donors may be under way.
        initial: Hyperparameters of the first members; the others are sampled from the space.
    """

    quantile: float = 0.2
    explore: Literal["perturb", "resample"] = "perturb"
    factors: tuple[float, float] = (0.8, 1.2)
    resample_probability: float = 0.25
    inherit_hparams: bool = True
    synchronous: bool = True
    initial: Sequence[Hparams] = ()

    def __post_init__(self) -> None:
        """Refuse options outside their range."""
        where = "strategy.options."
        require(
            is_number(self.quantile) and 0 < self.quantile <= 0.5,
            where + "quantile",
            f"{self.quantile!r} is not in (0, 0.5]",
            "Write a number above 0 and at most 0.5",
        )
        require(
            self.explore in ("perturb", "resample"),
            where + "explore",
            f"{self.explore!r} is unknown",
            "Write perturb or resample",
        )
        require(
            isinstance(self.factors, list | tuple)
            and len(self.factors) == 2
            and all(is_number(factor) and 0 < factor < math.inf for factor in self.factors),
            where + "factors",
            f"{list(self.factors) if isinstance(self.factors, tuple) else self.factors!r} are not two positive numbers",
            "Write [0.8, 1.2]",
        )
        require(
            is_number(self.resample_probability) and 0 <= self.resample_probability <= 1,
            where + "resample_probability",
            f"{self.resample_probability!r} is not a probability",
            "Write a number from 0 to 1",
        )
        for name in ("inherit_hparams", "synchronous"):
            value = getattr(self, name)
            is_known = isinstance(value, bool)
            require(is_known, where + name, f"{value!r} is neither true nor false", "Write true or false")
        check_initial(self.initial)

    def begin(self, task: Task) -> Strategy:
        """Start on a task."""
        pace: Pace = Rounds(self.evolve) if self.synchronous else Flow(self.consider, self._share)
        return Evolution(task, pace, self.initial)

    def evolve(self, task: Task, generation: int, ranking: Sequence[Standing]) -> list[Verdict]:
        """Decide who is replaced at the end of a generation, by whom, and with what.

        Args:
            task: What is optimised.
            generation: The generation that just ended.
            ranking: Best first, diverged members last.
        """
        num_finite = sum(not math.isnan(standing.score) for standing in ranking)
        if num_finite == 0:
            return [self._restart(task, generation, standing) for standing in ranking]
        if len(ranking) == 1:
            return [Keep(ranking[0].member, "there is nobody to copy from")]
        count = self._share(len(ranking))
        donors = ranking[: min(count, num_finite)]
        first = min(num_finite, len(ranking) - count)  # of those to replace: the diverged, however many
        places = {standing.member: place for place, standing in enumerate(ranking, start=1)}
        verdicts: list[Verdict] = []
        for loser in ranking[first:]:
            donor = donors[_draw(task, generation, loser.member, len(donors))]
            reason = (
                f"{task.metric} {loser.score:.6g} is rank {places[loser.member]} of {len(places)}; "
                f"donor {donor.member} has {donor.score:.6g}, rank {places[donor.member]}"
            )
            verdicts.append(self._replace(task, generation, loser, donor, reason))
        return verdicts

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
        if not diverged and not self._is_bottom(task, generation, member, company):
            return None
        if company.num_donors == 0:
            keep = Keep(member.member, "there is nobody to copy from")
            return self._restart(task, generation, member) if diverged else keep
        count = min(self._share(company.num_ranked + int(diverged)), company.num_donors)
        donor = company.donor(_draw(task, generation, member.member, count))
        place = f"rank {company.better + 1} of {company.at_age} around age {member.age}"
        bad = f"{task.metric} {member.score:.6g} is {place}"
        good = f"donor {donor.member} has {donor.score:.6g} at age {donor.age}"
        if badness(donor.score, task.mode) > badness(member.score, task.mode):
            return Keep(member.member, f"{bad}; {good}, which is worse")
        return self._replace(task, generation, member, donor, f"{bad}; {good}")

    def _share(self, number: int) -> int:
        """How many of so many are replaced, may be donors, or lend their states."""
        # Rounded first: 0.29 of 100 is 29, though 0.29 * 100 is a little less.
        return max(1, math.floor(round(self.quantile * number, 9)))

    def _is_bottom(self, task: Task, generation: int, member: Standing, company: Company) -> bool:
        """Whether fewer of the others at its age are no better than it than are to be replaced.

        The share of the population that a generation replaces is seldom a whole number of the few that have reported.
        It is rounded up or down at random, so that it is right in the mean: rounded up always, four times too many of
        100 would be replaced for a quantile of 0.01.
        """
        share = round(company.at_age * self._share(task.budget.members) / task.budget.members, 9)
        over = company.at_age - company.better - math.floor(share)  # how far it is from being one of those
        if company.at_age < 2 or over > 1:
            return False
        rest = share - math.floor(share)
        return over < 1 or generator(task.seed, "share", generation, member.member).random() < rest

    def _replace(self, task: Task, generation: int, loser: Standing, donor: Standing, reason: str) -> Replace:
        return Replace(loser.member, donor.member, self._explore(task, generation, loser, donor), reason)

    def _explore(self, task: Task, generation: int, loser: Standing, donor: Standing) -> Hparams:
        rng = generator(task.seed, "explore", generation, loser.member)
        if self.explore == "resample":
            return task.space.sample(rng)
        base = donor.hparams if self.inherit_hparams else loser.hparams
        return task.space.perturb(base, rng, factors=self.factors, resample_probability=self.resample_probability)

    def _restart(self, task: Task, generation: int, standing: Standing) -> Restart:
        """Nobody is left to copy from: begin again, elsewhere in the space."""
        rng = generator(task.seed, "restart", generation, standing.member)
        return Restart(standing.member, task.space.sample(rng), int(rng.integers(2**62)))


def _draw(task: Task, generation: int, loser: int, number: int) -> int:
    """Which of so many donors a member gets."""
    return int(generator(task.seed, "donor", generation, loser).integers(number))
