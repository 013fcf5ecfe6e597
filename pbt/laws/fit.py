"""Fits of laws: robust, from many starts at once, with all that fits as well as the best.

Minimised is the *sum* over rows of Huber's loss of what the logarithm of the loss is off, with a threshold of 1e-3. (As
a mean, tolerances of optimisers that are meant for sums end the search early: the published Chinchilla fit.) All starts
descend together: each step is a least-squares problem in which rows that are far off weigh less, damped as by
Levenberg and Marquardt.

Sources: Hoffmann et al. 2022 (arXiv 2203.15556), section D.3, of the loss; Besiroglu et al. 2024 (arXiv 2404.10102),
of the mean; Holland & Welsch 1977, "Robust regression using iteratively reweighted least-squares", of the weights;
Marquardt 1963 of the damping.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pbt.laws.form import Array, Centred, Form

#: Beyond this the loss of what is off is linear.
THRESHOLD = 1e-3
#: Steps of all starts, of the best of them, and how many these are.
_FIRST, _LAST, _BEST = 12, 200, 48
#: Starts whose Jacobians are held at once.
_AT_ONCE = 512
#: What is found is another basin if a prediction differs by more than this, and is as good if its sum of losses is not
#: more than this share higher.
_APART, _AS_GOOD = 1e-4, 0.02


@dataclass(frozen=True)
class Data:
    """What a law is fitted to.

    Attributes:
        x: Logarithms of the inputs, less their means, `(rows,)` each.
        centre: These means.
        y: Logarithm of the losses, `(rows,)`.
    """

    x: Centred
    centre: Mapping[str, float]
    y: Array

    @classmethod
    def of(cls, form: Form, inputs: Mapping[str, Array], loss: Array) -> Data:
        """Of a form's inputs and of losses as they are measured, all positive."""
        logs = {name: np.log(np.asarray(inputs[name], dtype=float)) for name in form.inputs}
        centre = {name: 0.0 if name in form.raw else float(it.mean()) for name, it in logs.items()}
        return cls({name: it - centre[name] for name, it in logs.items()}, centre, np.log(np.asarray(loss, float)))

    def centred(self, inputs: Mapping[str, Array]) -> Centred:
        """Other inputs, as these are."""
        return {name: np.log(np.asarray(inputs[name], dtype=float)) - self.centre[name] for name in self.x}


@dataclass(frozen=True)
class Fit:
    """A fitted law.

    Attributes:
        form: Which.
        data: To what.
        theta: Its parameters, of centred inputs, `(parameters,)`.
        objective: The sum of losses.
        basins: Other parameters that fit as well, `(basins, parameters)`, the best first; `theta` is the first.
    """

    form: Form
    data: Data
    theta: Array
    objective: float
    basins: Array

    def predict(self, inputs: Mapping[str, Array]) -> Array:
        """The loss at inputs, `(rows,)`."""
        return np.exp(self.form.evaluate(self.theta, self.data.centred(inputs)))

    @cached_property
    def written(self) -> dict[str, float]:
        """The parameters that people write."""
        return self.form.written(self.theta, self.data.centre)

    @cached_property
    def residuals(self) -> Array:
        """Measured less predicted logarithms, `(rows,)`: shares, as far as they are small."""
        return self.data.y - self.form.evaluate(self.theta, self.data.x)

    @property
    def pull(self) -> Array:
        """What each row pulls with, `(rows,)`: what it is off, up to the threshold."""
        return np.clip(self.residuals, -THRESHOLD, THRESHOLD)

    @property
    def is_near(self) -> Array:
        """Which rows hold and do not only pull, `(rows,)`."""
        return np.abs(self.residuals) <= THRESHOLD


def fit(form: Form, data: Data, starts: int = 4500, seed: int = 0) -> Fit:
    """Fit a law from many starts.

    Args:
        form: Its form.
        data: What it is fitted to.
        starts: How many, spread evenly over what is plausible.
        seed: Of where they lie.
    """
    weights = np.ones((1, len(data.y)))
    begun = form.starts(starts, np.random.default_rng(seed), data.y)
    reached, objective = _in_parts(form, data, weights, begun, _FIRST)
    best = reached[np.argsort(objective, kind="stable")[:_BEST]]
    best, objective = descend(form, data, weights, best, _LAST)
    order = np.argsort(objective, kind="stable")
    basins = _told_apart(form, data, best[order], objective[order])
    return Fit(form, data, basins[0], float(objective[order[0]]), basins)


