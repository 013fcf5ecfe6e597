"""Multiple frequencies with a bandit: what `MFPBT` selects, `PB2` explores.

Sub-populations evolve at different periods, as in `mf_pbt`: nobody has to know how long a generation should be, and
what pays in the long run is not lost to what pays at once. Who takes over weights in the fastest goes on with what a
model of all segments hopes for most, as in `pb2`. The model knows what one generation gains, which is what the fastest
is judged by; the slower ones, which are there to look further, perturb.

Nothing here is from a paper but the two that are put together: Doulazmi et al. 2025 (arXiv 2506.03225) and
Parker-Holder et al. 2020, 2021 (arXiv 2002.02518, 2106.15883).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from pbt.member import Hparams
from pbt.population.draws import without_donors
from pbt.population.evolution import Evolution
from pbt.population.experience import Experience
from pbt.population.mf_pbt import MFPBT
from pbt.population.proposals import Proposals
from pbt.population.rounds import Rounds
from pbt.population.verdicts import Replace, Standing, Verdict
from pbt.spec import Budget
from pbt.strategy import Strategy, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class MFPB2:
    """Options of multiple frequencies with a bandit.

    Attributes:
        periods: Generations between two evolutions of each sub-population, ascending; see `MFPBT`.
        min_observations: Segments that must have been seen before the model is asked; see `PB2`.
        max_observations: The latest so many are remembered.
        horizon: Generations in which what was learned of categories fades.
        factors: The two perturbation factors, where the model is not asked.
        resample_probability: Then the chance of each hyperparameter being resampled instead.
        initial: Hyperparameters of the first members; the others are sampled from the space.
    """

    periods: Sequence[int] = (1, 4)
    min_observations: int = 8
    max_observations: int = 300
    horizon: int = 50
    factors: tuple[float, float] = (0.8, 1.25)
    resample_probability: float = 0.25
    initial: Sequence[Hparams] = ()

    def __post_init__(self) -> None:
        """Refuse options outside their range."""
        _ = self.frequencies, self.proposals

    @property
    def frequencies(self) -> MFPBT:
        """Who takes over from whom, and when."""
        return MFPBT(
            periods=self.periods,
            factors=self.factors,
            resample_probability=self.resample_probability,
            initial=self.initial,
        )

    @property
    def proposals(self) -> Proposals:
        """How those explore that take over weights in the fastest sub-population."""
        return Proposals.of(self)

    @property
    def synchronous(self) -> bool:
        """All members are compared at the end of a generation."""
        return True

    def check(self, budget: Budget) -> None:
        """Refuse too few members to have a quarter of each sub-population, or an end before all of them evolve.

        Raises:
            SpecError: It is one.
        """
        self.frequencies.check(budget)

    def begin(self, task: Task) -> Strategy:
        """Start on a task."""
        experience = Experience(self.max_observations)
        pace = Rounds(partial(self.evolve, experience), experience)
        return Evolution(task, pace, self.initial, self.frequencies.remark)

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
        verdicts = self.frequencies.evolve(task, generation, ranking)
        standings = {it.member: it for it in ranking}
        moves = {it.receiver: it for it in verdicts if isinstance(it, Replace)}
        population = self.frequencies.population
        explorers = [it for it in moves.values() if population(it.receiver) == population(it.donor) == 0]
        paired = [(standings[it.receiver], standings[it.donor]) for it in explorers]
        others = {it.member: (it, it.hparams) for it in ranking if it.member not in moves}
        others |= {it.receiver: (standings[it.donor], it.hparams) for it in moves.values() if it not in explorers}
        chosen, why = self.proposals.make(experience, task, generation, ranking[0], paired, others)
        found = {it.receiver: hparams for it, hparams in zip(explorers, chosen, strict=True)}
        return [_explored(it, found, why) for it in verdicts]


def _explored(verdict: Verdict, found: Mapping[int, Hparams], why: str) -> Verdict:
    if not isinstance(verdict, Replace) or verdict.receiver not in found:
        return verdict
    return replace(verdict, hparams=found[verdict.receiver], reason=f"{verdict.reason}; explored by {why}")
