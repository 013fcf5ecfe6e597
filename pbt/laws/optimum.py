"""Where the loss is lowest: learning rates and batch sizes, how they move with a run's size, and how much they matter.

Near its minimum the logarithm of the loss of a cell (runs that differ in what is varied alone, such as those of one
model on as many tokens) is a bowl over the logarithms of what is varied. All cells have a bowl of the same shape, and
its lowest point moves with the cell's inputs as powers of them:

    log L = c_cell + 1/2 (z - M x)' H (z - M x)        z = log (lr, batch),  x = (1, log params, log tokens)

A bowl is a bowl near its minimum only: the more loss a run gives away, the less it weighs, and it weighs half where it
gives away 1 %. What is off by more than twice what is usual pulls no harder than that.

What varies decides what is found. With learning rate and batch size varied, the *joint* optimum of both; with batch
size among the inputs, the *conditional* one of the learning rate at each batch size. These are different laws, and most
of what published exponents disagree about.

Sources: Bi et al. 2024, "DeepSeek LLM" (arXiv 2401.02954), section 3.1, and Li et al. 2025, "Predictable Scale: Part I"
(arXiv 2503.04715), of the bowl and of the powers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from pbt.errors import SpecError
from pbt.laws.bowl import Bowl, by_cell, columns_of, moments, solve, terms
from pbt.laws.form import Array, times_beyond
from pbt.laws.intervals import Interval, interval, other_weights
from pbt.spec import require

#: A run that gives away this share of the loss weighs half.
_HALF = 0.01
#: What is off by more than so many times what is usual pulls no harder.
_FAR = 2.0
#: Rounds of weighing at most; and nothing moves any more if it moves by less.
_ROUNDS, _SAME = 50, 1e-7
#: What varies less than this does not vary, and columns whose condition is worse than this say the same.
_NOTHING, _ALIKE = 1e-9, 1e8


@dataclass(frozen=True)
class Runs:
    """What a law of optima is fitted to.

    Attributes:
        varied: Names of what is varied within cells.
        inputs: Names of what cells differ in.
        z: Logarithms of what is varied, less their means, `(rows, varied)`.
        x: 1, and logarithms of the inputs, less their means, `(rows, 1 + inputs)`.
        y: Logarithms of the losses, `(rows,)`.
        cell: Number of the cell of each row, `(rows,)`.
        centre: The means that were taken off, by name.
    """

    varied: tuple[str, ...]
    inputs: tuple[str, ...]
    z: Array
    x: Array
    y: Array
    cell: Array
    centre: Mapping[str, float]

    @classmethod
    def of(cls, varied: Mapping[str, Array], inputs: Mapping[str, Array], loss: Array) -> Runs:
        """Of values as they are measured, `(rows,)` each. Runs whose loss is no number are left out.

        Raises:
            SpecError: A value is not positive, or there are too few runs.
        """
        ended = np.isfinite(np.asarray(loss, dtype=float))
        given = {name: np.asarray(it, dtype=float)[ended] for name, it in {**varied, **inputs, "loss": loss}.items()}
        for name, values in given.items():
            bad = values[~((values > 0.0) & np.isfinite(values))]
            require(not bad.size, name, f"{bad[:1]} is not positive", "Leave such runs out")
        logs = {name: np.log(it) for name, it in given.items()}
        centre = {name: float(it.mean()) if len(it) else 0.0 for name, it in logs.items()}
        x = np.column_stack([np.ones(ended.sum()), *(logs[name] - centre[name] for name in inputs)])
        z = np.column_stack([logs[name] - centre[name] for name in varied])
        cell = np.unique(x, axis=0, return_inverse=True)[1].reshape(-1)
        return cls(tuple(varied), tuple(inputs), z, x, logs["loss"], cell, centre)

    @cached_property
    def columns(self) -> Array:
        """Of least squares, `(rows, terms)`."""
        return columns_of(self.z, self.x)

    def place(self, inputs: Mapping[str, float]) -> Array:
        """A row of `x` of other inputs, `(1 + inputs,)`."""
        return np.array([1.0, *(np.log(inputs[name]) - self.centre[name] for name in self.inputs)])

    def beyond(self, inputs: Mapping[str, float]) -> dict[str, float]:
        """How many times each input is further than the furthest there is; those that lie within are left out."""
        at, own = self.place(inputs)[1:], self.x.T[1:]
        far = {name: times_beyond(*it) for name, *it in zip(self.inputs, own, at, strict=True)}
        return {name: times for name, times in far.items() if times > 1.0 + _NOTHING}


@dataclass(frozen=True)
class Optimum:
    """A fitted law of optima.

    Attributes:
        runs: What it was fitted to.
        bowl: Its parameters.
        free: Which of the powers were looked for, `(varied, 1 + inputs)`; the others are 0.
        weights: What each row counts, `(rows,)`.
        rising: What it would count if it were a little further off: nothing, if it is far off already, `(rows,)`.
        levels: Logarithm of each cell's lowest loss, `(cells,)`.
    """

    runs: Runs
    bowl: Bowl
    free: Array
    weights: Array
    rising: Array
    levels: Array

    def at(self, inputs: Mapping[str, float], given: Mapping[str, float] | None = None) -> dict[str, float]:
        """The best values of what is varied, for inputs; with some of them given, the best of the others with those."""
        best = self.bowl.moves @ self.runs.place(inputs)
        known = {} if given is None else given
        kept = [name in known for name in self.runs.varied]
        if any(kept):
            own, other = np.array(kept), ~np.array(kept)
            z = np.array([np.log(known[it]) - self.runs.centre[it] for it in self.runs.varied if it in known])
            bends = self.bowl.bends
            away = np.linalg.solve(bends[np.ix_(other, other)], bends[np.ix_(other, own)] @ (z - best[own]))
            best[own], best[other] = z, best[other] - away
        return _values(self.runs, best)

    def penalty(self, inputs: Mapping[str, float], values: Mapping[str, float]) -> float:
        """Share of the loss that values of what is varied give away, for inputs: 0.01 is 1 %."""
        z = np.array([np.log(values[name]) - self.runs.centre[name] for name in self.runs.varied])
        return float(self.bowl.penalty(z[None], self.runs.place(inputs)[None])[0])

    def plateau(self, share: float = 1e-3) -> dict[str, float]:
        """By which factor each of what is varied may be off alone, either way, until this share of the loss is lost."""
        bends = np.diagonal(self.bowl.bends)
        return {
            name: float(np.exp(np.sqrt(2.0 * share / it))) for name, it in zip(self.runs.varied, bends, strict=True)
        }

    @cached_property
    def written(self) -> dict[str, dict[str, float]]:
        """By what is varied: its `coefficient`, and the exponent of each input."""
        return _named(self.runs, _uncentred(self.runs, self.bowl))

    @cached_property
    def residuals(self) -> Array:
        """Measured less fitted logarithms of the loss, `(rows,)`."""
        return self.runs.y - self.levels[self.runs.cell] - self.bowl.penalty(self.runs.z, self.runs.x)

    @cached_property
    def noise(self) -> float:
        """What a run that weighs much is usually off, as a share of the loss; levels and parameters taken off."""
        varied = len(self.runs.varied)
        left = self.weights.sum() - len(self.levels) - self.free.sum() - varied * (varied + 1) / 2
        return float(np.sqrt((self.weights * self.residuals**2).sum() / left)) if left > 0 else float("nan")


def fit_optimum(runs: Runs, depends: Mapping[str, Collection[str]] | None = None) -> Optimum:
    """Fit where the loss is lowest.

    Args:
        runs: What was trained.
        depends: By what is varied, the inputs that its optimum moves with; those not named move with all.

    Raises:
        SpecError: The runs do not tell: an input does not vary, or the loss has no minimum among what was tried.
    """
    free = _free(runs, depends or {})
    _check_inputs(runs)
    weights = rising = _near(runs.y - _lowest(runs))
    bowl = _weighed(runs, weights, free)
    for _ in range(_ROUNDS):
        weights, rising = _weights(runs, bowl, weights)
        before, bowl = bowl, _weighed(runs, weights, free)
        if np.abs(before.moves - bowl.moves).max() < _SAME:
            break
    levels = by_cell(runs.cell, weights, runs.y - bowl.penalty(runs.z, runs.x))
    return Optimum(runs, bowl, free, weights, rising, levels)


def _weighed(runs: Runs, weights: Array, free: Array) -> Bowl:
    """The bowl that fits best with these weights of rows.

    Raises:
        SpecError: The runs do not tell.
    """
    normal, right = (it.sum(axis=0) for it in moments(runs.columns, runs.y, runs.cell, weights))
    _check_told(runs, normal)
    bowl = solve(normal, right, free)
    _check_bends(runs, bowl)
    return bowl


def _weights(runs: Runs, bowl: Bowl, weights: Array) -> tuple[Array, Array]:
    """What rows count for, given a bowl: less the more they give away, and less if they are far off. See `Optimum`."""
    penalty = bowl.penalty(runs.z, runs.x)
    level = by_cell(runs.cell, weights, runs.y - penalty)[runs.cell]
    near, off = _near(penalty), np.abs(runs.y - level - penalty)
    far = _FAR * 1.4826 * _median(off, near)
    return near * np.minimum(1.0, far / np.maximum(off, 1e-300)), near * (off <= far)


# ----------------------------------------------------------------------------------------------------- how sure it is


@dataclass(frozen=True)
class OptimumSpread:
    """A law of optima with what it might have been; see `pbt.laws.intervals`.

    Attributes:
        optimum: The law.
        drawn: Of fits with other weights of cells.
        without: Of fits without each cell.
    """

    optimum: Optimum
    drawn: Bowl
    without: Bowl

    def at(self, inputs: Mapping[str, float], level: float = 0.95) -> dict[str, Interval]:
        """Intervals of the best values for inputs."""
        low, high = (_values(self.optimum.runs, it) for it in self._best(inputs, level))
        return {name: Interval(low[name], high[name]) for name in low}

    def written(self, level: float = 0.95) -> dict[str, dict[str, Interval]]:
        """Intervals of coefficients and exponents."""
        runs = self.optimum.runs
        estimate, drawn, without = (_uncentred(runs, it) for it in (self.optimum.bowl, self.drawn, self.without))
        low, high = (_named(runs, it) for it in interval(estimate, drawn, without, level))
        return {name: {key: Interval(values[key], high[name][key]) for key in values} for name, values in low.items()}

    def penalty(self, inputs: Mapping[str, float], level: float = 0.95) -> Interval:
        """What following the law gives away for inputs, as a share of the loss: in the mean, and at most at this level.

        That is what counts: exponents may be quite unsure along the valley, and the loss still be the same.
        """
        x = self.optimum.runs.place(inputs)
        low, high = self._best(inputs, 0.95)
        off = (self.drawn.moves - self.optimum.bowl.moves) @ x
        narrow = np.subtract(*np.quantile(off, [0.975, 0.025], axis=0))
        far = off * (high - low) / np.maximum(narrow, 1e-300)  # widened as intervals are
        lost = 0.5 * np.einsum("di,ij,dj->d", far, self.optimum.bowl.bends, far)
        return Interval(float(lost.mean()), float(np.quantile(lost, level)))

    def _best(self, inputs: Mapping[str, float], level: float) -> tuple[Array, Array]:
        """From where to where the lowest point may lie, `(varied,)` each."""
        x = self.optimum.runs.place(inputs)
        return interval(self.optimum.bowl.moves @ x, self.drawn.moves @ x, self.without.moves @ x, level)


def spread_optimum(optimum: Optimum, draws: int = 1000, seed: int = 0) -> OptimumSpread:
    """Fit the law again with other weights of cells.

    Args:
        optimum: The law.
        draws: How many fits.
        seed: Of the weights.
    """
    normal, right = _linear(optimum)
    weights = other_weights(len(normal), draws, seed)
    found = [solve(np.tensordot(it, normal, 1), it @ right, optimum.free) for it in weights]
    return OptimumSpread(optimum, *found)


def _linear(optimum: Optimum) -> tuple[Array, Array]:
    """Moments of each cell of a least-squares problem that moves with weights of cells as the robust one does.

    Source: Huber 1981, "Robust Statistics", section 7.6: rows that are far off pull, but do not hold.
    """
    runs, bowl = optimum.runs, optimum.bowl
    normal, _ = moments(runs.columns, runs.y, runs.cell, optimum.rising)
    _, pull = moments(runs.columns, optimum.residuals, runs.cell, optimum.weights)
    return normal, normal @ terms(bowl) + pull


# -------------------------------------------------------------------------------------------------------- cell by cell


class Best(NamedTuple):
    """The lowest point of one cell.

    Attributes:
        inputs: Of the cell.
        values: The best values of what is varied.
        factors: By how much each may be off, either way (95 %).
        loss: The lowest loss.
        rows: Runs that count, each by its weight.
        refused: Why it is none; empty if it is one.
    """

    inputs: Mapping[str, float]
    values: Mapping[str, float]
    factors: Mapping[str, float]
    loss: float
    rows: float
    refused: str


def best_of_cells(optimum: Optimum) -> list[Best]:
    """Where each cell's own bowl is lowest, whatever the law says, given how bowls bend.

    One that lies beyond what was tried there is none: it says where to look, and not what is best.
    """
    return [_best_of(optimum, cell) for cell in range(len(optimum.levels))]


def _best_of(optimum: Optimum, cell: int) -> Best:
    runs, bends = optimum.runs, optimum.bowl.bends
    own = runs.cell == cell
    z, weights = runs.z[own], optimum.weights[own]
    y = runs.y[own] - 0.5 * np.einsum("ri,ij,rj->r", z, bends, z)
    columns = np.column_stack([np.ones(len(z)), z]) * np.sqrt(weights)[:, None]
    told = np.linalg.pinv(columns)
    slope = told @ (y * np.sqrt(weights))
    lowest = -np.linalg.solve(bends, slope[1:])
    turned = np.linalg.solve(bends, (told @ told.T)[1:, 1:])
    spread_s = optimum.noise * np.sqrt(np.maximum(np.diagonal(np.linalg.solve(bends, turned.T)), 0.0))
    x = runs.x[own][0, 1:]
    inputs = {name: float(np.exp(it + runs.centre[name])) for name, it in zip(runs.inputs, x, strict=True)}
    factors = {name: float(np.exp(1.96 * it)) for name, it in zip(runs.varied, spread_s, strict=True)}
    loss = float(np.exp(slope[0] - 0.5 * lowest @ bends @ lowest))
    return Best(inputs, _values(runs, lowest), factors, loss, float(weights.sum()), _refusal(runs, z, columns, lowest))


def _refusal(runs: Runs, z: Array, columns: Array, lowest: Array) -> str:
    """Why a cell has no optimum."""
    if np.linalg.cond(columns) > _ALIKE or np.square(columns[:, 0]).sum() < columns.shape[1]:
        return "too few runs come near the best"
    for name, own, best in zip(runs.varied, z.T, lowest, strict=True):
        if not own.min() <= best <= own.max():
            return f"{name} is best {'below' if best < own.min() else 'above'} what was tried"
    return ""


def _free(runs: Runs, depends: Mapping[str, Collection[str]]) -> Array:
    for name, inputs in depends.items():
        require(name in runs.varied, f"depends.{name}", "is not varied", f"Name some of {', '.join(runs.varied)}")
        for it in inputs:
            require(
                it in runs.inputs, f"depends.{name}", f"{it!r} is no input", f"Name some of {', '.join(runs.inputs)}"
            )
    told = [[True, *(it in depends.get(name, runs.inputs) for it in runs.inputs)] for name in runs.varied]
    return np.array(told)


def _near(penalty: Array) -> Array:
    return 1.0 / (1.0 + np.square(np.maximum(penalty, 0.0) / _HALF))


def _lowest(runs: Runs) -> Array:
    """The lowest of its cell, for each row."""
    found = np.full(int(runs.cell.max(initial=-1)) + 1, np.inf)
    np.minimum.at(found, runs.cell, runs.y)
    return found[runs.cell]


def _median(values: Array, weights: Array) -> float:
    order = np.argsort(values)
    return float(values[order][np.searchsorted(np.cumsum(weights[order]), 0.5 * weights.sum())])


def _check_told(runs: Runs, normal: Array) -> None:
    """Refuse what no fit can find.

    Raises:
        SpecError: Something is not varied, or there are too few runs.
    """
    for name, told in zip(runs.varied, np.diagonal(normal)[:: runs.x.shape[1]], strict=False):
        mend = f"Have runs that are alike in {', '.join(runs.inputs)}, with several values of {name}"
        require(told > _NOTHING, name, "does not vary among runs that are alike otherwise", mend)
    scale = 1.0 / np.sqrt(np.maximum(np.diagonal(normal), 1e-300))
    told = f"{len(runs.y)} in {runs.cell.max() + 1} cells are too few"
    mend = "Have three values of each in every cell"
    require(np.linalg.cond(normal * scale[:, None] * scale) < _ALIKE, "runs", told, mend)


def _check_inputs(runs: Runs) -> None:
    """Refuse runs whose inputs do not tell what they do.

    Raises:
        SpecError: One does not vary, or only with others.
    """
    cells = np.unique(runs.x, axis=0)
    for name, column in zip(runs.inputs, cells[:, 1:].T, strict=True):
        mend = f"Have runs of several {name}, or leave it out of the law"
        require(np.ptp(column) > _NOTHING, name, "is the same in all runs", mend)
    told = "vary together, so that their powers cannot be told apart"
    mend = "Have runs that vary one of them alone, or leave one out of the law"
    require(np.linalg.cond(cells) < _ALIKE, " and ".join(runs.inputs), told, mend)


def _check_bends(runs: Runs, bowl: Bowl) -> None:
    """Refuse a bowl that is none.

    Raises:
        SpecError: Somewhere it does not bend upwards.
    """
    values, vectors = np.linalg.eigh(bowl.bends)
    if values[0] <= 0.0:
        name = runs.varied[int(np.abs(vectors[:, 0]).argmax())]
        told = "has no value at which the loss is lowest among those that were tried"
        raise SpecError(name, told, "Try a wider range, so that the best is not at its edge")


def _values(runs: Runs, z: Array) -> dict[str, float]:
    """What is varied, by name, of centred logarithms `(varied,)`."""
    return {name: float(np.exp(it + runs.centre[name])) for name, it in zip(runs.varied, z, strict=True)}


def _uncentred(runs: Runs, bowl: Bowl) -> Array:
    """Powers, with the logarithm of the coefficient in front, `(..., varied, 1 + inputs)`."""
    found = np.array(bowl.moves)
    for number, name in enumerate(runs.inputs):
        found[..., 0] -= found[..., number + 1] * runs.centre[name]
    found[..., 0] += [runs.centre[name] for name in runs.varied]
    return found


def _named(runs: Runs, uncentred: Array) -> dict[str, dict[str, float]]:
    """Coefficients and powers by names, `(varied, 1 + inputs)`."""
    return {
        name: {"coefficient": float(np.exp(level)), **dict(zip(runs.inputs, map(float, powers), strict=True))}
        for name, (level, *powers) in zip(runs.varied, uncentred, strict=True)
    }