def refit(form: Form, data: Data, weights: Array, theta: Array) -> Array:
    """Parameters with other weights of rows, each from where it is: `(fits, parameters)`.

    Args:
        form: Its form.
        data: What it is fitted to.
        weights: Of rows, `(fits, rows)`, such as how often each was drawn.
        theta: Parameters to begin from, `(parameters,)`.
    """
    return _in_parts(form, data, weights, np.repeat(theta[None], len(weights), axis=0), _LAST)[0]


def _in_parts(form: Form, data: Data, weights: Array, theta: Array, steps: int) -> tuple[Array, Array]:
    """`descend`, of no more starts at once than memory is for."""
    parts = [slice(at, at + _AT_ONCE) for at in range(0, len(theta), _AT_ONCE)]
    found = [descend(form, data, weights if len(weights) == 1 else weights[it], theta[it], steps) for it in parts]
    return np.concatenate([it for it, _ in found]), np.concatenate([it for _, it in found])


def descend(form: Form, data: Data, weights: Array, theta: Array, steps: int) -> tuple[Array, Array]:
    """From each of these parameters downhill, together.

    Args:
        form: Whose parameters.
        data: What is fitted to.
        weights: Of rows, `(1, rows)` or one row of them for each start.
        theta: Starts, `(starts, parameters)`.
        steps: At most so many.

    Returns:
        Parameters `(starts, parameters)`, and the sums of losses there `(starts,)`.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # starts that lead nowhere are left behind
        return _descend(form, data, weights, theta.copy(), steps)


def _descend(form: Form, data: Data, weights: Array, theta: Array, steps: int) -> tuple[Array, Array]:
    damping = np.ones(len(theta))
    off = data.y - form.evaluate(theta, data.x)
    objective = (weights * huber(off)).sum(axis=1)
    going = np.ones(len(theta), dtype=bool)
    for _ in range(steps):
        here = np.flatnonzero(going)
        if not len(here):
            break
        own = weights if len(weights) == 1 else weights[here]
        moved = theta[here] + _step(form, data, own, theta[here], off[here], damping[here])
        moved_off = data.y - form.evaluate(moved, data.x)
        value = (own * huber(moved_off)).sum(axis=1)
        better = value < objective[here]
        gained = (objective[here] - value) / np.maximum(objective[here], 1e-300)
        theta[here[better]], off[here[better]], objective[here[better]] = (
            moved[better],
            moved_off[better],
            value[better],
        )
        damping[here] = np.clip(np.where(better, damping[here] / 4.0, damping[here] * 8.0), 1e-12, 1e12)
        going[here] = np.where(better, gained > 1e-10, damping[here] < 1e8)
    return theta, objective


def huber(off: Array) -> Array:
    """Quadratic up to the threshold and linear beyond; half a square at first."""
    far = np.abs(off)
    return np.where(far <= THRESHOLD, 0.5 * far**2, THRESHOLD * (far - 0.5 * THRESHOLD))


def _step(form: Form, data: Data, weights: Array, theta: Array, off: Array, damping: Array) -> Array:
    """Newton's, as far as damping lets it: rows beyond the threshold pull with a constant force.

    Damped with the matrix of reweighted least squares, which alone never goes too far.
    """
    jacobian = form.jacobian(theta, data.x)
    far = np.abs(off)
    pull = weights * np.clip(off, -THRESHOLD, THRESHOLD)
    bent = weights * ((far <= THRESHOLD) + damping[:, None] * np.minimum(1.0, THRESHOLD / np.maximum(far, 1e-300)))
    turned = np.swapaxes(jacobian, -1, -2)
    gram = (turned * bent[..., None, :]) @ jacobian
    diagonal = np.diagonal(gram, axis1=-2, axis2=-1)
    ridge = (1e-9 + 1e-3 * damping[:, None]) * diagonal + 1e-12 * diagonal.max(axis=-1, keepdims=True) + 1e-300
    damped = gram + ridge[..., None] * np.eye(theta.shape[-1])
    return np.linalg.solve(damped, (turned @ pull[..., None]))[..., 0]


def _told_apart(form: Form, data: Data, theta: Array, objective: Array) -> Array:
    """The best, and others that are as good and predict something else."""
    as_good = theta[objective <= objective[0] * (1.0 + _AS_GOOD)]
    found = [as_good[0]]
    for other in as_good[1:]:
        far = [np.abs(form.evaluate(other, data.x) - form.evaluate(it, data.x)).max() for it in found]
        if min(far) > _APART:
            found.append(other)
    return np.array(found)
