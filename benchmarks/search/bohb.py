"""BOHB, as its paper says: Hyperband, whose configurations come from densities of the good and of the bad.

Written here, since its authors' own (HpBandSter) is no longer maintained and brings a network of workers along. In the
unit cube; brackets without waiting for each other, as for the others here. Choices are numbers, as they are in the
cube: the tables have none.

Source: Falkner, Klein & Hutter 2018, "BOHB: Robust and Efficient Hyperparameter Optimization at Scale" (arXiv
1807.01774), section 4 and algorithm 2, with the defaults of its section 4.
"""

from __future__ import annotations

import math

import numpy as np

from pbt.member import Hparams, generator
from pbt.search.policy import Book
from pbt.search.promotion import Proposer
from searchspaces import Space

#: Share of random ones; share of the good; samples; by how much kernels are widened for them; the least width.
_RANDOM, _GOOD, _SAMPLES, _WIDER, _LEAST = 1 / 3, 0.15, 64, 3.0, 1e-3


def bohb(space: Space) -> Proposer:
    """Configurations from where the good ones of the highest rung with enough of them lie."""

    def propose(book: Book, seed: int, given: Hparams) -> Hparams:
        rng = generator(seed, "bohb")
        split = _split(space, book)
        if split is None or rng.random() < _RANDOM:
            return space.sample(rng)
        good, bad = split
        width = _widths(good)
        centres = good[rng.integers(len(good), size=_SAMPLES)]
        samples = np.clip(centres + _WIDER * width * rng.normal(size=centres.shape), 0.0, 1.0)
        gain = _log_density(samples, good, width) - _log_density(samples, bad, _widths(bad))
        return space.decode(samples[gain.argmax()])

    return propose


def _split(space: Space, book: Book) -> tuple[np.ndarray, np.ndarray] | None:
    """The good and the bad of the highest rung that has enough; None where none has."""
    least = space.num_dims + 1
    for rung in reversed(book.ladder.rungs):
        there = book.at(rung)
        if len(there) < least + 2:
            continue
        ordered = sorted(there, key=lambda it: (there[it], it))
        cube = np.array([space.encode(book.runs[it].hparams) for it in ordered])
        number = max(least, math.ceil(_GOOD * len(ordered)))
        return cube[:number], cube[-max(least, len(ordered) - number) :]
    return None


def _widths(points: np.ndarray) -> np.ndarray:
    """Of kernels, by the normal reference rule, as in statsmodels' `KDEMultivariate`."""
    number, dims = points.shape
    return np.maximum(1.06 * points.std(axis=0) * number ** (-1.0 / (4.0 + dims)), _LEAST)


def _log_density(at: np.ndarray, points: np.ndarray, width: np.ndarray) -> np.ndarray:
    far = (at[:, None] - points[None]) / width
    kernels = -0.5 * np.square(far).sum(axis=-1) - np.log(width).sum()
    return np.asarray(np.logaddexp.reduce(kernels, axis=1))
