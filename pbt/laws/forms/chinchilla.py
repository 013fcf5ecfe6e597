"""Loss as what cannot be avoided, and what parameters and tokens are too few for.

Source: Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models" (arXiv 2203.15556), equation 10 and
section D.3; Besiroglu et al. 2024, "Chinchilla Scaling: A replication attempt" (arXiv 2404.10102), of what went wrong
with the published fit.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pbt.laws.form import Array, Centred, Form, log_sum, shares, uniform


def _evaluate(theta: Array, x: Centred) -> Array:
    return log_sum(*_terms(theta, x))


def _terms(theta: Array, x: Centred) -> tuple[Array, Array, Array]:
    e, a, b, alpha, beta = (theta[..., number, None] for number in range(5))
    return e + 0.0 * x["params"], a - alpha * x["params"], b - beta * x["tokens"]


def _slopes(theta: Array, x: Centred) -> Array:
    """Each term's share of the loss, times what it falls with."""
    kept, few, short = shares(*_terms(theta, x))
    return np.stack([kept, few, short, -few * x["params"], -short * x["tokens"]], axis=-1)


def _starts(number: int, rng: np.random.Generator, log_loss: Array) -> Array:
    low, middle = float(log_loss.min()), float(np.median(log_loss))
    drawn = uniform(rng, number, (0.05, 1.0), (0.01, 0.9), (0.01, 0.9), (0.05, 1.0), (0.05, 1.0))
    kept = low + np.log(drawn[:, 0])
    return np.column_stack([kept, middle + np.log(drawn[:, 1]), middle + np.log(drawn[:, 2]), drawn[:, 3:]])


def _written(theta: Array, centre: Mapping[str, float]) -> dict[str, float]:
    e, a, b, alpha, beta = map(float, theta)
    coefficients = {"A": np.exp(a + alpha * centre["params"]), "B": np.exp(b + beta * centre["tokens"])}
    return {"E": float(np.exp(e)), **{k: float(v) for k, v in coefficients.items()}, "alpha": alpha, "beta": beta}


FORM = Form(
    name="chinchilla",
    formula="L = E + A / N^alpha + B / D^beta",
    source="Hoffmann et al. 2022 (arXiv 2203.15556), equation 10",
    inputs=("params", "tokens"),
    parameters=("log E", "log a", "log b", "alpha", "beta"),
    evaluate=_evaluate,
    starts=_starts,
    written=_written,
    exponents=("alpha", "beta"),
    slopes=_slopes,
)
