"""Which hyperparameters to go on with, by what all members have seen so far.

Categories are drawn by a time-varying bandit (`exp3`); given these, the numbers are where a Gaussian process over
segments of training (`pbt.surrogates`) hopes for the largest gain. What others are about to train is pending: nothing
is left to be learned there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pbt.member import Hparams, generator
from pbt.population import exp3
from pbt.population.coordinates import Coordinates
from pbt.population.experience import Experience, Observation, filled
from pbt.population.verdicts import Standing
from pbt.strategy import Task

if TYPE_CHECKING:
    from pbt.surrogates.gaussian import Points


#: Of what is pending, the latest so many are looked at: those that were chosen at the same time come last.
_PENDING = 64
#: Hopes that differ by less than this share of the noise, between so many places, are no reason to prefer one.
_CONTRAST, _PLACES = 0.1, 64


class Bandit:
    """A model of what has been seen, which says what to try at the end of one generation.

    Args:
        task: What is optimised.
        experience: What was seen, one observation at least.
        horizon: T of the bandit of categories.
    """

    def __init__(self, task: Task, experience: Experience, horizon: int) -> None:
        from pbt.surrogates.acquisition import exploration  # loads torch
        from pbt.surrogates.gaussian import fit

        self._task, self._horizon = task, horizon
        self._coordinates = Coordinates(task.space)
        self._seen = experience.observations
        rows = [self._point(it.time, it.before, it.hparams) for it in self._seen]
        self._model = fit(_stacked(rows), np.array(filled([it.gain for it in self._seen])))
        self._weight = exploration(len(self._seen))

    def doubt(self, generation: int, state: Standing) -> str | None:
        """Why nothing is to be chosen, going on from a state; None if there is a reason to.

        Where all is noise to the model, what it hopes for is the same everywhere, and greatest in some corner.
        """
        rng = generator(self._task.seed, "contrast", generation)
        places = [self._standing(state, self._task.space.sample(rng)) for _ in range(_PLACES)]
        means, deviations = self._model.predict(_stacked(places))
        if np.ptp(means + self._weight * deviations) < _CONTRAST * self._model.noise:
            return f"to a model of {len(self._seen)} segments all hyperparameters are alike but for noise"
        return None

    def choose(
        self,
        generation: int,
        paired: Sequence[tuple[Standing, Standing]],
        others: Sequence[tuple[Standing, Hparams]],
    ) -> list[Hparams]:
        """Hyperparameters for those that take over weights, in their order.

        Args:
            generation: That just ended.
            paired: Who takes over weights, and from whom.
            others: The states that all others go on from, and with what.
        """
        drawn = self._draw(generation, len(paired)) if paired else []
        pending = [self._standing(state, hparams) for state, hparams in others]
        chosen: list[Hparams] = []
        for (receiver, donor), categories in zip(paired, drawn, strict=True):
            seed = int(generator(self._task.seed, "bandit", generation, receiver.member).integers(2**31))
            options = self._coordinates.bound(categories, donor.hparams, self._task.structural)
            chosen.append(self._maximise(donor, options, pending[-_PENDING:], seed))
            pending.append(self._standing(donor, chosen[-1]))
        return chosen

    def expect(self, experience: Experience, going_on: Mapping[int, tuple[Standing, Hparams]]) -> None:
        """Note in the experience what members are expected to gain, from whose state and with what they go on."""
        points = [self._standing(state, hparams) for state, hparams in going_on.values()]
        means, deviations = self._model.predict(_stacked(points))
        for member, mean, deviation in zip(going_on, means, np.hypot(deviations, self._model.noise), strict=True):
            experience.expect(member, float(mean), float(deviation))

    def _maximise(self, donor: Standing, categories: Sequence[int], pending: Sequence[Points], seed: int) -> Hparams:
        from pbt.surrogates.acquisition import maximise

        coordinates = self._coordinates
        bound = coordinates.columns(self._task.structural)
        known = coordinates.point(np.where(bound, coordinates.numbers(donor.hparams), 0.5), categories, bound)
        here = self._standing(donor, known)
        model = self._model.with_pending(_stacked(pending)) if pending else self._model
        best = maximise(
            model,
            here,
            coordinates.free(categories) & ~bound,
            self._weight,
            seed,
            snap=lambda cube: coordinates.numbers(coordinates.point(cube, categories, bound)),
            known=coordinates.numbers(donor.hparams)[None],
        )
        return coordinates.point(best, categories, bound)

    def _draw(self, generation: int, number: int) -> list[list[int]]:
        """Categories for so many members: `[member][choice]`."""
        columns = []
        for place, arms in enumerate(self._coordinates.options):
            rng = generator(self._task.seed, "category", generation, place)
            chance, _ = exp3.chances(self._weights(place, arms), number, self._horizon)
            columns.append(exp3.draw(chance, number, rng))
        return [[column[row] for column in columns] for row in range(number)]

    def _weights(self, place: int, arms: int) -> np.ndarray:
        weights = np.ones(arms)
        for generation in sorted({it.generation for it in self._seen}):
            seen = [it for it in self._seen if it.generation == generation]
            arms_played = [self._coordinates.categories(it.hparams)[place] for it in seen]
            plays = [(arm, gain) for arm, gain in zip(arms_played, ranked(seen), strict=True) if arm >= 0]
            weights = exp3.updated(weights, plays, self._horizon)
        return weights

    def _standing(self, state: Standing, hparams: Hparams) -> Points:
        """The segment that begins from a state with such hyperparameters."""
        return self._point(state.age / self._task.budget.steps, state.score, hparams)

    def _point(self, time: float, before: float, hparams: Hparams) -> Points:
        from pbt.surrogates.gaussian import Points

        numbers, categories = self._coordinates.numbers(hparams), self._coordinates.categories(hparams)
        return Points(np.array([time]), np.array([before]), numbers[None], np.array([categories], dtype=np.int64))


def ranked(seen: Sequence[Observation]) -> list[float]:
    """Gains of one generation from 0 (the least) to 1, by rank: what is usual changes as training goes on.

    Those that diverged share the last rank; where there is only one, or all are alike, it is 0.5.
    """
    gains = [-np.inf if it.gain is None else it.gain for it in seen]
    if len(gains) == 1:
        return [0.5]
    below = [sum(other < gain for other in gains) for gain in gains]
    equal = [sum(other == gain for other in gains) - 1 for gain in gains]
    return [(less + 0.5 * same) / (len(gains) - 1) for less, same in zip(below, equal, strict=True)]


def _stacked(points: Sequence[Points]) -> Points:
    from pbt.surrogates.gaussian import stacked

    return stacked(points)
