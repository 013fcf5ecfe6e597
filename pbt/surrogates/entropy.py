"""How much a value at one fidelity is expected to tell of the best there is at the target.

With `f` what a place comes to at the target and `y` what is seen of it at the fidelity in question, the information
that `y` has of the lowest value `f*` of all places is

    I(y; f*) = H(y) - E_f* H(y | f >= f*)

As all are jointly normal, it depends on two numbers: how far `f*` lies below what is expected of the place,
`g = (m - f*) / s`, and the correlation `r` of `y` and `f`. With `z` standard normal, the density of `y` given
`f >= f*` is `phi(z) Phi((g + r z) / sqrt(1 - r^2)) / Phi(g)`, whose entropy is a sum over a grid of `z`.

What `f*` may be is drawn from a Gumbel distribution, fitted to the quartiles of the lowest of places that are taken to
be independent.

Sources: Takeno et al. 2020, "Multi-fidelity Bayesian Optimization with Max-value Entropy Search and its
Parallelization" (arXiv 1901.08275), section 3.2, equation 8; Wang & Jegelka 2017, "Max-value Entropy Search for
Efficient Bayesian Optimization" (arXiv 1703.01968), section 3.1, of the Gumbel distribution. Both for the largest.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import log_ndtr

#: Standard deviations that the grid reaches, and its points.
_REACH, _POINTS = 6.0, 97
#: Halvings of an interval when a quartile is sought.
_HALVINGS = 40


def information(below: np.ndarray, correlation: np.ndarray) -> np.ndarray:
    """What a value tells of the lowest value at the target, in nats.

    Args:
        below: `g`: standard deviations that the lowest value lies below what is expected at the target, `(...,)`.
        correlation: `r`: of the value, noise included, with what it comes to at the target, `(...,)`, within (-1, 1).

    Returns:
        Broadcast over both, at least 0.
    """
    z = np.linspace(-_REACH, _REACH, _POINTS)
    width = z[1] - z[0]
    log_normal = -0.5 * z**2 - 0.5 * math.log(2.0 * math.pi)
    g, r = np.broadcast_arrays(below, correlation)
    rest = np.sqrt(1.0 - np.square(r))[..., None]
    log_density = log_normal + log_ndtr((g[..., None] + r[..., None] * z) / rest) - log_ndtr(g)[..., None]
    density = np.exp(log_density)
    whole = density.sum(axis=-1) * width  # 1, but for an edge that the grid is too coarse for
    entropy = np.log(whole) - (density * log_density).sum(axis=-1) * width / whole
    return np.maximum(0.5 * math.log(2.0 * math.pi * math.e) - entropy, 0.0)


def lowest_values(mean: np.ndarray, deviation: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    """What the lowest value of all places may be, `(number,)`.

    Args:
        mean: Expected of places, `(places,)`.
        deviation: Of what is expected, above 0, `(places,)`.
        number: How many to draw.
        rng: Draws them.
    """
    lower, middle, upper = (_quantile(mean, deviation, share) for share in (0.25, 0.5, 0.75))
    # Of the largest of the negated values: P(max <= y) = exp(-exp(-(y - a) / b)).
    scale = max(upper - lower, 1e-9) / (math.log(math.log(4.0)) - math.log(math.log(4.0 / 3.0)))
    location = -middle + scale * math.log(math.log(2.0))
    return np.asarray(-rng.gumbel(location, scale, number))


def _quantile(mean: np.ndarray, deviation: np.ndarray, share: float) -> float:
    """The value that the lowest lies below with this probability."""
    low, high = float((mean - 8.0 * deviation).min()), float((mean + 8.0 * deviation).min())
    for _ in range(_HALVINGS):
        here = (low + high) / 2.0
        above = float(log_ndtr((mean - here) / deviation).sum())  # none of them is lower
        low, high = (low, here) if -math.expm1(above) > share else (here, high)
    return (low + high) / 2.0


def below(mean: np.ndarray, deviation: np.ndarray, lowest: np.ndarray) -> np.ndarray:
    """`g` of places and draws, `(places, draws)`."""
    return np.asarray((mean[:, None] - lowest) / deviation[:, None])
