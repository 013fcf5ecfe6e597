"""Whether a population still gets better, told from the best score of each of its steps, noise and all.

The scores are smoothed by a Gaussian process (Matern-5/2 over time, with a noise term), whose length and noise are
those of a grid under which the scores are most likely: no generator and no optimiser is asked.

Source of the rules: Chebykin et al. 2025 (IPBT, arXiv 2511.09190), section 3, and the authors' code
(github.com/AwesomeLemon/IPBT, `algo/ipbt.py`), which smooths with a variational process that is fitted by Adam.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

#: Of the correlation over time, where all scores together span 1.
_LENGTHS = np.geomspace(0.05, 2.0, 12)
#: Variance of the noise over that of what is smoothed out of it.
_NOISES = np.geomspace(1e-3, 10.0, 13)


def has_improved(scores: Sequence[float]) -> bool:
    """Whether the last score is better than the one before, both smoothed.

    Args:
        scores: Of all steps, two at least, finite; larger is better.
    """
    known = standardised(scores)
    if not known.any():
        return False
    before, last = smoothed(known)[-2:]
    return bool(last > before)


def is_too_slow(scores: Sequence[float], steps: int) -> bool:
    """Whether the best score rose by less than a standard deviation of all scores in the last so many steps.

    Args:
        scores: Of all steps, finite; larger is better. Too few of them are not too slow.
        steps: Two at least.
    """
    if len(scores) < steps:
        return False
    known = standardised(scores)
    return bool(known.max() - known[: len(known) - steps + 1].max() < 1.0)


def standardised(scores: Sequence[float]) -> np.ndarray:
    """Scores with mean 0 and sample standard deviation 1; all 0 where they are alike."""
    found = np.asarray(scores, dtype=np.float64)
    if len(found) < 2 or found.min() == found.max():  # or rounding would tell them apart
        return np.zeros_like(found)
    found = found / np.abs(found).max()  # or squares of what is huge could not be added up
    found = found - found.mean()
    spread = found.std(ddof=1)
    return found / spread if spread > 0 else np.zeros_like(found)


def smoothed(values: np.ndarray) -> np.ndarray:
    """The mean of the process at each value, given all of them."""
    times = np.linspace(0.0, 1.0, len(values))
    best, found = -math.inf, values
    for length in _LENGTHS:
        similar = matern(times, length)
        roots, axes = np.linalg.eigh(similar)  # for all noises at once: none of them turns the axes
        along = axes.T @ values
        for noise in _NOISES:
            variances = np.maximum(roots, 0.0) + noise
            scale = float((along**2 / variances).mean())  # the variance under which the values are most likely
            likelihood = -0.5 * len(values) * math.log(scale) - 0.5 * float(np.log(variances).sum())
            if likelihood > best:
                best, found = likelihood, axes @ (np.maximum(roots, 0.0) / variances * along)
    return found


def matern(times: np.ndarray, length: float) -> np.ndarray:
    """Correlation of a Matern-5/2 process, `(times, times)`.

    Source: Rasmussen and Williams 2006, "Gaussian Processes for Machine Learning", equation 4.17.
    """
    far = math.sqrt(5.0) * np.abs(times[:, None] - times[None, :]) / length
    similar: np.ndarray = (1.0 + far + far**2 / 3.0) * np.exp(-far)
    return similar
