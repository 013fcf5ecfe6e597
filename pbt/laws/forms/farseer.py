"""Loss whose coefficient and exponent of data move with the size of the model.

Each of the three terms is `a N^p + b`. Found are its value and slope in the middle of the sizes, and how it bends:
data tell these far better than `a` and `b`, and fits of all nine at once from many starts, which the paper advises
against, then end in one place.

`N` counts parameters without embeddings, `D` tokens: in other units of `D` the form is another one.

Source: Li et al. 2025, "Predictable Scale: Part II, Farseer" (arXiv 2506.10972), equation 15.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from pbt.laws.form import Array, Centred, Form, log_sum, shares, uniform

#: Logarithm of about as many tokens as models are trained on, where fits begin.
_LOG_TOKENS = math.log(2e10)
#: What bends less than this does not.
_STRAIGHT = 1e-6


def _evaluate(theta: Array, x: Centred) -> Array:
    return log_sum(*_terms(theta, x))


def _terms(theta: Array, x: Centred) -> tuple[Array, Array]:
    kept, short, power = (_bent(theta[..., it : it + 3], x["params"]) for it in (0, 3, 6))
    return kept, short - np.exp(power) * x["tokens"]


def _bent(theta: Array, x: Array) -> Array:
    """A value and a slope in the middle of the sizes, and a bend."""
    value, slope, bend = (theta[..., number, None] for number in range(3))
    return value + slope * np.expm1(_apart(bend) * x) / _apart(bend)


def _apart(bend: Array) -> Array:
    """Far enough from nothing to divide by."""
    return np.where(np.abs(bend) < _STRAIGHT, _STRAIGHT, bend)


def _slopes(theta: Array, x: Centred) -> Array:
    kept, short = shares(*_terms(theta, x))
    power = -np.exp(_bent(theta[..., 6:], x["params"])) * x["tokens"] * short
    columns = [
        share[..., None] * _bent_slopes(theta[..., at : at + 3], x["params"])
        for share, at in ((kept, 0), (short, 3), (power, 6))
    ]
    return np.concatenate(columns, axis=-1)


def _bent_slopes(theta: Array, x: Array) -> Array:
    slope, bend = theta[..., 1, None], _apart(theta[..., 2, None])
    risen = np.expm1(bend * x) / bend
    return np.stack([np.ones_like(risen), risen, slope * (x * np.exp(bend * x) - risen) / bend], axis=-1)


def _starts(number: int, rng: np.random.Generator, log_loss: Array) -> Array:
    bounds = ((0.3, 0.98), (-0.3, 0.0), (-0.3, 0.3), (-0.5, 0.5), (-0.3, 0.3), (0.15, 0.6), (-0.2, 0.2), (-0.3, 0.3))
    kept, slope, bend, short_slope, short_bend, power, power_slope, power_bend = uniform(rng, number, *bounds).T
    rest = np.log(np.median(np.exp(log_loss)) - kept * np.exp(log_loss.min()))
    short = rest + power * _LOG_TOKENS
    return np.column_stack(
        [
            log_loss.min() + np.log(kept),
            slope,
            bend,
            short,
            short_slope,
            short_bend,
            np.log(power),
            power_slope,
            power_bend,
        ]
    )


def _written(theta: Array, centre: Mapping[str, float]) -> dict[str, float]:
    found: dict[str, float] = {}
    for number, (at, power) in enumerate(((6, "alpha"), (3, "beta"), (0, "gamma"))):
        value, slope, bend = map(float, theta[at : at + 3])
        bend = float(_apart(np.array(bend)))
        found |= {
            f"a{number + 1}": slope / bend * math.exp(-bend * centre["params"]),
            f"b{number + 1}": value - slope / bend,
        }
        found[power] = bend
    return found


FORM = Form(
    name="farseer",
    formula="L = exp(a3 N^gamma + b3) + exp(a2 N^beta + b2) D^-exp(a1 N^alpha + b1)",
    source="Li et al. 2025 (arXiv 2506.10972), equation 15",
    inputs=("params", "tokens"),
    raw=("tokens",),
    parameters=tuple(f"{term} {what}" for term in ("kept", "short", "power") for what in ("value", "slope", "bend")),
    evaluate=_evaluate,
    starts=_starts,
    written=_written,
    slopes=_slopes,
)
