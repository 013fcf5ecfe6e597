"""Population-based training with truncation selection.

At the end of every generation the worst members take over the weights of the best (exploit) and go on with changed
hyperparameters (explore).

Source: Jaderberg et al. 2017, "Population Based Training of Neural Networks" (arXiv 1711.09846), section 3 and
appendix A: truncation selection over the top and bottom 20 %, perturbation by 0.8 or 1.2, or resampling.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pbt.member import Hparams, generator
from pbt.population.rounds import Keep, Replace, Restart, Rounds, Standing, Verdict, check_initial
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
        initial: Hyperparameters of the first members; the others are sampled from the space.
    """

    quantile: float = 0.2
    explore: Literal["perturb", "resample"] = "perturb"
    factors: tuple[float, float] = (0.8, 1.2)
    resample_probability: float = 0.25
    inherit_hparams: bool = True
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
        require(
            isinstance(self.inherit_hparams, bool),
            where + "inherit_hparams",
            f"{self.inherit_hparams!r} is neither true nor false",
            "Write true or false",
        )
        check_initial(self.initial)

    def begin(self, task: Task) -> Strategy:
        """Start on a task."""
        return Rounds(task, self.evolve, self.initial)

    def evolve(self, task: Task, generation: int, ranking: Sequence[Standing]) -> list[Verdict]:
        """Decide who is replaced, by whom, and with what.

        Args:
            task: What is optimised.
            generation: The generation that just ended.
            ranking: Best first, diverged members last.
        """
        finite = [standing for standing in ranking if not math.isnan(standing.score)]
        if not finite:
            return [self._restart(task, generation, standing) for standing in ranking]
        if len(ranking) == 1:
            return [Keep(ranking[0].member, "there is nobody to copy from")]
        # Rounded first: 0.29 of 100 is 29, though 0.29 * 100 is a little less.
        count = max(1, math.floor(round(self.quantile * len(ranking), 9)))
        bottom = ranking[-count:]
        diverged = [standing for standing in ranking[len(finite) :] if standing not in bottom]
        places = {standing.member: place for place, standing in enumerate(ranking, start=1)}
        return [self._replace(task, generation, loser, finite[:count], places) for loser in [*diverged, *bottom]]

    def _replace(
        self, task: Task, generation: int, loser: Standing, donors: Sequence[Standing], places: Mapping[int, int]
    ) -> Replace:
        choice = generator(task.seed, "donor", generation, loser.member).integers(len(donors))
        donor = donors[int(choice)]
        reason = (
            f"{task.metric} {loser.score:.6g} is rank {places[loser.member]} of {len(places)}; "
            f"donor {donor.member} has {donor.score:.6g}, rank {places[donor.member]}"
        )
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
