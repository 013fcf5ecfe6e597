"""Bowls of one shape whose lowest points move: least squares for many of them at once.

A cell's values are a level of its own, and `1/2 (z - M x)' H (z - M x)` with `z` that varies within cells and `x` that
does not. Expanded, that is linear in H and in HM, with a level for each cell that is taken off with its means: all that
counts of a cell are moments, and sums of them with any weights of cells are other fits.

Source: Mundlak 1978, "On the pooling of time series and cross section data", of levels that are taken off with means.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pbt.laws.form import Array

#: Rounds of a search for what restrictions leave.
_STEPS = 30


class Bowl(NamedTuple):
    """Parameters of a law of optima, or of many fits of one, `(..., )` each.

    Attributes:
        moves: Where the bowl's lowest point lies, `(..., varied, 1 + inputs)`.
        bends: How it bends, `(..., varied, varied)`.
    """

    moves: Array
    bends: Array

    def penalty(self, z: Array, x: Array) -> Array:
        """Share of the loss that is given away at `z`, for one bowl: `(rows,)`."""
        far = z - x @ self.moves.T
        return 0.5 * np.einsum("ri,ij,rj->r", far, self.bends, far)


def by_cell(cell: Array, weights: Array, values: Array) -> Array:
    """Weighted means by cell, `(cells, ...)`."""
    number = int(cell.max()) + 1
    total = np.bincount(cell, weights, number)
    flat = values.reshape(len(values), -1)
    sums = np.column_stack([np.bincount(cell, weights * column, number) for column in flat.T])
    return (sums / total[:, None]).reshape(number, *values.shape[1:])


def columns_of(z: Array, x: Array) -> Array:
    """What the terms are multiplied with, those of HM, then those of the upper half of H, `(rows, terms)`."""
    pairs = [(i, j) for i in range(z.shape[1]) for j in range(i, z.shape[1])]
    bent = [z[:, i] * z[:, j] * (0.5 if i == j else 1.0) for i, j in pairs]
    moved = -(z[:, :, None] * x[:, None, :]).reshape(len(z), -1)
    return np.column_stack([moved, *bent])


def moments(columns: Array, y: Array, cell: Array, weights: Array) -> tuple[Array, Array]:
    """Of each cell: columns by columns `(cells, terms, terms)`, and columns by the loss `(cells, terms)`."""
    columns = columns - by_cell(cell, weights, columns)[cell]
    y = y - by_cell(cell, weights, y)[cell]
    number = int(cell.max()) + 1
    normal, right = np.zeros((number, columns.shape[1], columns.shape[1])), np.zeros((number, columns.shape[1]))
    np.add.at(normal, cell, weights[:, None, None] * columns[:, :, None] * columns[:, None, :])
    np.add.at(right, cell, weights[:, None] * columns * y[:, None])
    return normal, right


def solve(normal: Array, right: Array, free: Array) -> Bowl:
    """The bowl, or one for each of many sums, `(..., terms, terms)` and `(..., terms)`."""
    scale = 1.0 / np.sqrt(np.maximum(np.diagonal(normal, axis1=-2, axis2=-1), 1e-300))
    scaled = normal * scale[..., :, None] * scale[..., None, :] + 1e-12 * np.eye(normal.shape[-1])
    theta = scale * np.linalg.solve(scaled, (scale * right)[..., None])[..., 0]
    bends, turned = _parts(theta, free)
    bowl = Bowl(np.linalg.solve(bends, turned), bends)
    return bowl if free.all() else _restricted(bowl, normal, right, free)


def terms(bowl: Bowl) -> Array:
    """HM and the upper half of H, in the order of the moments, `(..., terms)`."""
    rows, columns = np.triu_indices(bowl.bends.shape[-1])
    turned = bowl.bends @ bowl.moves
    return np.concatenate([turned.reshape(*turned.shape[:-2], -1), bowl.bends[..., rows, columns]], axis=-1)


def _parts(theta: Array, free: Array) -> tuple[Array, Array]:
    """H and HM of the terms."""
    varied, size = len(free), free.size
    rows, columns = np.triu_indices(varied)
    bends = np.zeros((*theta.shape[:-1], varied, varied))
    bends[..., rows, columns] = bends[..., columns, rows] = theta[..., size:]
    return bends, theta[..., :size].reshape(*theta.shape[:-1], *free.shape)


def _restricted(bowl: Bowl, normal: Array, right: Array, free: Array) -> Bowl:
    """The best with some powers 0, from the best without: Newton's steps as of least squares (Gauss)."""
    at, ways = Bowl(np.where(free, bowl.moves, 0.0), bowl.bends), _ways(free)
    for _ in range(_STEPS):
        # terms are of second degree, so that differences are derivatives
        slopes = np.stack([0.5 * (terms(_moved(at, way, 1.0)) - terms(_moved(at, way, -1.0))) for way in ways], axis=-1)
        turned = np.swapaxes(slopes, -1, -2)
        gram = turned @ normal @ slopes
        gram = gram + 1e-12 * np.trace(gram, axis1=-2, axis2=-1)[..., None, None] * np.eye(len(ways))
        steps = np.linalg.solve(gram, turned @ (right[..., None] - normal @ terms(at)[..., None]))[..., 0]
        for number, way in enumerate(ways):
            at = _moved(at, way, steps[..., number, None, None])
    return at


def _ways(free: Array) -> list[Bowl]:
    """Each free power, and each of the upper half of H, by itself."""
    varied, width = free.shape
    powers = [Bowl(one.reshape(free.shape), np.zeros((varied, varied))) for one in np.eye(varied * width)[free.ravel()]]
    ones = np.eye(varied)
    pairs = [(ones[i], ones[j]) for i, j in zip(*np.triu_indices(varied), strict=True)]
    bends = [np.maximum(np.outer(one, other), np.outer(other, one)) for one, other in pairs]
    return [*powers, *(Bowl(np.zeros(free.shape), it) for it in bends)]


def _moved(bowl: Bowl, way: Bowl, far: Array | float) -> Bowl:
    return Bowl(bowl.moves + far * way.moves, bowl.bends + far * way.bends)
