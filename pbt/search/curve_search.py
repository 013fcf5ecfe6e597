"""Which configuration to try next, given how far others came and what they reached.

A Gaussian process over learning curves (`pbt.surrogates.curves`) sees every run: those that were trained to the end,
those that were stopped, those under way. Asked is what a new one would reach at the target, and the one with the
highest expected improvement over the best that was seen is tried. What it proposes is a function of what it is told and
of the seed: there is nothing else to keep, and whoever resumes goes on as if nothing had happened.

Sources: Swersky, Snoek & Adams 2014, "Freeze-Thaw Bayesian Optimization" (arXiv 1406.3896): stopped runs as data; here
whoever asks decides which run goes on. Ament et al. 2023, "Unexpected Improvements to Expected Improvement for Bayesian
Optimization" (arXiv 2310.20708): the logarithm of it. What is pending counts as in GP-BUCB (`Curves.with_pending`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pbt.member import Hparams
from searchspaces import Space

if TYPE_CHECKING:
    from pbt.surrogates.curves import Values

#: Values of one process at most: a fit takes time with the cube of their number.
_MOST = 240
#: Of a curve, one value is kept in each of these factors of steps; the first that leaves few enough.
_THINNING = (2.0, 4.0, 16.0, math.inf)


@dataclass(frozen=True, slots=True)
class Run:
    """A configuration that was tried.

    Attributes:
        hparams: With which hyperparameters.
        curve: After how many steps (or epochs, tokens: whatever counts) it had come to what, low being good; in
            ascending order. NaN or infinite where it diverged, which is for good.
        is_under_way: Whether it will be trained further, or is.
    """

    hparams: Hparams
    curve: Sequence[tuple[float, float]]
    is_under_way: bool = False


def propose(space: Space, runs: Sequence[Run], seed: int, *, startup: int = 10, target: float | None = None) -> Hparams:
    """The configuration to try next.

    Args:
        space: What may vary.
        runs: What has been tried so far.
        seed: Of this choice and of no other.
        startup: Runs with values that there must be, before the process is asked; until then configurations are drawn.
        target: Steps of a run that is trained to the end; None takes those of the longest so far.
    """
    with_values = [run for run in runs if run.curve]
    rng = np.random.default_rng(seed)
    if len(with_values) < max(startup, 1) or not space.num_dims:
        return space.sample(rng)
    from pbt.surrogates.curves import fit
    from pbt.surrogates.improvement import most_promising  # loads torch

    values = observed(space, with_values, target)
    pending = [space.encode(run.hparams) for run in runs if run.is_under_way]
    here = most_promising(fit(values), values, np.array(pending).reshape(-1, space.num_dims), seed, _snap(space))
    return space.decode(here)


def observed(space: Space, runs: Sequence[Run], target: float | None = None) -> Values:
    """What a process is told of runs that have values: of long curves a few, and no more than it can bear.

    Args:
        space: What varies.
        runs: At least one.
        target: As in `propose`.
    """
    from pbt.surrogates.curves import Values

    target = target or max(step for run in runs for step, _ in run.curve)
    kept = [_thinned(runs, target, factor) for factor in _THINNING]
    rows = next((it for it in kept if len(it) <= _MOST), None) or _best_and_latest(kept[-1])
    cube = np.array([space.encode(run.hparams) for run in runs])
    number, steps, badness = (np.array(column) for column in zip(*rows, strict=True))
    depth = np.log10(target / np.maximum(steps, 1e-9))
    return Values(number, depth, cube[number], badness)


def _thinned(runs: Sequence[Run], target: float, factor: float) -> list[tuple[int, float, float]]:
    """Of every curve the last value, and going back from it those with a `factor` between their steps.

    Who has diverged has done so at the target too, and only there: what it was before says nothing about where it went.
    """
    rows = []
    for number, run in enumerate(runs):
        if not math.isfinite(run.curve[-1][1]):
            rows.append((number, target, run.curve[-1][1]))
            continue
        rows += [(number, *point) for point in thinned(run.curve, factor)]
    return rows


def thinned(curve: Sequence[tuple[float, float]], factor: float) -> list[tuple[float, float]]:
    """The last finite value of a curve, and going back from it those with a factor between their steps."""
    points, below = [], math.inf
    for step, value in reversed(curve):
        if step <= below and math.isfinite(value):
            points.append((step, value))
            below = step / factor
    return points


def _best_and_latest(rows: Sequence[tuple[int, float, float]]) -> list[tuple[int, float, float]]:
    """As many rows as can be borne: half of them those of the best, the others of the latest runs."""
    finite = sorted(rows, key=lambda it: it[2] if math.isfinite(it[2]) else math.inf)
    best = finite[: _MOST // 2]
    others = sorted(set(rows) - set(best), key=lambda it: it[0])
    return best + others[-(_MOST - len(best)) :]


def _snap(space: Space) -> Callable[[np.ndarray], np.ndarray]:
    def snap(places: np.ndarray) -> np.ndarray:
        return np.array([space.encode(space.decode(place)) for place in places]).reshape(places.shape)

    return snap
