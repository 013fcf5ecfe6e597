"""What to train next, so that a law is sure where it is asked.

Two ways: designs that are laid out beforehand, and the run that tells most for its compute, one after another, until
the law is sure enough at the scale that is wanted.

Sources: Hoffmann et al. 2022 (arXiv 2203.15556), section 3.2, of designs of equal compute; Fedorov 1972, "Theory of
Optimal Experiments", and Pukelsheim 2006, "Optimal Design of Experiments", section 9, of runs that make a prediction
surest (c-optimality) and of taking them one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pbt.laws.fit import Fit
from pbt.laws.form import Array
from pbt.spec import require

#: Of what data say, so much is known at least: a law that the runs do not tell is not told by any one more.
_RIDGE = 1e-10


class Planned(NamedTuple):
    """A run to train.

    Attributes:
        inputs: Its sizes, by name.
        flops: What it takes.
        half_width: Of the 95 % interval of the prediction at the target, as a share of it, once it is trained.
    """

    inputs: dict[str, float]
    flops: float
    half_width: float


def equal_compute(flops: Sequence[float], ratios: Sequence[float]) -> dict[str, Array]:
    """Sizes of which those of one compute budget differ in tokens for each parameter.

    Args:
        flops: Budgets of single runs, 6 N D each.
        ratios: Tokens for each parameter.

    Returns:
        `params` and `tokens`, `(budgets times ratios,)` each.
    """
    for name, values in (("flops", flops), ("ratios", ratios)):
        good = len(values) > 0 and all(it > 0 for it in values)
        require(good, name, f"are {list(values)}", "Write one positive number or more")
    budget, ratio = (it.ravel() for it in np.meshgrid(flops, ratios, indexing="ij"))
    params = np.sqrt(budget / (6.0 * ratio))
    return {"params": params, "tokens": ratio * params}


def around(best: float, values: int, factor: float) -> Array:
    """Values of a hyperparameter to try, evenly on a log scale with the expected best in the middle, `(values,)`."""
    require(values >= 3, "values", f"{values} do not show where the best is", "Have three or more")
    require(factor > 1.0, "factor", f"{factor} is no step", "Write what each is times the one before, such as 2")
    return best * factor ** (np.arange(values) - (values - 1) / 2.0)


def half_width(law: Fit, target: Mapping[str, float]) -> float:
    """Of the 95 % interval of what is predicted at a target, as a share of it: by the law's slopes, and its noise."""
    covariance, slope, _ = _known(law, target)
    return _half_width(covariance, slope)


def _half_width(covariance: Array, slope: Array) -> float:
    return float(1.96 * np.sqrt(slope @ covariance @ slope))


def next_runs(
    law: Fit,
    candidates: Mapping[str, Array],
    flops: Array,
    target: Mapping[str, float],
    *,
    budget: float,
    enough: float = 0.0,
) -> list[Planned]:
    """The runs that make a prediction surer by most for their compute, one after another.

    Args:
        law: Fitted to what there is.
        candidates: Sizes that could be trained, `(candidates,)` by input; each may be trained more than once.
        flops: What each takes, `(candidates,)`.
        target: Where the law is asked.
        budget: FLOPs for all of them together.
        enough: A half width at which there need be no more.

    Raises:
        SpecError: No candidate fits into the budget.
    """
    flops = np.asarray(flops, dtype=float)
    mend = "Have smaller ones among the candidates, or a larger budget"
    require(bool((flops <= budget).any()), "budget", f"of {budget:.3g} FLOPs is less than any run takes", mend)
    covariance, slope, noise = _known(law, target)
    rows = law.form.jacobian(law.theta, law.data.centred(candidates))
    found: list[Planned] = []
    width = _half_width(covariance, slope)
    while width > enough and (affordable := flops <= budget).any():
        told = np.square(rows @ covariance @ slope) / (noise**2 + np.einsum("rp,pq,rq->r", rows, covariance, rows))
        best = int(np.where(affordable, told / flops, -1.0).argmax())
        covariance = _with_row(covariance, rows[best], noise)
        width = _half_width(covariance, slope)
        budget -= float(flops[best])
        found.append(Planned({k: float(it[best]) for k, it in candidates.items()}, float(flops[best]), width))
    return found


def _known(law: Fit, target: Mapping[str, float]) -> tuple[Array, Array, float]:
    """How unsure parameters are, `(parameters, parameters)`; slopes of the target, `(parameters,)`; the noise."""
    slopes, rows = law.form.jacobian(law.theta, law.data.x), len(law.data.y)
    # of rows that pull without holding, noise counts for more (Huber 1981, section 7.6)
    usual = np.sqrt(np.square(law.pull).sum() / max(rows - len(law.theta), 1))
    noise = float(usual / max(law.is_near.mean(), 1.0 / rows))
    gram = slopes.T @ slopes / noise**2
    covariance = np.linalg.inv(gram + _RIDGE * np.trace(gram) * np.eye(len(gram)))
    at = {name: np.array([value]) for name, value in target.items()}
    return covariance, law.form.jacobian(law.theta, law.data.centred(at))[0], noise


def _with_row(covariance: Array, row: Array, noise: float) -> Array:
    """Once a run is known (Sherman & Morrison 1950)."""
    turned = covariance @ row
    return np.asarray(covariance - np.outer(turned, turned) / (noise**2 + row @ turned))
