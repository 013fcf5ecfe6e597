"""Where to try next: the most that can be hoped for.

The upper confidence bound is maximised over the unit cube: on a scrambled Sobol sequence, whose best points and some
that are given are then moved uphill. The mean comes from what was observed; the deviation also counts what is pending.

Source: Parker-Holder et al. 2020 (PB2, arXiv 2002.02518), section 3, equation 5, after Desautels et al. 2014.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.quasirandom import SobolEngine

from pbt.surrogates.gaussian import Model, Points
from pbt.surrogates.kernels import Located
from pbt.surrogates.threads import one_thread

#: Points of the Sobol sequence, a power of two; how many of the best are moved uphill, and by how many steps.
_POOL = 512
_BEST = 4
_STEPS = 30


def maximise(
    model: Model,
    here: Points,
    free: np.ndarray,
    weight: float,
    seed: int,
    snap: Callable[[np.ndarray], np.ndarray],
    known: np.ndarray,
) -> np.ndarray:
    """The place in the cube with the highest upper confidence bound, `(numbers,)`.

    Args:
        model: What is expected, what is pending included.
        here: A single point: the moment, the categories, and where columns stay that are not free.
        free: Which columns may be chosen, `(numbers,)` of bool.
        weight: Of the standard deviation against the mean.
        seed: Of the Sobol sequence.
        snap: Takes a place to the nearest that can be had.
        known: Places to consider besides, `(places, numbers)`.
    """
    if not free.any():
        return snap(here.cube[0])
    with one_thread():
        pool = np.repeat(here.cube, _POOL, axis=0)
        pool[:, free] = SobolEngine(int(free.sum()), scramble=True, seed=seed).draw(_POOL, dtype=torch.float64).numpy()
        pool = np.concatenate([np.where(free, known.reshape(-1, len(free)), here.cube), pool])
        best = pool[np.argsort(-_bounds(model, here, pool, weight), kind="stable")[:_BEST]]
        snapped = np.stack([snap(it) for it in (*_uphill(model, here, free, weight, best), *best)])
        return snapped[int(np.argmax(_bounds(model, here, snapped, weight)))]


def exploration(observations: int) -> float:
    """Weight of the standard deviation, given so many observations: `sqrt(c1 log(c2 n))`, c1 = 0.2 and c2 = 0.4.

    Source: the form is that of Bogunovic et al. 2016 (arXiv 1601.06650), section 5; the constants are those in the code
    of PB2's authors (Ray Tune, `pb2_utils.py`), which however weighs the variance with it, not the standard deviation.
    """
    return math.sqrt(0.2 * max(0.0, math.log(0.4 * observations))) if observations else 0.0


def _bounds(model: Model, here: Points, cube: np.ndarray, weight: float) -> np.ndarray:
    with torch.no_grad():
        return _bound(model, model.locate(here.with_cube(cube)), weight).numpy()


def _bound(model: Model, at: Located, weight: float) -> Tensor:
    mean, deviation = model.standardised(at)
    return mean + weight * deviation


def _uphill(model: Model, here: Points, free: np.ndarray, weight: float, starts: np.ndarray) -> np.ndarray:
    """The places reached from each start. They do not see each other: all are moved at once to save time."""
    at = model.locate(here.with_cube(starts))
    columns = torch.from_numpy(np.flatnonzero(free) + 1)  # the first is the score before

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        moved = torch.from_numpy(flat.reshape(len(starts), -1).copy()).requires_grad_()
        numbers = at.numbers.index_copy(1, columns, moved)
        value = -_bound(model, Located(at.times, numbers, at.categories), weight).sum()
        value.backward()
        assert moved.grad is not None
        return float(value.detach()), moved.grad.numpy().ravel()

    flat = starts[:, free].ravel()
    found = minimize(
        loss, flat, jac=True, method="L-BFGS-B", bounds=[(0.0, 1.0)] * len(flat), options={"maxiter": _STEPS}
    )
    ends = starts.copy()
    ends[:, free] = np.clip(found.x, 0.0, 1.0).reshape(len(starts), -1)
    return ends
