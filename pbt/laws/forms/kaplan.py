"""Loss of models and data that are too small, with nothing that cannot be avoided.

Source: Kaplan et al. 2020, "Scaling Laws for Neural Language Models" (arXiv 2001.08361), equation 1.5; parameters
without embeddings. Its published constants are those of its own tokenizer and data.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pbt.laws.form import Array, Centred, Form, log_sum, split, uniform


def _evaluate(theta: Array, x: Centred) -> Array:
    few, short, ratio, alpha_d = (theta[..., number, None] for number in range(4))
    return alpha_d * log_sum(few - ratio * x["params"], short - x["tokens"])


def _starts(number: int, rng: np.random.Generator, log_loss: Array) -> Array:
    drawn = uniform(rng, number, (0.02, 0.98), (0.3, 2.0), (0.03, 1.0))
    share, ratio, alpha_d = drawn.T
    return np.column_stack([*split(np.median(log_loss) / alpha_d, share), ratio, alpha_d])


def _written(theta: Array, centre: Mapping[str, float]) -> dict[str, float]:
    few, short, ratio, alpha_d = map(float, theta)
    sizes = {"N_c": np.exp(few / ratio + centre["params"]), "D_c": np.exp(short + centre["tokens"])}
    return {**{name: float(it) for name, it in sizes.items()}, "alpha_N": ratio * alpha_d, "alpha_D": alpha_d}


FORM = Form(
    name="kaplan",
    formula="L = ((N_c / N)^(alpha_N / alpha_D) + D_c / D)^alpha_D",
    source="Kaplan et al. 2020 (arXiv 2001.08361), equation 1.5",
    inputs=("params", "tokens"),
    parameters=("log few", "log short", "alpha_N / alpha_D", "alpha_D"),
    evaluate=_evaluate,
    starts=_starts,
    written=_written,
    exponents=("alpha_N", "alpha_D"),
)
