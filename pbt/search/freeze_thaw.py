"""Freeze and thaw: one model of all learning curves says what is begun, and who goes on.

Runs rest on the rungs of a ladder. From each rung a part may go on, one in as many as the next rung is further, so that
about as much is trained on the way to each, no rung is left behind and none takes everything; but who that is, is who
is expected to be best *at the target*. If nobody is due, a configuration is begun: the one with the highest expected
improvement at the target over all that were begun before it, were they trained to the end, per cost of its first rung
(`pbt.surrogates.futures`). One start in ten is drawn at random, so that what the model does not think of is seen too.

The model is a Gaussian process over learning curves (`pbt.search.curve_model`). Where it ranks runs that it has not
seen no better than a coin would, an ensemble of models of rungs decides instead (`pbt.search.ensemble_search`).

Recommended is the run with the lowest last value, and not the one that the model expects most of: see decision 021.

Sources: Swersky, Snoek & Adams 2014, "Freeze-Thaw Bayesian Optimization" (arXiv 1406.3896); Klein et al. 2020,
"Model-based Asynchronous Hyperparameter and Neural Architecture Search" (MOBSTER, arXiv 2003.10865), of a process with
asynchronous promotions; Snoek, Larochelle & Adams 2012, "Practical Bayesian Optimization of Machine Learning
Algorithms" (arXiv 1206.2944), section 3.2, of improvement per cost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pbt.member import Hparams, generator
from pbt.search.curve_model import CurveModel
from pbt.search.ensemble_search import EnsembleSearch
from pbt.search.policy import Begin, Book, GoOn, Order, one_by_one
from pbt.search.promotion import lowest

if TYPE_CHECKING:
    from pbt.surrogates.curves import Curves


@dataclass(frozen=True, kw_only=True)
class FreezeThawPolicy:
    """The search.

    Attributes:
        model: What is known of curves, and what may vary.
        eta: One in so many goes on where the ensemble decides.
        startup: Configurations drawn at random before the model is asked.
        random: Share of decisions that are random starts.
    """

    model: CurveModel
    eta: float = 3.0
    startup: int = 8
    random: float = 0.1

    def choose(self, book: Book, seed: int, number: int = 1, alike: Sequence[str] = ()) -> Sequence[Order]:
        """What so many free slots do."""
        return one_by_one(book, seed, number, alike, self._choose)

    def recommend(self, book: Book) -> int | None:
        """The run with the lowest last value."""
        return lowest(book)

    def _choose(self, book: Book, seed: int, given: Hparams) -> Order:
        rng = generator(seed, "freeze-thaw")
        if self.model.is_to_draw(book, rng, self.startup, self.random):
            return Begin(self.model.drawn(book, rng, given), book.ladder.rungs[0], "drawn at random")
        if not self.model.is_trusted(book):
            return self._without_curves.decide(book, seed, given)
        model = self.model.of(book)
        expected = self.model.expected(model, book)
        begun = "most improvement expected at the target, for its cost"
        due = self._due(book, expected)
        return due or Begin(self._begun(model, book, expected, given, rng), book.ladder.rungs[0], begun)

    @cached_property
    def _without_curves(self) -> EnsembleSearch:
        return EnsembleSearch(model=self.model, eta=self.eta, startup=0, random=0.0)

    # ------------------------------------------------------------------------------------------------ who goes on

    def _due(self, book: Book, expected: Mapping[int, float]) -> GoOn | None:
        """Of the highest rung from which too few have gone on, the one that is expected to be best at the target."""
        resting = book.resting()
        for rung, above in zip(book.ladder.rungs[-2::-1], book.ladder.rungs[:0:-1], strict=True):
            been = [run for run in book.runs if run.steps >= rung or run.is_over]
            gone = sum(run.steps > rung or run.until is not None for run in been)
            here = [it for it in resting if book.runs[it].steps == rung]
            if here and gone < math.floor(len(been) * rung / above + 1e-9):
                reason = f"of {len(here)} that rest after {rung:g} steps, expected to be the best at the target"
                return GoOn(min(here, key=lambda it: (expected[it], it)), above, reason)
        return None

    # ---------------------------------------------------------------------------------------------- what is begun

    def _begun(
        self, model: Curves, book: Book, expected: Mapping[int, float], given: Hparams, rng: np.random.Generator
    ) -> Hparams:
        """The place with the highest expected improvement, at the target, per cost of its first rung."""
        from pbt.surrogates.futures import most_per_cost

        tried, chart = self.model.best_first(book, expected), self.model.chart(given)
        return chart.decode(most_per_cost(model, tried, self.model.log_cost(book), rng, chart))
