"""Loss of models that are trained for longer than is best for their compute: one exponent for parameters and tokens.

With M tokens for each parameter and C = 6 N D, all models of one M lie on a power law of C with the same exponent, so
that two values of M say what the others do.

Source: Gadre et al. 2024, "Language models scale reliably with over-training and on downstream tasks" (arXiv
2403.08540), equation 4; parameters with embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from pbt.laws.form import Array, Centred, Form, log_sum, uniform


def _evaluate(theta: Array, x: Centred) -> Array:
    e, few, short, eta = (theta[..., number, None] for number in range(4))
    return log_sum(e, few - 2.0 * eta * x["params"], short - 2.0 * eta * x["tokens"])


def _starts(number: int, rng: np.random.Generator, log_loss: Array) -> Array:
    drawn = uniform(rng, number, (0.05, 1.0), (0.01, 0.9), (0.01, 0.9), (0.02, 0.6))
    kept, middle = log_loss.min() + np.log(drawn[:, 0]), np.median(log_loss)
    return np.column_stack([kept, middle + np.log(drawn[:, 1]), middle + np.log(drawn[:, 2]), drawn[:, 3]])


def _written(theta: Array, centre: Mapping[str, float]) -> dict[str, float]:
    e, few, short, eta = map(float, theta)
    a, b = few + 2.0 * eta * centre["params"], short + 2.0 * eta * centre["tokens"]
    compute = eta * math.log(6.0)
    return {"E": math.exp(e), "a": math.exp(a + compute), "b": math.exp(b + compute), "eta": eta}


FORM = Form(
    name="overtraining",
    formula="L = E + (a M^eta + b M^-eta) C^-eta, M = D / N, C = 6 N D",
    source="Gadre et al. 2024 (arXiv 2403.08540), equation 4",
    inputs=("params", "tokens"),
    parameters=("log E", "log few", "log short", "eta"),
    evaluate=_evaluate,
    starts=_starts,
    written=_written,
    exponents=("eta",),
)
