"""How long a full fit takes, beside the same work done one start after another by scipy."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from scipy.optimize import minimize

from pbt.laws.fit import Data, fit, huber, refit
from pbt.laws.forms import form_of

#: As Besiroglu et al. 2024 found them.
TRUTH = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}
STARTS, DRAWS = 4500, 1000


def made_up(seed: int, rows: int = 245, noise: float = 0.003) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """As many runs as Hoffmann et al. 2022 show, of a law that is known."""
    rng = np.random.default_rng(seed)
    x = {"params": 10 ** rng.uniform(7.7, 10.2, rows), "tokens": 10 ** rng.uniform(8.8, 11.5, rows)}
    return x, true_loss(**x) * np.exp(noise * rng.normal(size=rows))


def true_loss(params: Any, tokens: Any) -> Any:
    """Of the law that is known."""
    return TRUTH["E"] + TRUTH["A"] / params ** TRUTH["alpha"] + TRUTH["B"] / tokens ** TRUTH["beta"]


def speed(loops: int) -> dict[str, Any]:
    """A fit from all starts with all refits; and so many of each by `scipy.optimize.minimize`."""
    form = form_of("chinchilla")
    data = Data.of(form, *made_up(0))
    rng = np.random.default_rng(1)
    weights = rng.exponential(size=(DRAWS, len(data.y)))
    began = time.perf_counter()
    law = fit(form, data, starts=STARTS)
    refit(form, data, weights, law.theta)
    ours = time.perf_counter() - began
    begun = form.starts(STARTS, rng, data.y)[:: STARTS // loops][:loops]
    began = time.perf_counter()
    ends = [_minimised(form, data, np.ones(len(data.y)), start) for start in begun]
    a_start = (time.perf_counter() - began) / loops
    began = time.perf_counter()
    for own in weights[:loops]:
        _minimised(form, data, own, law.theta)
    a_refit = (time.perf_counter() - began) / loops
    theirs = STARTS * a_start + DRAWS * a_refit
    return {
        "law": "chinchilla",
        "dataset": f"made up, {len(data.y)} runs",
        "params": law.written,
        "ci": None,
        "holdout_error": None,
        "seconds": ours,
        "vs_scipy": theirs / ours,
        "scipy_seconds": theirs,
        "timed": f"{loops} of {STARTS} starts and {loops} of {DRAWS} refits",
        "objective": law.objective,
        "scipy_objective": float(min(ends)),
    }


def _minimised(form: Any, data: Data, weights: np.ndarray, start: np.ndarray) -> float:
    """BFGS with slopes; the sum of losses is scaled, since on numbers as small as they are it would stop at once."""

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        off = data.y - form.evaluate(theta, data.x)
        pull = weights * np.clip(off, -1e-3, 1e-3)
        return 1e4 * float(weights @ huber(off)), -1e4 * (form.jacobian(theta, data.x).T @ pull)

    return float(minimize(objective, start, jac=True, method="BFGS").fun) / 1e4
