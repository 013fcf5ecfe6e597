"""Freeze and thaw: one model of all learning curves says what is begun, and who goes on.

Runs rest on the rungs of a ladder. From each rung a part may go on, one in `eta`, as in asynchronous successive
halving, so that no rung is left behind and none takes everything; but who that is, is who is expected to be best *at
the target*. If nobody is due, a configuration is begun: the one with the highest expected improvement at the target
over what is expected of the best so far, per cost of its first rung. One start in ten is drawn at random, so that what
the model does not think of is seen too.

The model is a Gaussian process over learning curves (`pbt.surrogates.curves`), of how runs stand among all that there
are (`leveled`): so it does not matter that losses of different rungs are of different sizes, and that only the better
runs reach the upper ones. Its parameters are found again each time a fifth more values are there, from the first so
many of them: what is decided is a function of the book and the seed.

Sources: Swersky, Snoek & Adams 2014, "Freeze-Thaw Bayesian Optimization" (arXiv 1406.3896); Klein et al. 2020,
"Model-based Asynchronous Hyperparameter and Neural Architecture Search" (MOBSTER, arXiv 2003.10865), of a process with
asynchronous promotions; Snoek, Larochelle & Adams 2012, "Practical Bayesian Optimization of Machine Learning
Algorithms" (arXiv 1206.2944), section 3.2, of improvement per cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pbt.member import Hparams, generator
from pbt.search.policy import Begin, Book, GoOn, Order, one_by_one
from pbt.search.promotion import lowest
from searchspaces import Space

if TYPE_CHECKING:
    from pbt.surrogates.curves import Curves, Values

#: Values that the model is told of at most; older ones of others than the best are left out.
_MOST = 400
#: Parameters are found again when there are so many times as many values, from so many on.
_GROWTH, _FEWEST = 1.2, 8
#: Decades over which what hyperparameters have to do with it stays the same, before anything is known: on the scale of
#: standings, neighbouring rungs agree.
_FADE = 3.0


@dataclass(frozen=True, kw_only=True)
class FreezeThawPolicy:
    """The search.

    Attributes:
        space: What may vary.
        eta: One in so many goes on from a rung.
        startup: Configurations drawn at random before the model is asked.
        random: Share of decisions that are random starts.
    """

    space: Space
    eta: float = 3.0
    startup: int = 8
    random: float = 0.1
    _found: dict[int, Mapping[str, Any]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def choose(self, book: Book, seed: int, number: int = 1) -> Sequence[Order]:
        """What so many free slots do."""
        return one_by_one(book, seed, number, self._choose)

    def recommend(self, book: Book) -> int | None:
        """The run that is expected to be the best at the target."""
        if not self._can_model(book):
            return lowest(book)
        tried = [number for number, run in enumerate(book.runs) if math.isfinite(run.badness)]
        expected = self._expected(self._model(book), book, tried)
        return min(tried, key=lambda it: (expected[it], it))

    def _can_model(self, book: Book) -> bool:
        return len(book.values) >= _FEWEST and lowest(book) is not None

    def _choose(self, book: Book, seed: int) -> Order:
        rng = generator(seed, "freeze-thaw")
        is_random = rng.random() < self.random
        first = book.ladder.rungs[0]
        if len(book.runs) < self.startup or is_random or not self._can_model(book):
            return Begin(self.space.sample(rng), first, "drawn at random")
        model = self._with_pending(self._model(book), book)
        tried = [number for number, run in enumerate(book.runs) if not run.is_over]
        expected = self._expected(model, book, tried)
        begun = "most improvement expected at the target, for its cost"
        return self._due(book, expected) or Begin(self._begun(model, book, expected, rng), first, begun)

    # ------------------------------------------------------------------------------------------------ who goes on

    def _due(self, book: Book, expected: Mapping[int, float]) -> GoOn | None:
        """Of the highest rung from which too few have gone on, the one that is expected to be best at the target."""
        resting = book.resting()
        for rung, above in zip(book.ladder.rungs[-2::-1], book.ladder.rungs[:0:-1], strict=True):
            been = [run for run in book.runs if run.steps >= rung or run.is_over]
            gone = sum(run.steps > rung or run.until is not None for run in been)
            here = [it for it in resting if book.runs[it].steps == rung]
            if here and gone < math.floor(len(been) / self.eta):
                reason = f"of {len(here)} that rest after {rung:g} steps, expected to be the best at the target"
                return GoOn(min(here, key=lambda it: (expected[it], it)), above, reason)
        return None

    # ---------------------------------------------------------------------------------------------- what is begun

    def _begun(self, model: Curves, book: Book, expected: Mapping[int, float], rng: np.random.Generator) -> Hparams:
        """The place with the highest expected improvement, at the target, per cost of its first rung."""
        from pbt.surrogates.improvement import most_per_cost

        best_first = sorted(expected, key=lambda it: (expected[it], it))
        here = most_per_cost(
            model, self._cube(book)[best_first], expected[best_first[0]], self._log_cost(book), rng, self._snap
        )
        return self.space.decode(here)

    def _log_cost(self, book: Book) -> Callable[[np.ndarray], np.ndarray]:
        """Of a step at places in the cube."""
        from pbt.surrogates.costs import log_cost_per_step

        paid = [number for number, run in enumerate(book.runs) if run.cost > 0 and run.steps > 0]
        if not paid:
            return lambda places: np.zeros(len(places))
        cube = self._cube(book)[paid]
        per_step = np.log([book.runs[it].cost / book.runs[it].steps for it in paid])
        return lambda places: log_cost_per_step(cube, per_step, places)

    def _snap(self, places: np.ndarray) -> np.ndarray:
        """To the nearest that can be had."""
        return np.array([self.space.encode(self.space.decode(place)) for place in places]).reshape(places.shape)

    # -------------------------------------------------------------------------------------------------- the model

    def _model(self, book: Book) -> Curves:
        """What is known of all curves; parameters are those found by the first so many values."""
        from pbt.surrogates.curves import fit, leveled, with_parameters

        number = _milestone(len(book.values))
        if number not in self._found:
            known = self._values(book, number)
            self._found[number] = fit(known, leveled(known), _FADE).parameters
        values = self._values(book, len(book.values))
        return with_parameters(values, leveled(values), self._found[number])

    def _values(self, book: Book, number: int) -> Values:
        """The first so many values as the model wants them."""
        from pbt.surrogates.curves import Values

        rows = book.values[max(0, number - _MOST) : number]
        run = np.array([it.run for it in rows])
        depth = np.log10(book.ladder.target / np.array([it.steps for it in rows]))
        return Values(run, depth, self._cube(book)[run], np.array([it.badness for it in rows]))

    def _with_pending(self, model: Curves, book: Book) -> Curves:
        """The model once runs that are under way will have come to what is expected of them."""
        going = [number for number, run in enumerate(book.runs) if run.until is not None]
        depth = np.log10(book.ladder.target / np.array([book.runs[it].until for it in going], dtype=float))
        return model.with_pending(np.array(going), depth, self._cube(book)[going])

    def _expected(self, model: Curves, book: Book, runs: Sequence[int]) -> dict[int, float]:
        """What is expected of runs at the target."""
        mean, _ = model.joint(np.array(runs), np.zeros(1), self._cube(book)[list(runs)])
        return dict(zip(runs, mean[:, 0].tolist(), strict=True))

    def _cube(self, book: Book) -> np.ndarray:
        return np.array([self.space.encode(run.hparams) for run in book.runs])


def _milestone(number: int) -> int:
    """The last of the numbers of values at which parameters are found again."""
    here = _FEWEST
    while (above := max(here + 1, round(here * _GROWTH))) <= number:
        here = above
    return here
