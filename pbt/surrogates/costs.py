"""What a step of a configuration costs, from what steps of others have cost.

Costs multiply: twice the layers at half the batch. So their logarithm is a sum over hyperparameters, of a parabola for
each, beside what the user's formula says. Fitted is by how much it is off: linear regression with a normal prior, which
has a closed form and needs one value to begin with.

Source: Bishop 2006, "Pattern Recognition and Machine Learning", section 3.3.1, equation 3.53; here with a constant.
"""

from __future__ import annotations

import numpy as np

#: Variance of the noise over that of the weights.
_RIDGE = 0.05


def log_cost_per_step(
    cube: np.ndarray, log_cost: np.ndarray, at: np.ndarray, formula: tuple[np.ndarray, np.ndarray] | None = None
) -> np.ndarray:
    """The logarithm of what a step is expected to cost.

    Args:
        cube: Hyperparameters of configurations in the unit cube, `(configurations, numbers)`; one at least.
        log_cost: Logarithm of what a step of each has cost, `(configurations,)`.
        at: Where to tell, `(places, numbers)`.
        formula: Logarithm of what it should cost, up to a factor: of `cube` and of `at`; None knows nothing.

    Returns:
        Of each place, `(places,)`.
    """
    known, here = formula or (np.zeros(len(cube)), np.zeros(len(at)))
    rest = log_cost - known
    features = _features(cube)
    middle = features.mean(axis=0)
    features = features - middle
    gram = features.T @ features + _RIDGE * np.eye(features.shape[1])
    weights = np.linalg.solve(gram, features.T @ (rest - rest.mean()))
    return here + rest.mean() + (_features(at) - middle) @ weights


def _features(cube: np.ndarray) -> np.ndarray:
    centred = cube - 0.5
    return np.column_stack([centred, centred**2])
