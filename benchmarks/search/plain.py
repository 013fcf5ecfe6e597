"""Max-value entropy over fidelities as its paper has it, without what ours adds.

One process of all values, each by itself: no curve of a run's own, no standing among all that there are. What is asked
is the same (`pbt.surrogates.entropy`).

Source: Takeno et al. 2020, "Multi-fidelity Bayesian Optimization with Max-value Entropy Search and its
Parallelization" (arXiv 1901.08275).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pbt.search.curve_model import CurveModel, milestone
from pbt.search.policy import Book
from pbt.surrogates.curves import Curves, Values, evened, fit, with_parameters

#: Numbers that no run has.
_ALONE = 2_000_000


@dataclass(frozen=True)
class PlainModel(CurveModel):
    """A process of values."""

    def of(self, book: Book, told: int | None = None) -> Curves:
        """What is known of all values."""
        number = milestone(len(book.values))
        if number not in self._found:
            self._found[number] = fit(self.values(book, number)).parameters
        values = self.values(book, told)
        return with_parameters(values, evened(values.badness), self._found[number])

    def values(self, book: Book, number: int | None = None) -> Values:
        """Values each of which is a run of its own."""
        values = super().values(book, number)
        return replace(values, run=_ALONE + np.arange(len(values)))
