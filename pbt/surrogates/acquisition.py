"""Where to try next: the most that can be hoped for.

The upper confidence bound is maximised over the unit cube: on a scrambled Sobol sequence, whose best points and some
that are given are then moved uphill. The mean comes from what was observed; the deviation also counts what is pending.

Source: Parker-Holder et al. 2020 (PB2, arXiv 2002.02518), after Desautels et al. 2014 (GP-BUCB).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from botorch.acquisition import UpperConfidenceBound
from botorch.optim import optimize_acqf
from torch.quasirandom import SobolEngine

from pbt.surrogates.gaussian import Model, Points
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

    def best(cube: np.ndarray, number: int) -> np.ndarray:
        mean, deviation = model.predict(here.with_cube(cube))
        return cube[np.argsort(-(mean + weight * deviation), kind="stable")[:number]]

    with one_thread():
        pool = np.repeat(here.cube, _POOL, axis=0)
        pool[:, free] = SobolEngine(int(free.sum()), scramble=True, seed=seed).draw(_POOL, dtype=torch.float64).numpy()
        starts = best(np.concatenate([np.where(free, known.reshape(-1, len(free)), here.cube), pool]), _BEST)
        ends = starts.copy()
        ends[:, free] = _uphill(model, here.with_cube(starts), free, weight)
        return best(np.stack([snap(it) for it in (*ends, *starts)]), 1)[0]


def exploration(observations: int) -> float:
    """Weight of the standard deviation, given so many observations: `sqrt(c1 log(c2 n))`, c1 = 0.2 and c2 = 0.4.

    Source: the code of PB2's authors (github.com/jparkerholder/procgen_autorl, `pb2_utils.py`), which however weighs
    the variance with it; in Bogunovic et al. 2016 (TV-GP-UCB, arXiv 1601.06650) it is the standard deviation. In Ray
    Tune's copy of that code c1 is added, not multiplied.
    """
    return math.sqrt(0.2 * max(0.0, math.log(0.4 * observations))) if observations else 0.0


def _uphill(model: Model, starts: Points, free: np.ndarray, weight: float) -> np.ndarray:
    """What is reached in the free columns from each start, `(starts, columns)`."""
    at = model.scale.locate(starts)
    columns = 2 + np.flatnonzero(free)  # the first two are the moment and the score before
    stay = {column: float(at[0, column]) for column in range(at.shape[1]) if column not in columns}
    ends, _ = optimize_acqf(
        UpperConfidenceBound(model.process, beta=weight**2),
        bounds=torch.stack([torch.zeros_like(at[0]), torch.ones_like(at[0])]),
        q=1,
        num_restarts=len(at),
        batch_initial_conditions=at[:, None],
        fixed_features=stay,
        options={"maxiter": _STEPS},
        return_best_only=False,
        retry_on_optimization_warning=False,
    )
    return ends[:, 0, columns].numpy()
