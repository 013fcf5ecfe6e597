"""What tells most of the best, for its cost: new configurations at any rung, and old ones further.

In one pool are places all over the space and around the best so far, each at every rung, and runs that rest, each at
every rung above; chosen is what gives the most information about the lowest value at the target, per cost
(`pbt.surrogates.entropy`). Where runs cannot go on (another model size, a schedule that has ended), going on costs as
much as beginning: then runs are begun at the rung that tells most for its cost, and few go on.

The model is that of `freeze_thaw`: a process over curves, of how runs stand among all.

Sources: Takeno et al. 2020 (arXiv 1901.08275), of fidelities one by one; for data mixtures: Yen et al. 2025, "Data
Mixture Optimization: A Multi-fidelity Multi-scale Bayesian Framework" (arXiv 2508.11551).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pbt.member import Hparams, generator
from pbt.search.chart import Chart
from pbt.search.curve_model import CurveModel
from pbt.search.policy import Begin, Book, GoOn, Order, one_by_one
from pbt.search.promotion import lowest

if TYPE_CHECKING:
    from pbt.surrogates.curves import Curves

#: Places all over the space, and around the best so far; draws of the lowest value.
_EVERYWHERE, _AROUND, _DRAWS = 192, 8, 8


@dataclass(frozen=True, kw_only=True)
class EntropySearch:
    """The search.

    Attributes:
        model: What is known of curves, and what may vary.
        startup: Configurations drawn at random before the model is asked.
        random: Share of decisions that are random starts.
    """

    model: CurveModel
    startup: int = 8
    random: float = 0.1

    def choose(self, book: Book, seed: int, number: int = 1, alike: Sequence[str] = ()) -> Sequence[Order]:
        """What so many free slots do."""
        return one_by_one(book, seed, number, alike, self._choose)

    def recommend(self, book: Book) -> int | None:
        """The run with the lowest last value."""
        return lowest(book)

    def _choose(self, book: Book, seed: int, given: Hparams) -> Order:
        rng = generator(seed, "entropy")
        if self.model.is_to_draw(book, rng, self.startup, self.random):
            return Begin(self.model.drawn(book, rng, given), book.ladder.rungs[0], "drawn at random")
        return self._most_telling(self.model.with_pending(book), book, self.model.chart(given), rng)

    def _most_telling(self, model: Curves, book: Book, chart: Chart, rng: np.random.Generator) -> Order:
        from pbt.surrogates.curves import NOBODY

        resting = book.resting()
        places = self._places(model, book, chart, rng)
        cube = np.concatenate([self.model.places(book)[resting].reshape(-1, places.shape[1]), places])
        run = np.array([*resting, *[NOBODY] * len(places)])
        told = self._information(model, book, run, cube, rng) - np.log(self._costs(book, resting, cube))
        best, rung = np.unravel_index(int(told.argmax()), told.shape)
        until = book.ladder.rungs[int(rung)]
        if best < len(resting):
            return GoOn(resting[int(best)], until, "tells most of the best, for its cost")
        return Begin(chart.decode(cube[best]), until, "tells most of the best, for its cost")

    def _places(self, model: Curves, book: Book, chart: Chart, rng: np.random.Generator) -> np.ndarray:
        """All over the space, and around those that are expected to be the best."""
        from pbt.surrogates.improvement import around

        expected = self.model.expected(model, book)
        best = self.model.best_first(book, expected)[:6]
        drawn = chart.sample(_EVERYWHERE, rng)
        near = [around(best, _AROUND, scale, rng) for scale in (0.1, 0.03)]
        return chart.snapped(np.concatenate([drawn, *near]))

    def _information(
        self, model: Curves, book: Book, run: np.ndarray, cube: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Logarithm of what each place tells at each rung, `(places, rungs)`."""
        from pbt.surrogates.entropy import below, information, lowest_values

        depth = self.model.depth(book, np.array(book.ladder.rungs))
        mean, covariance = (it.numpy() for it in model.joint(run, depth, cube))
        variance = np.maximum(np.diagonal(covariance, axis1=1, axis2=2), 1e-9)
        deviation = np.sqrt(variance[:, -1])
        lowest_draws = lowest_values(mean[:, -1], deviation, _DRAWS, rng)
        seen = np.sqrt(variance + model.noise**2)
        correlation = np.clip(covariance[:, :, -1] / (seen * deviation[:, None]), -0.995, 0.995)
        g = below(mean[:, -1], deviation, lowest_draws)
        told = np.stack([information(g, correlation[:, [rung]]).mean(axis=1) for rung in range(len(depth))], axis=1)
        return np.asarray(np.log(np.maximum(told, 1e-12)))

    def _costs(self, book: Book, resting: Sequence[int], cube: np.ndarray) -> np.ndarray:
        """Of bringing each to each rung, `(places, rungs)`; infinite where it has been."""
        per_step = np.exp(self.model.log_cost(book)(cube))
        reached = [book.runs[it].steps for it in resting] + [0.0] * (len(cube) - len(resting))
        steps = [[_to_train(book, here, rung) for rung in book.ladder.rungs] for here in reached]
        return per_step[:, None] * np.array(steps)


def _to_train(book: Book, steps: float, rung: float) -> float:
    return book.ladder.to_train(steps, rung) if rung > steps else math.inf
