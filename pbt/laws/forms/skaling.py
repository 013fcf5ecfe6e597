"""Loss whose two shortages are felt together: what more parameters bring depends on the tokens.

With k = 1 it is Chinchilla's. `E` and `k` can stand in for each other over a narrow range.

Source: Videau et al. 2026, "Skaling" (arXiv 2608.07222).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from pbt.laws.form import Array, Centred, Form, log_sum, split, uniform


def _evaluate(theta: Array, x: Centred) -> Array:
    e, few, short, alpha, beta, k = (theta[..., number, None] for number in range(6))
    return log_sum(e, k * log_sum(few - alpha * x["params"], short - beta * x["tokens"]))


def _slopes(theta: Array, x: Centred) -> Array:
    e, few, short, alpha, beta, k = (theta[..., number, None] for number in range(6))
    few, short = few - alpha * x["params"], short - beta * x["tokens"]
    both = log_sum(few, short)
    share = np.exp(k * both - log_sum(e, k * both))
    few, short = (share * k * np.exp(it - both) for it in (few, short))
    return np.stack([1.0 - share, few, short, -few * x["params"], -short * x["tokens"], share * both], axis=-1)


def _starts(number: int, rng: np.random.Generator, log_loss: Array) -> Array:
    bounds = ((0.02, 0.98), (0.02, 0.98), (0.05, 1.2), (0.05, 1.2), (0.1, 1.5))
    kept, share, alpha, beta, k = uniform(rng, number, *bounds).T
    rest = np.median(np.log(np.maximum(np.exp(log_loss) - kept[:, None] * np.exp(log_loss.min()), 1e-12)), axis=1) / k
    return np.column_stack([log_loss.min() + np.log(kept), *split(rest, share), alpha, beta, k])


def _written(theta: Array, centre: Mapping[str, float]) -> dict[str, float]:
    e, few, short, alpha, beta, k = map(float, theta)
    coefficients = {"A": few + alpha * centre["params"], "B": short + beta * centre["tokens"]}
    return {"E": math.exp(e), **{name: math.exp(it) for name, it in coefficients.items()}} | {
        "alpha": alpha,
        "beta": beta,
        "k": k,
    }


FORM = Form(
    name="skaling",
    formula="L = E + (A / N^alpha + B / D^beta)^k",
    source="Videau et al. 2026 (arXiv 2608.07222)",
    inputs=("params", "tokens"),
    parameters=("log E", "log few", "log short", "alpha", "beta", "k"),
    evaluate=_evaluate,
    starts=_starts,
    written=_written,
    slopes=_slopes,
    exponents=("alpha", "beta"),
)
