"""Population-based bandits.

As in PBT, the worst of each generation take over the weights of the best. What they go on with is not chance: a model
of what all segments so far have gained (given the age of the weights, their score, and the hyperparameters) says where
most can be hoped for, and what others are about to try is no reason for hope.

Where the model cannot be trusted, hyperparameters are perturbed as in PBT (`proposals`).

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
from pbt.population.draws import without_donors
from pbt.population.evolution import Evolution
from pbt.population.experience import Experience
from pbt.population.proposals import Proposals
from pbt.population.roster import check_initial
from pbt.population.rounds import Rounds
from pbt.population.truncation import check_quantile, compared, pairs, places_of
from pbt.population.verdicts import Replace, Standing, Verdict
from pbt.spec import at_least
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
        check_initial(self.initial)
        _ = self.proposals  # which refuse what is not in their range

    @property
    def proposals(self) -> Proposals:
        """How those explore that take over weights."""
        return Proposals.of(self)

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
        lost = {loser.member for loser, _ in paired}
        others = {it.member: (it, it.hparams) for it in ranking if it.member not in lost}
        chosen, why = self.proposals.make(experience, task, generation, ranking[0], paired, others)
        places = places_of(ranking)
        return [
            Replace(loser.member, donor.member, hparams, f"{compared(task, places, loser, donor)}; explored by {why}")
            for (loser, donor), hparams in zip(paired, chosen, strict=True)
        ]
