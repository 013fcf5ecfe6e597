"""What a law is: a loss as a function of sizes, with parameters that are found from measurements.

Everything is in logarithms: of the inputs, whose mean over the data is taken off first, and of the loss. With
parameters of centred inputs the problem is conditioned about a thousand times better, and a parameter such as the
logarithm of a coefficient stays a moderate number; those that people write are made of them afterwards.

Functions of a form take parameters `(..., parameters)` that may be complex: their derivatives are taken by a step in
the imaginary direction, which is exact to rounding.

Source: of that derivative, Squire & Trapp 1998, "Using Complex Variables to Estimate Derivatives of Real Functions",
SIAM Review 40.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
#: By input: its logarithm with the mean taken off, `(rows,)`.
Centred: TypeAlias = Mapping[str, Array]

#: The step into the imaginary direction.
_STEP = 1e-30


@dataclass(frozen=True, kw_only=True)
class Form:
    """A law's form.

    Attributes:
        name: As it is asked for.
        formula: As people write it.
        source: Where it is from.
        inputs: What the loss depends on, as columns are called: `params`, `tokens`, ...
        raw: Inputs whose mean stays on, since the form is another one without.
        parameters: Names of what is found, of centred inputs.
        evaluate: Takes parameters `(..., parameters)` and centred inputs, gives the logarithm of the loss
            `(..., rows)`.
        starts: Takes a number, a generator and the logarithms of the losses `(rows,)`: parameters to begin from,
            `(number, parameters)`.
        written: Takes parameters `(parameters,)` and what was taken off the logarithm of each input: those that people
            write, by name.
        exponents: Which of the written ones are exponents; a value that is next to zero means that the data say nothing
            of that input.
        slopes: The derivatives, where they are known; None takes them by steps.
    """

    name: str
    formula: str
    source: str
    inputs: tuple[str, ...]
    parameters: tuple[str, ...]
    evaluate: Callable[[Array, Centred], Array]
    starts: Callable[[int, np.random.Generator, Array], Array]
    written: Callable[[Array, Mapping[str, float]], dict[str, float]]
    raw: tuple[str, ...] = ()
    exponents: tuple[str, ...] = ()
    slopes: Callable[[Array, Centred], Array] | None = None

    def jacobian(self, theta: Array, x: Centred) -> Array:
        """Derivatives of the logarithm of the loss by each parameter, `(..., rows, parameters)`."""
        if self.slopes is not None:
            return self.slopes(theta, x)
        columns = []
        for number in range(len(self.parameters)):
            moved = theta.astype(complex)
            moved[..., number] += 1j * _STEP
            columns.append(self.evaluate(moved, x).imag / _STEP)
        return np.stack(columns, axis=-1)


def log_sum(*terms: Array) -> Array:
    """Logarithm of a sum of exponentials, for real or complex terms."""
    together = np.stack(np.broadcast_arrays(*terms))
    highest = together.real.max(axis=0)
    return highest + np.log(np.exp(together - highest).sum(axis=0))


def shares(*terms: Array) -> Array:
    """Of a sum of exponentials, what each of them is of it, `(terms, ...)`; real terms."""
    together = np.stack(np.broadcast_arrays(*terms))
    grown = np.exp(together - together.max(axis=0))
    return np.asarray(grown / grown.sum(axis=0))


def split(whole: Array, share: Array) -> tuple[Array, Array]:
    """Logarithms of a share of something, and of the rest, given that of the whole."""
    return whole + np.log(share), whole + np.log1p(-share)


def times_beyond(own: Array, asked: Array) -> float:
    """How many times the furthest of what is asked for lies beyond what there is, of logarithms; up to 1 is within."""
    return float(np.exp(max(np.max(asked) - np.max(own), np.min(own) - np.min(asked))))


def uniform(rng: np.random.Generator, number: int, *bounds: tuple[float, float]) -> Array:
    """Points that fill a box evenly, `(number, bounds)`.

    Source: Sobol points, scrambled (Owen 1998).
    """
    from scipy.stats import qmc

    low, high = np.array(bounds).T
    size = 1 << max(1, (number - 1).bit_length())
    return np.asarray(qmc.scale(qmc.Sobol(len(bounds), rng=rng).random(size)[:number], low, high))
