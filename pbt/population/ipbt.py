"""Iterated population-based training: no need to know how long a generation should be.

A short step between two evolutions finds quickly what pays at once; a long one keeps what pays in the long run. So it
begins with the shortest, a generation, and once the population gets no better, begins again with steps twice as long.

In an iteration, the worst take over the weights of the best at the end of every step, with perturbed hyperparameters,
as in PBT. The best score of each step is noted. The population is restarted where these scores, smoothed, got no better
for `patience` steps in a row, or where the best rose by less than a standard deviation in the last `slow` steps:

- some members go on from weights of the best, shrunk and perturbed: they keep some of what was learned, and can learn
  again as new ones can; the others begin with new weights;
- some begin with new hyperparameters, the others with those that the ancestors of the best began this iteration with,
  perturbed: what pays at the beginning is not what pays at the end.

Not in the paper: the best member itself goes on as it is until the next restart, and neither gives nor takes weights,
so that no restart loses what has been reached. In return, restarts near the end are not prevented: what is decided does
not depend on how long the sweep is. The paper models what hyperparameters to begin with; and it has twice as many
members in the first step of an iteration, of whom the better half stays.

Source: Chebykin, Alderliesten and Bosman 2025, "Iterated Population Based Training with Task-Agnostic Restarts" (IPBT,
arXiv 2511.09190), section 3; defaults are those of the authors' code (github.com/AwesomeLemon/IPBT). Shrink and
perturb: Ash and Adams 2020 (arXiv 1910.08475).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pbt.member import Hparams, Shrinkage, generator
from pbt.population.draws import donor_index, without_donors
from pbt.population.evolution import Evolution
from pbt.population.explore import check_explore, perturbed, resampled
from pbt.population.roster import check_initial
from pbt.population.rounds import Rounds
from pbt.population.stagnation import has_improved, is_too_slow
from pbt.population.truncation import check_quantile, compared, pairs, places_of, share_of
from pbt.population.verdicts import Keep, Renew, Replace, Restart, Standing, Verdict
from pbt.spec import at_least, is_number, require
from pbt.strategy import Strategy, Task, badness


@dataclass(frozen=True, slots=True, kw_only=True)
class IPBT:
    """Options of iterated population-based training.

    Attributes:
        quantile: Share of the population that is replaced at the end of a step, and share that may be a donor; at least
            one member each. In (0, 0.5].
        patience: Steps in a row without improvement after which the population is restarted.
        slow: Steps in which the best score has to rise by a standard deviation.
        growth: Steps are so many times as long after each restart.
        keep: Share of the weights that a restart keeps, in [0, 1].
        noise: Share of fresh weights that it adds, in [0, 1].
        fresh_weights: Share of the members that get new weights instead, in [0, 1].
        fresh_hparams: Share of the members that get new hyperparameters, in [0, 1].
        factors: The two perturbation factors.
        resample_probability: The chance of each hyperparameter being resampled instead.
        initial: Hyperparameters of the first members; the others are sampled from the space.
    """

    quantile: float = 0.25
    patience: int = 3
    slow: int = 15
    growth: int = 2
    keep: float = 0.2
    noise: float = 0.1
    fresh_weights: float = 0.5
    fresh_hparams: float = 0.5
    factors: tuple[float, float] = (0.8, 1.2)
    resample_probability: float = 0.25
    initial: Sequence[Hparams] = ()

    def __post_init__(self) -> None:
        """Refuse options outside their range."""
        where = "strategy.options."
        check_quantile(self.quantile)
        for name, low, usual in (("patience", 1, 3), ("slow", 2, 15), ("growth", 1, 2)):
            at_least(low, where + name, getattr(self, name), f"Write {usual}")
        for name in ("keep", "noise", "fresh_weights", "fresh_hparams"):
            value = getattr(self, name)
            is_share = is_number(value) and 0 <= value <= 1
            require(is_share, where + name, f"{value!r} is not from 0 to 1", "Write a share, such as 0.2")
        check_explore(self.factors, self.resample_probability)
        check_initial(self.initial)

    @property
    def synchronous(self) -> bool:
        """All members are compared at the end of a generation."""
        return True

    def begin(self, task: Task) -> Strategy:
        """Start on a task."""
        course = Course(self.growth)
        return Evolution(task, Rounds(partial(self.evolve, course), course), self.initial)

    def evolve(self, course: Course, task: Task, generation: int, ranking: Sequence[Standing]) -> list[Verdict]:
        """Decide what becomes of the members at the end of a generation.

        Args:
            course: What was seen up to now; restarts and copies are noted in it.
            task: What is optimised.
            generation: The generation that just ended.
            ranking: Best first, diverged members last.
        """
        verdicts = without_donors(task, generation, ranking)
        if not verdicts and (cause := self._cause(course)) is not None:
            return self._begin_again(course, task, generation, ranking, cause)
        verdicts = verdicts or list(self._exploit(course, task, generation, ranking))
        course.carry_on(verdicts)
        return verdicts

    def _cause(self, course: Course) -> str | None:
        """Why the population is to be restarted; None if it is not."""
        if not course.is_end_of_step:
            return None
        if is_too_slow(course.best, self.slow):
            return f"less than a standard deviation better in {self.slow} steps"
        return f"no better for {self.patience} steps" if course.fails >= self.patience else None

    def _exploit(self, course: Course, task: Task, generation: int, ranking: Sequence[Standing]) -> Iterator[Verdict]:
        """The worst make way for the best, among all but the one that is kept; between two steps only the diverged."""
        places = places_of(ranking)
        others = [it for it in ranking if it.member != course.elite or math.isnan(it.score)]
        if all(math.isnan(standing.score) for standing in others):
            others = list(ranking)
        paired = pairs(task, generation, others, self.quantile, only_diverged=not course.is_end_of_step)
        for loser, donor in paired:
            hparams = self._near(task, generation, loser.member, donor.hparams)
            yield Replace(loser.member, donor.member, hparams, compared(task, places, loser, donor))

    # --- restarts

    def _begin_again(
        self, course: Course, task: Task, generation: int, ranking: Sequence[Standing], cause: str
    ) -> list[Verdict]:
        healthy = [standing for standing in ranking if not math.isnan(standing.score)]
        best, others = healthy[0], sorted(it.member for it in ranking if it is not ranking[0])
        donors = healthy[: share_of(self.quantile, len(ranking))]
        new_weights = _some(task, generation, others, self.fresh_weights, "new weights")
        new_hparams = _some(task, generation, others, self.fresh_hparams, "new hyperparameters")
        period = course.period * self.growth
        why = f"restart {course.restarts + 1}, {cause}; from now on a step has {period} generations"
        verdicts: list[Verdict] = [Keep(best.member, f"{why}; the best goes on as it is")]
        for member in others:
            donor = donors[donor_index(task, generation, member, len(donors))]
            known = self._near(task, generation, member, course.origin(donor))
            bound = {} if member in new_weights else donor.hparams  # new weights are made for anything
            hparams = resampled(task, generation, member, bound) if member in new_hparams else known
            seed = int(generator(task.seed, "restart", generation, member).integers(2**62))
            if member in new_weights:
                verdicts.append(Restart(member, hparams, seed, f"{why}; with new weights"))
            else:
                how = Shrinkage(self.keep, self.noise, seed)
                verdicts.append(Renew(member, donor.member, hparams, how, f"{why}; {_told(task, donor, how)}"))
        course.begin_again(best, verdicts)
        return verdicts

    def _near(self, task: Task, generation: int, member: int, hparams: Hparams) -> Hparams:
        return perturbed(task, generation, member, hparams, self.factors, self.resample_probability)


class Course:
    """How the present iteration has gone so far.

    Args:
        growth: Steps are so many times as long after each restart.
    """

    def __init__(self, growth: int) -> None:
        self._growth = growth
        self.restarts = 0
        #: Generations that ended in this iteration.
        self._ended = 0
        #: The best score at the end of each of its steps; larger is better.
        self.best: list[float] = []
        #: Steps in a row without improvement.
        self.fails = 0
        #: Who goes on as it is until the next restart.
        self.elite: int | None = None
        #: What the ancestors of each member began the iteration with, where that is not what the member began with.
        self._origins: dict[int, Hparams] = {}

    @property
    def period(self) -> int:
        """Generations in a step."""
        return int(self._growth**self.restarts)

    @property
    def is_end_of_step(self) -> bool:
        """Whether the generation that just ended is the last of a step."""
        return self._ended % self.period == 0

    def observe(self, task: Task, generation: int, ranking: Sequence[Standing]) -> None:
        """Note how a generation ended."""
        for standing in ranking:
            self._origins.setdefault(standing.member, standing.hparams)
        self._ended += 1
        scores = [-badness(it.score, task.mode) for it in ranking if it.member != self.elite]
        best = max(scores, default=-math.inf)
        if not self.is_end_of_step or not math.isfinite(best):
            return
        self.best.append(best)
        if len(self.best) > 1:
            self.fails = 0 if has_improved(self.best) else self.fails + 1

    def origin(self, standing: Standing) -> Hparams:
        """What a member's ancestors began the iteration with."""
        return self._origins[standing.member]

    def carry_on(self, verdicts: Sequence[Verdict]) -> None:
        """Note whose weights are whose from now on."""
        before = dict(self._origins)
        for verdict in verdicts:
            match verdict:
                case Replace(receiver, donor):
                    self._origins[receiver] = before[donor]
                    self.elite = None if receiver == self.elite else self.elite
                case Restart(member, hparams):
                    self._origins[member] = hparams

    def begin_again(self, elite: Standing, verdicts: Sequence[Verdict]) -> None:
        """Begin the next iteration."""
        self.restarts, self._ended, self.best, self.fails = self.restarts + 1, 0, [], 0
        self.elite = elite.member
        begun = {it.member: it.hparams for it in verdicts if isinstance(it, Renew | Restart)}
        self._origins = {elite.member: elite.hparams, **begun}

    def snapshot(self) -> dict[str, Any]:
        """All of it as JSON-able data."""
        return {
            "restarts": self.restarts,
            "ended": self._ended,
            "best": list(self.best),
            "fails": self.fails,
            "elite": self.elite,
            "origins": [[member, dict(hparams)] for member, hparams in self._origins.items()],
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Become the course that gave the snapshot."""
        self.restarts, self._ended = snapshot["restarts"], snapshot["ended"]
        self.best, self.fails, self.elite = list(snapshot["best"]), snapshot["fails"], snapshot["elite"]
        self._origins = dict(snapshot["origins"])


def _some(task: Task, generation: int, members: Sequence[int], share: float, purpose: str) -> frozenset[int]:
    """That share of the members, drawn."""
    drawn = generator(task.seed, purpose, generation).permutation(len(members))
    return frozenset(members[place] for place in drawn[: round(share * len(members))])


def _told(task: Task, donor: Standing, how: Shrinkage) -> str:
    return (
        f"{100 * how.keep:.3g} % of the weights of member {donor.member}, which has {task.metric} {donor.score:.6g}, "
        f"and {100 * how.noise:.3g} % of new ones"
    )
