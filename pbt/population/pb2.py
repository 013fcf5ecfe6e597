"""Population-based bandits.

As in PBT, the worst of each generation take over the weights of the best. What they go on with is not chance: a model
of what all segments so far have gained (given the age of the weights, their score, and the hyperparameters) says where
most can be hoped for, and what others are about to try is no reason for hope.

The model is put to the test: in every generation it says what each member will gain, and what comes is compared. Where
it is clearly wrong, has seen too little, or has found nothing but noise, hyperparameters are perturbed as in PBT, and
the record says why.

Sources: Parker-Holder et al. 2020, "Provably Efficient Online Hyperparameter Optimization with Population-Based
Bandits" (PB2, arXiv 2002.02518), algorithm 1; categories: Parker-Holder et al. 2021, "Tuning Mixed Input
Hyperparameters on the Fly for Efficient Population Based AutoRL" (PB2-Mix, arXiv 2106.15883). Not in the papers: the
check, what is made of weights that diverged (the worst gain so far), and ranks as gains of categories.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from pbt.member import Hparams
from pbt.population.bandit import Bandit
from pbt.population.draws import without_donors
from pbt.population.evolution import Evolution
from pbt.population.experience import Experience
from pbt.population.explore import check_explore, perturbed
from pbt.population.roster import check_initial
from pbt.population.rounds import Rounds
from pbt.population.truncation import check_quantile, compared, pairs, places_of
from pbt.population.verdicts import Replace, Standing, Verdict
from pbt.spec import at_least, require
from pbt.strategy import Strategy, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class PB2:
    """Options of population-based bandits.

    Attributes:
        quantile: Share of the population that is replaced in a generation, and share that may be a donor; at least one
            member each. In (0, 0.5].
        burn_in: Generations in which a member is not replaced unless it diverges.
        min_observations: Segments that must have been seen before the model is asked.
        max_observations: The latest so many are remembered. A fit takes time with the cube of their number.
        horizon: Generations in which what was learned of categories fades.
        factors: The two perturbation factors, where the model is not asked.
        resample_probability: Then the chance of each hyperparameter being resampled instead.
        initial: Hyperparameters of the first members; the others are sampled from the space.
    """

    quantile: float = 0.25
    burn_in: int = 0
    min_observations: int = 8
    max_observations: int = 300
    horizon: int = 50
    factors: tuple[float, float] = (0.8, 1.2)
    resample_probability: float = 0.25
    initial: Sequence[Hparams] = ()

    def __post_init__(self) -> None:
        """Refuse options outside their range."""
        check_quantile(self.quantile)
        at_least(0, "strategy.options.burn_in", self.burn_in, "Write 0 for none")
        for name, low in (("min_observations", 2), ("max_observations", 2), ("horizon", 1)):
            at_least(low, f"strategy.options.{name}", getattr(self, name), f"Write {low} or more")
        require(
            self.min_observations <= self.max_observations,
            "strategy.options.min_observations",
            f"{self.min_observations} are never remembered, as max_observations is {self.max_observations}",
            f"Write {self.max_observations} or fewer",
        )
        check_explore(self.factors, self.resample_probability)
        check_initial(self.initial)

    @property
    def synchronous(self) -> bool:
        """All members are compared at the end of a generation."""
        return True

    def begin(self, task: Task) -> Strategy:
        """Start on a task."""
        experience = Experience(self.max_observations)
        return Evolution(task, Rounds(partial(self.evolve, experience), experience), self.initial)

    def evolve(self, experience: Experience, task: Task, generation: int, ranking: Sequence[Standing]) -> list[Verdict]:
        """Decide who is replaced at the end of a generation, by whom, and with what.

        Args:
            experience: What was seen up to now; what is expected of the next generation is noted in it.
            task: What is optimised.
            generation: The generation that just ended.
            ranking: Best first, diverged members last.
        """
        if verdicts := without_donors(task, generation, ranking):
            return verdicts
        paired = list(pairs(task, generation, ranking, self.quantile, only_diverged=generation < self.burn_in))
        chosen, why = self._explore(experience, task, generation, ranking, paired)
        places = places_of(ranking)
        return [
            Replace(loser.member, donor.member, hparams, f"{compared(task, places, loser, donor)}; explored by {why}")
            for (loser, donor), hparams in zip(paired, chosen, strict=True)
        ]

    def _explore(
        self,
        experience: Experience,
        task: Task,
        generation: int,
        ranking: Sequence[Standing],
        paired: Sequence[tuple[Standing, Standing]],
    ) -> tuple[list[Hparams], str]:
        """What those that are replaced go on with, and how that was found."""
        if objection := self._objection(experience):
            return self._perturb(task, generation, paired), f"perturbation: {objection}"
        bandit = Bandit(task, experience, self.horizon)
        lost = {loser.member for loser, _ in paired}
        others = [it for it in ranking if it.member not in lost]
        doubt = experience.doubt() or bandit.doubt(generation, ranking[0])
        chosen = self._perturb(task, generation, paired) if doubt else bandit.choose(generation, paired, others)
        going_on = {it.member: (it, it.hparams) for it in others}
        going_on |= {it.member: (donor, hparams) for (it, donor), hparams in zip(paired, chosen, strict=True)}
        bandit.expect(experience, going_on)  # also if it is in doubt, or it would be so for ever
        saw = f"the bandit, which saw {len(experience.observations)} segments"
        return chosen, f"perturbation: {doubt}" if doubt else saw

    def _perturb(self, task: Task, generation: int, paired: Sequence[tuple[Standing, Standing]]) -> list[Hparams]:
        factors, chance = self.factors, self.resample_probability
        return [perturbed(task, generation, loser.member, it.hparams, factors, chance) for loser, it in paired]

    def _objection(self, experience: Experience) -> str | None:
        """Why there can be no model; None if there can be."""
        seen = experience.observations
        if len(seen) < self.min_observations:
            return f"{len(seen)} segments were seen, fewer than {self.min_observations}"
        if len({it.gain for it in seen}) == 1:
            return "all segments gained the same"
        return None
