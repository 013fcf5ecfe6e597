"""Tables that need no data: learning curves whose ends are a function's values, at points of a Sobol sequence."""

from __future__ import annotations

import numpy as np
from scipy.stats import qmc

from benchmarks.search.tasks import Table
from searchspaces import Float, Space

#: Rows of a table, a power of two.
_ROWS = 2048

#: Hartmann's function of six numbers: heights, widths and places of its four hills. Source: Surjanovic & Bingham,
#: "Virtual Library of Simulation Experiments", Hartmann 6-dimensional function.
_HEIGHTS = np.array([1.0, 1.2, 3.0, 3.2])
_WIDTHS = np.array(
    [
        [10.0, 3.0, 17.0, 3.5, 1.7, 8.0],
        [0.05, 10.0, 17.0, 0.1, 8.0, 14.0],
        [3.0, 3.5, 1.7, 10.0, 17.0, 8.0],
        [17.0, 8.0, 0.05, 10.0, 0.1, 14.0],
    ]
)
_PLACES = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)


def hartmann(x: np.ndarray, flatter: float | np.ndarray = 0.0) -> np.ndarray:
    """Values, low is good, at `(points, 6)` in the unit cube; the minimum is -3.32237. Hills may be made `flatter`."""
    apart = (_WIDTHS * np.square(x[:, None, :] - _PLACES)).sum(axis=-1)
    return -((_HEIGHTS - np.asarray(flatter)) * np.exp(-apart)).sum(axis=-1)


def functions() -> list[Table]:
    """All of them."""
    curves = [power_laws(crossing) for crossing in (0.0, 0.5, 1.0)]
    return [*curves, flattened("good", 2.5, 2.0), flattened("bad", 3.5, 4.0)]


def power_laws(crossing: float, seed: int = 0) -> Table:
    """Losses that fall as a power of the steps, to an end that is Hartmann's function.

    Noise is less the further a run has come. One row in twenty diverges, in the corner of the cube where one number is
    high. Costs grow tenfold along another: a model's size. Going on costs half a step.

    Args:
        crossing: How much those that begin better end worse: 0 not at all, 1 as much as the ends differ.
        seed: Of the sequence and of the noise.
    """
    rng = np.random.default_rng(seed)
    cube = _sobol(6, seed)
    steps = np.geomspace(1.0, 81.0, 17)
    end = hartmann(cube)
    quality = (end - end.mean()) / end.std()
    early = rng.normal(size=len(cube)) * 0.3 + (0.5 - crossing) * quality
    fall = steps[None, :] ** -0.5
    noise = 0.1 * rng.normal(size=(len(cube), len(steps))) * fall
    values = quality[:, None] + (2.0 + early)[:, None] * fall + noise
    diverges = cube[:, 0] > np.quantile(cube[:, 0], 0.95)
    when = rng.integers(1, len(steps), size=len(cube))
    values[diverges[:, None] & (np.arange(len(steps)) >= when[:, None])] = np.inf
    return Table(
        name=f"power_laws_{crossing:g}",
        space=_space(6),
        rows=_rows(cube),
        steps=steps,
        values=values,
        costs=10.0 ** cube[:, 1:2] * steps,
        overhead=0.5,
    )


def flattened(name: str, bias: float, noise: float, seed: int = 0) -> Table:
    """Hartmann's function, cheap: with flatter hills and with noise, the more so the cheaper.

    Source: Mallik et al. 2023, "PriorBand: Practical Hyperparameter Optimization in the Age of Deep Learning" (arXiv
    2306.12370), appendix on synthetic benchmarks, and its package mf-prior-bench, for bias and noise of `good` and
    `bad`. Rows are drawn once: a row's noise is always the same.
    """
    rng = np.random.default_rng(seed)
    cube = _sobol(6, seed)
    steps = np.array([3.0, 6.0, 11.0, 25.0, 50.0, 100.0])
    short = 1.0 - steps / steps[-1]
    values = np.column_stack([hartmann(cube, bias * it) for it in short])
    values += np.abs(noise * 0.1 * rng.normal(size=values.shape)) * short
    costs = np.tile(steps, (len(cube), 1))
    return Table(
        name=f"hartmann_{name}",
        space=_space(6),
        rows=_rows(cube),
        steps=steps,
        values=values,
        costs=costs,
        resumable=False,
    )


def _sobol(numbers: int, seed: int) -> np.ndarray:
    return qmc.Sobol(numbers, seed=seed).random(_ROWS)


def _space(numbers: int) -> Space:
    return Space({f"x{it}": Float(0.0, 1.0) for it in range(numbers)})


def _rows(cube: np.ndarray) -> list[dict[str, float]]:
    return [{f"x{it}": float(value) for it, value in enumerate(row)} for row in cube]
