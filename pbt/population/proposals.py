"""What those that take over weights go on with: what a bandit proposes, or, where it cannot be trusted, a perturbation.

The bandit's model is put to the test: in every generation it says what each member will gain, and what comes is
compared. Where it is clearly wrong, has seen too little, or has found nothing but noise, hyperparameters are perturbed
as in PBT, and the record says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from pbt.member import Hparams
from pbt.population.bandit import Bandit
from pbt.population.experience import Experience
from pbt.population.explore import check_explore, perturbed
from pbt.population.verdicts import Standing
from pbt.spec import at_least, require
from pbt.strategy import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposals:
    """How those explore that take over weights; the attributes are options of strategies.

    Attributes:
        min_observations: Segments that must have been seen before the model is asked.
        max_observations: The latest so many are remembered. A fit takes time with the cube of their number.
        horizon: Generations in which what was learned of categories fades.
        factors: The two perturbation factors, where the model is not asked.
        resample_probability: Then the chance of each hyperparameter being resampled instead.
    """

    min_observations: int
    max_observations: int
    horizon: int
    factors: tuple[float, float]
    resample_probability: float

    @classmethod
    def of(cls, options: Any) -> Proposals:
        """Those of a strategy whose options have these names."""
        return cls(**{field.name: getattr(options, field.name) for field in fields(cls)})

    def __post_init__(self) -> None:
        """Refuse options outside their range."""
        for name, low in (("min_observations", 2), ("max_observations", 2), ("horizon", 1)):
            at_least(low, f"strategy.options.{name}", getattr(self, name), f"Write {low} or more")
        require(
            self.min_observations <= self.max_observations,
            "strategy.options.min_observations",
            f"{self.min_observations} are never remembered, as max_observations is {self.max_observations}",
            f"Write {self.max_observations} or fewer",
        )
        check_explore(self.factors, self.resample_probability)

    def make(
        self,
        experience: Experience,
        task: Task,
        generation: int,
        best: Standing,
        paired: Sequence[tuple[Standing, Standing]],
        others: Mapping[int, tuple[Standing, Hparams]],
    ) -> tuple[list[Hparams], str]:
        """What they go on with, and how that was found.

        Args:
            experience: What was seen; what is expected of the next generation is noted in it.
            task: What is optimised.
            generation: That just ended.
            best: The best member.
            paired: Who takes over weights, and from whom.
            others: All others: the state that they go on from, and with what.

        Returns:
            Hyperparameters in the order of `paired`, and words for the reason.
        """
        if objection := self._objection(experience):
            return self._perturbed(task, generation, paired), f"perturbation: {objection}"
        bandit = Bandit(task, experience, self.horizon)
        doubt = experience.doubt() or bandit.doubt(generation, best)
        if doubt:
            chosen = self._perturbed(task, generation, paired)
        else:
            chosen = bandit.choose(generation, paired, list(others.values()))
        going_on = {**others}
        going_on |= {it.member: (donor, hparams) for (it, donor), hparams in zip(paired, chosen, strict=True)}
        bandit.expect(experience, going_on)  # also if it is in doubt, or it would be so for ever
        saw = f"the bandit, which saw {len(experience.observations)} segments"
        return chosen, f"perturbation: {doubt}" if doubt else saw

    def _perturbed(self, task: Task, generation: int, paired: Sequence[tuple[Standing, Standing]]) -> list[Hparams]:
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
