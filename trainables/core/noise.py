"""The gradient noise scale: how far a batch is from being large enough, measured while training.

With per-example gradients of mean G and covariance Sigma, the simple noise scale is `B_simple = tr(Sigma) / |G|^2`, in
examples. Well below it a larger batch saves steps in proportion, well above it saves next to none.

A batch of B independent examples has a mean gradient g_B with `E |g_B|^2 = |G|^2 + tr(Sigma) / B`, so squared norms at
two batch sizes give both unknowns. Gradient accumulation has them at hand: the micro-batches are the small batches, all
of them together the big one.

Source: McCandlish et al. 2018 (arXiv 1812.06162), section 2 (B_simple) and appendix A.1 (the estimators, and why
numerator and denominator are averaged apart: a ratio of unbiased estimates is not unbiased).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

#: What a member's averages consist of, one float64 number each; all begin at 0.
AVERAGES = ("sq_norm", "trace", "count")


class Estimate(NamedTuple):
    """What the noise scale is made of.

    Attributes:
        sq_norm: `(K,)` float64, of `|G|^2`; unbiased, so it may be negative where noise drowns the gradient.
        trace: `(K,)` float64, of `tr(Sigma)`, the variance of one example's gradient; at least 0 but for rounding.
    """

    sq_norm: Tensor
    trace: Tensor


def estimate(small: Tensor, big: Tensor, small_size: int | Tensor, big_size: int | Tensor) -> Estimate:
    """Unbiased estimates of one step, from squared gradient norms at two batch sizes::

        |G|^2     ~ (B_big |g_big|^2 - B_small |g_small|^2) / (B_big - B_small)
        tr(Sigma) ~ (|g_small|^2 - |g_big|^2) / (1 / B_small - 1 / B_big)

    Losses must be means over examples, and examples independent. Small batches may be of unequal sizes, if the average
    of their squared norms is weighted by size and `small_size` is their mean size: of n examples in p batches, `small -
    big` then has the expectation `(p - 1) tr(Sigma) / n`, as if they were equal.

    Args:
        small: `(K,)` float64, squared norm of a small batch's gradient, averaged over the small batches.
        big: `(K,)` float64, squared norm of the big batch's gradient.
        small_size: Examples in a small batch, or `(K,)`.
        big_size: Examples in the big batch, or `(K,)`; more than `small_size`.

    Source: McCandlish et al. 2018, appendix A.1, equation A.2.
    """
    return Estimate(
        sq_norm=(big_size * big - small_size * small) / (big_size - small_size),
        trace=(small - big) / (1.0 / small_size - 1.0 / big_size),
    )


def averaged(averages: Mapping[str, Tensor], new: Estimate, decay: float) -> dict[str, Tensor]:
    """Exponential moving averages with one more estimate in them::

        a <- decay a + (1 - decay) x,    count <- count + 1

    A member whose estimate is not finite keeps its averages: one step that overflows does not end the measurement.

    Args:
        averages: `(K,)` float64 by the names in `AVERAGES`; not changed.
        new: The step's estimates.
        decay: Share of the old average, in [0, 1).
    """
    usable = torch.isfinite(new.sq_norm) & torch.isfinite(new.trace)
    found = {"count": averages["count"] + usable}
    for name, value in (("sq_norm", new.sq_norm), ("trace", new.trace)):
        old = averages[name]
        found[name] = torch.where(usable, decay * old + (1.0 - decay) * value, old)
    return found


def corrected(averages: Mapping[str, Tensor], decay: float) -> Estimate:
    """The averages without their pull towards 0, where they began: `a / (1 - decay^count)`; NaN before the first.

    Source: Kingma and Ba 2015 (arXiv 1412.6980), the correction of the averages' beginning at 0.
    """
    weight = 1.0 - decay ** averages["count"]
    return Estimate(sq_norm=averages["sq_norm"] / weight, trace=averages["trace"] / weight)


def noise_scale(averages: Estimate) -> Tensor:
    """`B_simple = tr(Sigma) / |G|^2`, in examples, in the shape of the estimates.

    Infinite where the estimate of `|G|^2` is not positive: the batches so far are too small to tell the gradient from
    its noise. NaN where there are no estimates.
    """
    return averages.trace / averages.sq_norm.clamp(min=0.0)
