"""Promotions by rank, and beginnings by an ensemble: a process for each rung, weighed by how well it ranks.

Who goes on is decided as in asynchronous successive halving; what is begun has the highest improvement that an ensemble
of processes (`pbt.surrogates.ensemble`) expects over the best so far, per cost. It takes nothing for granted about how
rungs hang together: where a model of all curves is wrong, this is what is left.

Source: Li, Y. et al. 2022, "Hyper-Tune: Towards Efficient Hyper-parameter Tuning at Scale" (arXiv 2201.06834).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pbt.member import Hparams, generator
from pbt.search.curve_model import CurveModel, milestone
from pbt.search.policy import Book, Order, one_by_one
from pbt.search.promotion import Halving, lowest


@dataclass(frozen=True, kw_only=True)
class EnsembleSearch:
    """The search.

    Attributes:
        model: What may vary, and what is known beforehand; its process is not asked.
        eta: One in so many goes on from a rung.
        startup: Configurations drawn at random before the ensemble is asked.
        random: Share of beginnings that are drawn at random.
    """

    model: CurveModel
    eta: float = 3.0
    startup: int = 8
    random: float = 0.1
    _found: dict[tuple[bytes, bytes], Mapping[str, Any]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def choose(self, book: Book, seed: int, number: int = 1, alike: Sequence[str] = ()) -> Sequence[Order]:
        """What so many free slots do."""
        return one_by_one(book, seed, number, alike, self.decide)

    def decide(self, book: Book, seed: int, given: Hparams) -> Order:
        """What one free slot does; whatever it begins has the given values."""
        return Halving(self._propose, self.eta).decide(book, seed, given)

    def recommend(self, book: Book) -> int | None:
        """The best of those that came furthest."""
        return lowest(book)

    def _propose(self, book: Book, seed: int, given: Hparams) -> Hparams:
        from pbt.surrogates.ensemble import FEWEST, ensemble, found_parameters, rungs_of
        from pbt.surrogates.improvement import best_place, log_improvement

        rng, known = generator(seed, "ensemble"), self.model
        if known.is_to_draw(book, rng, self.startup, self.random) or not (rungs := rungs_of(known.values(book))):
            return known.drawn(book, rng, given)

        def parameters(number: int) -> Mapping[str, Any]:
            values = rungs[number].first(milestone(len(rungs[number]), FEWEST))
            key = values.run.tobytes(), values.badness.tobytes()
            if key not in self._found:
                self._found[key] = found_parameters(values)
            return self._found[key]

        going = [number for number, run in enumerate(book.runs) if run.until is not None]
        model = ensemble(rungs, parameters).with_pending(known.places(book)[going])
        tried = known.tried(book)
        expected, _ = model.predict(tried)
        best_first = tried[np.argsort(expected, kind="stable")]
        log_cost = known.log_cost(book)

        def of(places: np.ndarray) -> np.ndarray:
            mean, deviation = model.predict(places)
            return log_improvement(expected.min() - mean, deviation) - log_cost(places)

        chart = known.chart(given)
        return chart.decode(best_place(of, best_first, rng, chart))
