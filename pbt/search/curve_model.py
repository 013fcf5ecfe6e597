"""What a search knows of its runs' curves: one process, whose parameters are found again now and then.

The process (`pbt.surrogates.curves`) is of how runs stand among all that there are (`leveled`): so it does not matter
that losses of different rungs are of different sizes, and that only the better runs reach the upper ones. Its
parameters are found again each time a fifth more values are there, from the first so many of them: what it says is a
function of the book.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from pbt.member import Hparams
from pbt.search.chart import Chart
from pbt.search.policy import Book
from pbt.search.promotion import lowest
from searchspaces import Space

if TYPE_CHECKING:
    from pbt.surrogates.curves import Curves, Values

#: Values that the process is told of at most; the first ones are left out.
_MOST = 400
#: Parameters are found again when there are so many times as many values, from so many on.
_GROWTH, _FEWEST = 1.2, 8
_NOTHING: Hparams = MappingProxyType({})
#: Decades over which what hyperparameters have to do with it stays the same, before anything is known: on the scale of
#: standings, neighbouring rungs agree.
_FADE = 3.0


@dataclass(frozen=True)
class CurveModel:
    """The process of a book.

    Attributes:
        space: What varies.
        fade: Decades over which hyperparameters mean the same, before anything is known.
    """

    space: Space
    fade: float = _FADE
    _found: dict[int, Mapping[str, Any]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def is_ready(self, book: Book) -> bool:
        """Whether there is enough to go by."""
        return len(book.values) >= _FEWEST and lowest(book) is not None

    def is_to_draw(self, book: Book, rng: np.random.Generator, startup: int, share: float) -> bool:
        """Whether a configuration is to be drawn without asking: one of the first, or of a share of the others."""
        is_random = rng.random() < share
        return len(book.runs) < startup or is_random or not self.is_ready(book)

    def best(self, book: Book) -> int | None:
        """The run that is expected to be the best at the target."""
        if not self.is_ready(book):
            return lowest(book)
        tried = [number for number, run in enumerate(book.runs) if math.isfinite(run.badness)]
        expected = self.expected(self.of(book), book, tried)
        return min(tried, key=lambda it: (expected[it], it))

    def of(self, book: Book) -> Curves:
        """What is known of all curves; parameters are those found by the first so many values."""
        from pbt.surrogates.curves import fit, leveled, with_parameters

        number = milestone(len(book.values))
        if number not in self._found:
            known = self.values(book, number)
            self._found[number] = fit(known, leveled(known), self.fade).parameters
        values = self.values(book)
        return with_parameters(values, leveled(values), self._found[number])

    def with_pending(self, book: Book) -> Curves:
        """The same once runs that are under way will have come to what is expected of them."""
        going = [number for number, run in enumerate(book.runs) if run.until is not None]
        until = np.array([book.runs[it].until for it in going], dtype=float)
        return self.of(book).with_pending(np.array(going), self.depth(book, until), self.places(book)[going])

    def expected(self, model: Curves, book: Book, runs: Sequence[int] | None = None) -> dict[int, float]:
        """What is expected of runs at the target; None takes all that have not diverged."""
        runs = [number for number, run in enumerate(book.runs) if not run.is_over] if runs is None else runs
        mean, _ = model.joint(np.array(runs), np.zeros(1), self.places(book)[list(runs)])
        return dict(zip(runs, mean[:, 0].tolist(), strict=True))

    def depth(self, book: Book, steps: np.ndarray) -> np.ndarray:
        """Decades from the target."""
        return np.asarray(np.log10(book.ladder.target / steps))

    def chart(self, given: Hparams = _NOTHING) -> Chart:
        """Where the process sees configurations; those that have given values, if any are given."""
        return Chart(self.space, given)

    def places(self, book: Book) -> np.ndarray:
        """Of runs, `(runs, numbers)`."""
        return np.array([self.chart().encode(run.hparams) for run in book.runs])

    def log_cost(self, book: Book) -> Callable[[np.ndarray], np.ndarray]:
        """Of a step at places."""
        from pbt.surrogates.costs import log_cost_per_step

        paid = [number for number, run in enumerate(book.runs) if run.cost > 0 and run.steps > 0]
        if not paid:
            return lambda places: np.zeros(len(places))
        known = self.places(book)[paid]
        per_step = np.log([book.runs[it].cost / book.runs[it].trained for it in paid])
        return lambda places: log_cost_per_step(known, per_step, places)

    def values(self, book: Book, number: int | None = None) -> Values:
        """The first so many values, or all, as processes want them."""
        from pbt.surrogates.curves import Values

        number = len(book.values) if number is None else number
        rows = book.values[max(0, number - _MOST) : number]
        run = np.array([it.run for it in rows])
        depth = self.depth(book, np.array([it.steps for it in rows]))
        return Values(run, depth, self.places(book)[run], np.array([it.badness for it in rows]))


def milestone(number: int) -> int:
    """The last of the numbers of values at which parameters are found again."""
    here = _FEWEST
    while (above := max(here + 1, round(here * _GROWTH))) <= number:
        here = above
    return here
