"""The batch size from which on more examples at once save few steps.

Steps until a loss is reached fall with the batch size, to a least number that no batch goes below; examples rise from a
least number that no batch goes below either:

    S = S_min + E_min / B, which is (S / S_min - 1) (E / E_min - 1) = 1 with E = S B

Two conventions of where the turn is are in use, and differ several times: `E_min / S_min`, where both are twice the
least (McCandlish, Kaplan), and the batch that takes so much more than its share of the steps of a small one, such as
20 % (Zhang). Ask for the one that you compare with.

Sources: McCandlish et al. 2018, "An Empirical Model of Large-Batch Training" (arXiv 1812.06162), equation 2.11; Kaplan
et al. 2020 (arXiv 2001.08361), equations 5.1 to 5.4; Zhang et al. 2024, "How Does Critical Batch Size Scale in
Pre-training?" (arXiv 2410.21676), section 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pbt.laws.fit import Data, Fit, fit
from pbt.laws.form import Array, Centred, Form, log_sum, split, uniform
from pbt.spec import require


def _evaluate(theta: Array, x: Centred) -> Array:
    return log_sum(theta[..., 0, None] + 0.0 * x["batch"], theta[..., 1, None] - x["batch"])


def _starts(number: int, rng: np.random.Generator, log_steps: Array) -> Array:
    (share,) = uniform(rng, number, (0.01, 0.99)).T
    return np.column_stack(split(np.median(log_steps), share))


def _written(theta: Array, centre: Mapping[str, float]) -> dict[str, float]:
    return {"min_steps": math.exp(theta[0]), "min_examples": math.exp(theta[1] + centre["batch"])}


#: Steps to a target as a law of the batch size.
STEPS = Form(
    name="steps_to_target",
    formula="S = S_min + E_min / B",
    source="McCandlish et al. 2018 (arXiv 1812.06162), equation 2.11",
    inputs=("batch",),
    parameters=("log S_min", "log E_min"),
    evaluate=_evaluate,
    starts=_starts,
    written=_written,
)


@dataclass(frozen=True)
class Tradeoff:
    """Steps against examples, of one model to one loss.

    Attributes:
        min_steps: However large the batch.
        min_examples: However small the batch, in the unit of the batch sizes.
        fit: Where they are from.
    """

    min_steps: float
    min_examples: float
    fit: Fit

    @property
    def critical(self) -> float:
        """The batch size that takes twice the least steps and twice the least examples."""
        return self.min_examples / self.min_steps

    def critical_at(self, overhead: float, reference: float) -> float:
        """The largest batch size with steps no more than this share above those of perfect scaling.

        Args:
            overhead: 0.2 is 20 %.
            reference: The batch size from which scaling is counted.

        Source: Zhang et al. 2024, definition 1: S(B) B = (1 + overhead) S(reference) reference.
        """
        return overhead * self.critical + (1.0 + overhead) * reference

    def steps(self, batch: float) -> float:
        """Until the loss is reached."""
        return self.min_steps + self.min_examples / batch


def tradeoff(batch: Array, steps: Array) -> Tradeoff:
    """Fit what steps a loss takes at several batch sizes.

    Args:
        batch: Sizes, in tokens or sequences, `(rows,)`.
        steps: Steps until the loss was reached, each with hyperparameters tuned at that size, `(rows,)`.

    Raises:
        SpecError: There are too few, or none is so large that it saves less than others.
    """
    batch, steps = (np.asarray(it, dtype=float) for it in (batch, steps))
    for name, values in (("batch", batch), ("steps", steps)):
        is_good = bool(np.all((values > 0.0) & np.isfinite(values)))
        require(is_good, name, "holds what is not a positive number", "Leave such rows out")
    mend = "Have at least three batch sizes, from where steps halve as it doubles to where they do not"
    require(len(np.unique(batch)) >= 3, "batch", f"has {len(np.unique(batch))} sizes", mend)
    found = fit(STEPS, Data.of(STEPS, {"batch": batch}, steps), starts=64)
    told = Tradeoff(**found.written, fit=found)
    is_bent = batch.min() / 8.0 < told.critical < 8.0 * batch.max()
    require(is_bent, "batch", f"does not come near where its use ends (about {told.critical:.3g})", mend)
    return told


def as_min_steps(steps: Array, batch: Array, critical: Array) -> Array:
    """Steps that a batch without end would have taken, of those with a batch: for the law `kaplan_steps`.

    Source: Kaplan et al. 2020, equation 5.4.
    """
    return np.asarray(steps, dtype=float) / (1.0 + np.asarray(critical) / np.asarray(batch))


@dataclass(frozen=True)
class Power:
    """`y = coefficient x^exponent`, by least squares of logarithms.

    Attributes:
        coefficient: At x = 1.
        exponent: What y rises with.
        deviation: Standard error of the exponent; nan of two rows.
    """

    coefficient: float
    exponent: float
    deviation: float

    def at(self, x: float) -> float:
        """The value there."""
        return self.coefficient * x**self.exponent


def power(x: Array, y: Array) -> Power:
    """Fit a power of one thing, such as critical batch sizes to parameters, or to the loss.

    Raises:
        SpecError: There are fewer than two values of `x`, or something is not positive.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    is_good = len(np.unique(x)) > 1 and bool(np.all((x > 0.0) & (y > 0.0) & np.isfinite(x) & np.isfinite(y)))
    require(is_good, "x", "has fewer than two values, or values that are not positive", "Have several, all positive")
    u, v = np.log(x), np.log(y)
    centred = u - u.mean()
    exponent = float(centred @ v / (centred @ centred))
    level = float(v.mean() - exponent * u.mean())
    off = v - level - exponent * u
    left = len(x) - 2
    deviation = math.sqrt(float(off @ off) / left / float(centred @ centred)) if left > 0 else math.nan
    return Power(math.exp(level), exponent, deviation)
