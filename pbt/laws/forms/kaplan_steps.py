"""Loss after so many steps of a batch that is as large as can be: see `pbt.laws.critical_batch` for such steps.

Source: Kaplan et al. 2020, "Scaling Laws for Neural Language Models" (arXiv 2001.08361), equation 1.6; parameters
without embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pbt.laws.form import Array, Centred, Form, log_sum, split, uniform


def _evaluate(theta: Array, x: Centred) -> Array:
    few, short, alpha_n, alpha_s = (theta[..., number, None] for number in range(4))
    return log_sum(few - alpha_n * x["params"], short - alpha_s * x["min_steps"])


def _starts(number: int, rng: np.random.Generator, log_loss: Array) -> Array:
    drawn = uniform(rng, number, (0.02, 0.98), (0.02, 0.8), (0.05, 1.5))
    return np.column_stack([*split(np.median(log_loss), drawn[:, 0]), drawn[:, 1:]])


def _written(theta: Array, centre: Mapping[str, float]) -> dict[str, float]:
    few, short, alpha_n, alpha_s = map(float, theta)
    sizes = {
        "N_c": np.exp(few / alpha_n + centre["params"]),
        "S_c": np.exp(short / alpha_s + centre["min_steps"]),
    }
    return {**{name: float(it) for name, it in sizes.items()}, "alpha_N": alpha_n, "alpha_S": alpha_s}


FORM = Form(
    name="kaplan_steps",
    formula="L = (N_c / N)^alpha_N + (S_c / S_min)^alpha_S",
    source="Kaplan et al. 2020 (arXiv 2001.08361), equation 1.6",
    inputs=("params", "min_steps"),
    parameters=("log few", "log short", "alpha_N", "alpha_S"),
    evaluate=_evaluate,
    starts=_starts,
    written=_written,
    exponents=("alpha_N", "alpha_S"),
)
