"""Loss curves under any learning-rate schedule, and how they go on.

A curve falls with the sum of learning rates so far, and by more wherever the rate was lowered: each time by an amount
that comes to bear over the steps after it (the multi-power law). Fitted to a few curves of one model, it says what
others, of schedules that were not tried, would be:

    L(t) = L0 + A S(t)^-alpha - B sum_k (lr_{k-1} - lr_k) (1 - (1 + C lr_k^-gamma S_k(t))^-beta)

with `S(t)` the sum of all learning rates up to step t, and `S_k(t)` of those from step k on; warm-up is part of both.

Curves are smooth: what is off at one moment is off at the next, and hundreds of rows tell what a dozen would. Left to
themselves, `C`, `beta` and `gamma` go wherever the last thousandth of a few curves leads them, and other schedules are
told the worse. They are held near where the authors' fits begin, as by three rows more.

Source: Luo et al. 2025, "A Multi-Power Law for Loss Curve Prediction Across Learning Rate Schedules" (arXiv
2503.12811), equation 2, with warm-up in the sum over k as its authors' code has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from pbt.laws.fit import Data, Fit, fit
from pbt.laws.form import Array, Centred, Form, uniform

#: What people call the parameters.
NAMES = ("L0", "A", "alpha", "B", "C", "beta", "gamma")
#: Changes of the learning rate are taken together up to this share of its peak.
_TOGETHER = 1 / 64
#: Where `C`, `beta` and `gamma` are held, which is where the authors' code begins, and how strongly: so much is off in
#: the logarithm of a loss, when they (of `C` its logarithm) are off by one. Leaving out each of three curves in turn,
#: its mean error is 0.30 % without, and 0.22, 0.16 and 0.13 % with 0.01, 0.03 and 0.1 (models of 25M and 100M).
_HELD, _HOLD = np.array([0.0, 0.5, 0.5]), 0.1
#: So many moments of each curve are looked at from all starts; all of them are from the best.
_THIN = 24


@dataclass(frozen=True)
class Curve:
    """One run.

    Attributes:
        lr: The learning rate of each step from the first, warm-up included, `(steps,)`.
        at: After which steps the loss is known, counted from 0, ascending, `(rows,)`.
        loss: Then, `(rows,)`.
    """

    lr: Array
    at: Array
    loss: Array

    @cached_property
    def moments(self) -> Moments:
        """What the law needs of the learning rates."""
        return Moments.of(self.lr, self.at)


@dataclass(frozen=True)
class Moments:
    """Sums of learning rates at some steps of a schedule, and what was lowered before.

    Attributes:
        whole: All learning rates up to there, `(rows,)`.
        lowered: By how much in each block of steps, `(blocks,)`.
        to: The learning rate that it was lowered to there, `(blocks,)`.
        since: The sum of learning rates from each block on, 0 of those to come, `(rows, blocks)`.
    """

    whole: Array
    lowered: Array
    to: Array
    since: Array

    @classmethod
    def of(cls, lr: Array, at: Array) -> Moments:
        """Of a schedule at these steps. Blocks end where somebody looks, so that nothing counts before it happens."""
        lr, at = np.asarray(lr, dtype=float), np.asarray(at, dtype=int)
        whole = np.cumsum(lr)
        lowered, changed = -np.diff(lr), np.flatnonzero(np.diff(lr)) + 1
        by_now = np.cumsum(np.abs(lowered))[changed - 1] / (_TOGETHER * lr.max())
        apart = np.column_stack([np.searchsorted(at, changed), by_now.astype(int)])
        block = np.unique(apart, axis=0, return_inverse=True)[1].reshape(-1)
        number = int(block.max(initial=-1)) + 1
        by = lowered[changed - 1]
        weight = np.maximum(np.abs(by), 1e-300)

        def mean(values: Array) -> Array:
            return np.bincount(block, weight * values, number) / np.bincount(block, weight, number)

        before = mean(whole[changed] - lr[changed])
        since = np.maximum(whole[at][:, None] - before, 0.0)
        first = np.full(number, len(lr))
        np.minimum.at(first, block, changed)
        return cls(
            whole[at], np.bincount(block, by, number), mean(lr[changed]), np.where(first <= at[:, None], since, 0.0)
        )


@dataclass(frozen=True)
class CurveLaw:
    """A fitted law of curves.

    Attributes:
        fit: The fit; `fit.theta` has logarithms of `L0`, `A`, `B` and `C`.
    """

    fit: Fit

    @property
    def written(self) -> dict[str, float]:
        """The parameters that people write."""
        return self.fit.written

    def predict(self, lr: Array, at: Array) -> Array:
        """The loss after steps of another schedule, `(rows,)`."""
        return predicted(self.fit.theta, Moments.of(lr, at))


def fit_curves(curves: Sequence[Curve], starts: int = 256, seed: int = 0) -> CurveLaw:
    """Fit the law to curves of one model.

    Args:
        curves: Of schedules as unlike as can be: what was never lowered does not tell what lowering does.
        starts: Of the fit.
        seed: Of where they lie.
    """
    thin = [_thinned(it) for it in curves]
    begun = fit(_form(thin), _data(thin), starts=starts, seed=seed)
    form = replace(_form(curves), starts=lambda number, rng, log_loss: begun.basins)
    return CurveLaw(fit(form, _data(curves), starts=len(begun.basins)))


def _data(curves: Sequence[Curve]) -> Data:
    return Data({}, {}, np.log(np.concatenate([*(it.loss for it in curves), np.ones(len(_HELD))])))


def _thinned(curve: Curve) -> Curve:
    """A few moments of a curve, evenly."""
    kept = np.unique(np.linspace(0, len(curve.at) - 1, _THIN).round().astype(int))
    return Curve(curve.lr, curve.at[kept], curve.loss[kept])


def predicted(theta: Array, moments: Moments) -> Array:
    """The loss of parameters `(..., 7)`, `(..., rows)`."""
    l0, a, alpha, b, c, beta, gamma = (theta[..., number, None] for number in range(7))
    fallen = np.exp(a - alpha * np.log(moments.whole))
    reached, _, _ = _reached(c, beta, gamma, moments)
    return np.exp(l0) + fallen - np.exp(b) * (reached @ moments.lowered)


def _reached(c: Array, beta: Array, gamma: Array, moments: Moments) -> tuple[Array, Array, Array]:
    """How much of each lowering has come to bear, `(..., rows, blocks)`; what is left, and what that is a power of."""
    u = np.exp(c[..., None] - gamma[..., None] * np.log(moments.to)) * moments.since
    log_left = np.log1p(u)
    left = np.exp(-beta[..., None] * log_left)
    return 1.0 - left, left, log_left


def _form(curves: Sequence[Curve]) -> Form:
    """The law for just these curves."""
    moments = [it.moments for it in curves]
    peak = max(float(it.lr.max()) for it in curves)

    def evaluate(theta: Array, x: Centred) -> Array:
        losses = [np.log(predicted(theta, it)) for it in moments]
        return np.concatenate([*losses, _HOLD * (theta[..., 4:] - _HELD)], axis=-1)

    def slopes(theta: Array, x: Centred) -> Array:
        held = np.broadcast_to(_HOLD * np.eye(7)[4:], (*theta.shape[:-1], 3, 7))
        return np.concatenate([*(_slopes(theta, it) for it in moments), held], axis=-2)

    def starts(number: int, rng: np.random.Generator, log_loss: Array) -> Array:
        return _starts(
            number,
            rng,
            np.exp(log_loss[: -len(_HELD)]),
            peak,
            float(np.median(np.concatenate([it.whole for it in moments]))),
        )

    return Form(
        name="multi_power",
        formula="L = L0 + A S^-alpha - B sum_k (lr_k-1 - lr_k) (1 - (1 + C lr_k^-gamma S_k)^-beta)",
        source="Luo et al. 2025 (arXiv 2503.12811), equation 2",
        inputs=(),
        parameters=("log L0", "log A", "alpha", "log B", "log C", "beta", "gamma"),
        evaluate=evaluate,
        starts=starts,
        written=_written,
        exponents=("alpha", "beta", "gamma"),
        slopes=slopes,
    )


def _slopes(theta: Array, moments: Moments) -> Array:
    """Of the logarithm of the loss, `(..., rows, 7)`."""
    l0, a, alpha, b, c, beta, gamma = (theta[..., number, None] for number in range(7))
    fallen = np.exp(a - alpha * np.log(moments.whole))
    reached, left, log_left = _reached(c, beta, gamma, moments)
    scale = -np.exp(b)
    lost = scale * (reached @ moments.lowered)
    by_c = beta[..., None] * left * -np.expm1(-log_left)  # u / (1 + u) is what it grows with by log C
    loss = np.exp(l0) + fallen + lost
    columns = [
        np.exp(l0) + 0.0 * fallen,
        fallen,
        -fallen * np.log(moments.whole),
        lost,
        scale * (by_c @ moments.lowered),
        scale * ((left * log_left) @ moments.lowered),
        -scale * (by_c @ (moments.lowered * np.log(moments.to))),
    ]
    return np.stack(columns, axis=-1) / loss[..., None]


def _starts(number: int, rng: np.random.Generator, loss: Array, peak: float, middle: float) -> Array:
    """Around what curves are like: lowering the rate from its peak to nothing brings some tenths of the range."""
    bounds = ((0.5, 0.99), (0.2, 0.9), (0.1, 3.0), (-1.0, 3.0), (0.2, 1.0), (0.2, 1.0))
    kept, alpha, brings, pace, beta, gamma = uniform(rng, number, *bounds).T
    l0 = kept * loss.min()
    a = np.log(np.median(loss) - l0) + alpha * np.log(middle)
    b = np.log(brings * np.ptp(loss) / peak)
    c = pace - np.log(middle) + gamma * np.log(peak)
    return np.column_stack([np.log(l0), a, alpha, b, c, beta, gamma])


def _written(theta: Array, centre: Mapping[str, float]) -> dict[str, float]:
    values = np.where([name in ("alpha", "beta", "gamma") for name in NAMES], theta, np.exp(theta))
    return dict(zip(NAMES, map(float, values), strict=True))
