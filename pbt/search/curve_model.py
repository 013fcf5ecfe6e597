"""What a search knows of its runs' curves: one process, whose parameters are found again now and then.

The process (`pbt.surrogates.curves`) is of how runs stand among all that there are (`leveled`): so it does not matter
that losses of different rungs are of different sizes, and that only the better runs reach the upper ones. Its
parameters are found again each time a fifth more values are there, from the first so many of them: what it says is a
function of the book.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from pbt.member import Hparams
from pbt.search.beforehand import Earlier, Guess
from pbt.search.chart import Chart
from pbt.search.policy import Book, Ladder, Value
from searchspaces import Space

if TYPE_CHECKING:
    from pbt.surrogates.curves import Curves, Values

#: Values that the process is told of at most; the first ones are left out.
_MOST = 400
#: Parameters are found again when there are so many times as many values, from so many on.
_GROWTH, _FEWEST = 1.2, 8
#: Recorded runs are numbered from here on.
_RECORDED = 1_000_000
_NOTHING: Hparams = MappingProxyType({})
#: So many runs of a rung can tell whether the process is any good; and of their pairs it puts more in order than this.
_JURY, _COIN = 8, 0.5
#: Decades over which what hyperparameters have to do with it stays the same, before anything is known: on the scale of
#: standings, neighbouring rungs agree.
_FADE = 3.0


@dataclass(frozen=True)
class CurveModel:
    """The process of a book.

    Attributes:
        space: What varies.
        earlier: Runs that were recorded before; nobody can go on with them.
        guess: Where the best may lie.
        fade: Decades over which hyperparameters mean the same, before anything is known.
    """

    space: Space
    earlier: tuple[Earlier, ...] = ()
    guess: Guess = field(default_factory=Guess)
    fade: float = _FADE
    _found: dict[int, Mapping[str, Any]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _places: dict[int, tuple[Hparams, np.ndarray]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _seen: dict[Ladder, list[Value]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _trusted: dict[int, bool] = field(default_factory=dict, init=False, repr=False, compare=False)

    def is_ready(self, book: Book) -> bool:
        """Whether there is enough to go by."""
        seen = [value.badness for value in book.values] + [it.badness for it in self._recorded(book.ladder)]
        return len(seen) >= _FEWEST and bool(np.isfinite(seen).any())

    def is_to_draw(self, book: Book, rng: np.random.Generator, startup: int, share: float) -> bool:
        """Whether a configuration is to be drawn without asking: one of the first, or of a share of the others."""
        is_random = rng.random() < share
        known = len(book.runs) + len(self.earlier)
        is_guess = not book.runs and bool(self.guess.hparams)
        return is_guess or known < startup or is_random or not self.is_ready(book)

    def drawn(self, book: Book, rng: np.random.Generator, given: Hparams) -> Hparams:
        """A configuration that is drawn at random, or around the guess."""
        return self.guess.sample(self.space, rng, given, is_first=not book.runs)

    def is_trusted(self, book: Book) -> bool:
        """Whether the process ranks runs it has not seen better than a coin would, told of all others.

        Asked are runs of the highest rung that has enough of them; where none has, it is trusted.
        """
        number = milestone(len(book.values))
        if number not in self._trusted:
            self._trusted[number] = self._ranks(book, number)
        return self._trusted[number]

    def _ranks(self, book: Book, number: int) -> bool:
        from pbt.surrogates.ensemble import in_order

        values = self.values(book, number)
        depths = [
            it for it in np.unique(values.depth) if np.isfinite(values.badness[values.depth == it]).sum() >= _JURY
        ]
        if not depths:
            return True
        here = values.depth == depths[0]
        seen = np.where(np.isfinite(values.badness), values.badness, np.inf)[here]
        return in_order(self.of(book, number).left_out()[here], seen) > _COIN

    def of(self, book: Book, told: int | None = None) -> Curves:
        """What is known of all curves by the first so many values, or all; parameters are found by a part of them."""
        from pbt.surrogates.curves import fit, leveled, with_parameters

        number = milestone(len(book.values))
        if number not in self._found:
            known = self.values(book, number)
            self._found[number] = fit(known, leveled(known), self.fade).parameters
        values = self.values(book, told)
        return with_parameters(values, leveled(values), self._found[number])

    def with_pending(self, book: Book) -> Curves:
        """The same once runs that are under way will have come to what is expected of them."""
        going = [number for number, run in enumerate(book.runs) if run.until is not None]
        until = np.array([book.runs[it].until for it in going], dtype=float)
        return self.of(book).with_pending(np.array(going), self.depth(book, until), self.places(book)[going])

    def expected(self, model: Curves, book: Book) -> dict[int, float]:
        """What is expected at the target of runs that have not diverged; of recorded ones too."""
        places = self._all_places(book)
        runs = [number for number in places if number >= _RECORDED or not book.runs[number].is_over]
        mean, _ = model.joint(np.array(runs), np.zeros(1), np.array([places[it] for it in runs]))
        return dict(zip(runs, mean[:, 0].tolist(), strict=True))

    def tried(self, book: Book) -> np.ndarray:
        """Places of all runs, recorded ones too, `(runs, numbers)`."""
        return np.array(list(self._all_places(book).values()))

    def best_first(self, book: Book, expected: Mapping[int, float]) -> np.ndarray:
        """Places of these runs in the order of what is expected of them, `(runs, numbers)`."""
        places = self._all_places(book)
        return np.array([places[it] for it in sorted(expected, key=lambda it: (expected[it], it))])

    def depth(self, book: Book, steps: np.ndarray) -> np.ndarray:
        """Decades from the target."""
        return np.asarray(np.log10(book.ladder.target / steps))

    def chart(self, given: Hparams = _NOTHING) -> Chart:
        """Where the process sees configurations; those that have given values, if any are given."""
        return Chart(self.space, given)

    def places(self, book: Book) -> np.ndarray:
        """Of runs, `(runs, numbers)`."""
        return np.array([self._place(number, run.hparams) for number, run in enumerate(book.runs)])

    def _place(self, number: int, hparams: Hparams) -> np.ndarray:
        """Of a run; found once, as runs do not change theirs."""
        known = self._places.get(number)
        if known is None or known[0] is not hparams:
            known = self._places[number] = hparams, self.chart().encode(hparams)
        return known[1]

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
        recorded = self._recorded(book.ladder)
        rows = [*recorded, *book.values[max(0, number - _MOST + len(recorded)) : number]]
        places = self._all_places(book)
        run = np.array([it.run for it in rows])
        depth = self.depth(book, np.array([_rung(book.ladder, it) for it in rows]))
        return Values(run, depth, np.array([places[it.run] for it in rows]), np.array([it.badness for it in rows]))

    def _all_places(self, book: Book) -> dict[int, np.ndarray]:
        """Of all runs, recorded ones too, by number."""
        own = dict(enumerate(self.places(book)))
        return own | {_RECORDED + it: self._place(_RECORDED + it, run.hparams) for it, run in enumerate(self.earlier)}

    def _recorded(self, ladder: Ladder) -> list[Value]:
        """What recorded runs were worth on the rungs; if that is much, of some of them, from the best to the worst."""
        if ladder not in self._seen:
            self._seen[ladder] = self._looked_up(ladder)
        return self._seen[ladder]

    def _looked_up(self, ladder: Ladder) -> list[Value]:
        rows = [Value(_RECORDED + it, *seen, 0.0) for it, run in enumerate(self.earlier) for seen in run.on(ladder)]
        if len(rows) <= _MOST // 2:
            return rows
        best_first = sorted(rows, key=lambda it: (it.steps, it.badness))
        return best_first[:: math.ceil(len(rows) / (_MOST // 2))]


def _rung(ladder: Ladder, value: Value) -> float:
    """Where a value counts: who diverged between two rungs would have been the worst of the next."""
    return value.steps if math.isfinite(value.badness) else ladder.rungs[ladder.above(value.steps)]


def milestone(number: int, first: int = _FEWEST) -> int:
    """The last of the numbers of values at which parameters are found again; 0 before the first."""
    here = first if number >= first else 0
    while here and (above := max(here + 1, round(here * _GROWTH))) <= number:
        here = above
    return here
