"""Which hyperparameters matter for the score: what a forest needs to know of a segment to tell how well it does.

A segment is said to do well if its weights gain places among those of the same age while it trains: each is one
observation. A random forest is fitted to the segments of three quarters of the members; then, for the others, one
hyperparameter at a time is shuffled among them, and the loss of what the forest explains is that hyperparameter's
importance. Members are never split, as one's segments are alike. What the weights were worth before the segment, and
their age, are told to the forest but not shuffled, so that hyperparameters are not given credit for weights that were
taken over.

Sources: Breiman 2001, Random Forests, section 10 (permutation importance); Geurts et al. 2006 (extremely randomized
trees); Nadeau and Bengio 2003, Inference for the Generalization Error, section 3 (the interval over repeated splits).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pbt.member import Hparams
from pbt.record.frame import Flags, Floats, Frame, Ints

#: Fewer segments or members tell nothing.
MIN_SEGMENTS, MIN_MEMBERS = 48, 8
#: Segments that are looked at, at most: more change little and take long.
_MAX_SEGMENTS = 1500
_SPLITS, _TREES, _SHUFFLES, _HELD_OUT = 10, 32, 3, 0.25
#: Share of the variance that is no matter: segments are never quite independent, and less than this may be chance.
NEXT_TO_NOTHING = 0.02
#: Chance that any hyperparameter that does not matter is said to.
_ERROR = 0.05

#: Columns by hyperparameter: one of a number, one for each option of a choice or part of a simplex.
Columns: TypeAlias = dict[str, Floats]


@dataclass(frozen=True, slots=True)
class Factor:
    """How much one hyperparameter matters.

    Attributes:
        name: Which.
        mean: Share of the variance of places gained that is no longer explained without it, over the splits.
        low: Where that is likely to be, at least. The intervals hold for all hyperparameters together.
        high: At most.
    """

    name: str
    mean: float
    low: float
    high: float

    @property
    def matters(self) -> bool:
        """Whether it can be told from next to nothing."""
        return self.low > NEXT_TO_NOTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """What matters, as far as a sweep tells.

    Attributes:
        factors: The most important first; none if nothing can be said.
        num_segments: Segments looked at.
        num_members: Members they are of.
        explained: Share of the variance that the forest explains, for members it has not seen.
        reason: Why nothing can be said, or empty.
    """

    factors: tuple[Factor, ...] = ()
    num_segments: int = 0
    num_members: int = 0
    explained: float = math.nan
    reason: str = ""


def importance(frame: Frame, columns: Columns, cohort: Floats, mode: str, seed: int = 0) -> Importance:
    """Estimate how much each hyperparameter matters.

    Args:
        frame: All segments.
        columns: By hyperparameter, `(segments, columns)`; NaN where it is not active.
        cohort: Equal numbers for segments that end at the same age; NaN for those that have no end.
        mode: Whether small or large scores are good.
        seed: Source of all randomness.
    """
    before, after = standings(frame, cohort, mode)
    rng = np.random.default_rng(seed)
    usable = np.flatnonzero(frame.is_ended & ~np.isnan(after))
    chosen = np.sort(rng.choice(usable, _MAX_SEGMENTS, replace=False)) if len(usable) > _MAX_SEGMENTS else usable
    members = frame.member[chosen]
    counts: dict[str, Any] = {"num_segments": len(chosen), "num_members": len(np.unique(members))}
    gained = after[chosen] - before[chosen]
    if counts["num_segments"] < MIN_SEGMENTS or counts["num_members"] < MIN_MEMBERS:
        least = f"at least {MIN_SEGMENTS} segments of {MIN_MEMBERS} members are needed"
        return Importance(**counts, reason=f"too few segments to tell: {least}")
    varying = {name: column[chosen] for name, column in columns.items() if _varies(column[chosen])}
    if not varying or np.ptp(gained) == 0.0:
        return Importance(**counts, reason="nothing varied, so there is nothing to tell apart")
    told = np.column_stack([before[chosen], cohort[chosen]])
    losses, explained = _losses(varying, told, gained, members, rng)
    factors = [_factor(name, losses[:, number], len(varying)) for number, name in enumerate(varying)]
    factors += [Factor(name, 0.0, 0.0, 0.0) for name in columns if name not in varying]
    return Importance(**counts, factors=tuple(sorted(factors, key=lambda one: -one.mean)), explained=explained)


def standings(frame: Frame, cohort: Floats, mode: str) -> tuple[Floats, Floats]:
    """Where each segment's weights stood at its start and its end among those that end at the same age.

    0 is the best, 1 the worst, which those that diverged share; equal scores share a place, and fresh weights the
    middle. NaN where a cohort has only one.
    """
    sign = 1.0 if mode == "min" else -1.0
    scores = np.where(np.isnan(frame.score), np.inf, sign * frame.score)
    started = np.where(frame.parent >= 0, scores[frame.parent], np.nan)
    before, after = np.full(len(frame), np.nan), np.full(len(frame), np.nan)
    ended = np.flatnonzero(frame.is_ended & ~np.isnan(cohort))
    for group in _groups(cohort[ended], ended):
        if len(group) > 1:
            after[group] = _standing(scores[group])
            old = group[~np.isnan(started[group])]
            before[group] = 0.5
            before[old] = _standing(started[old])
    return before, after


def encode(values: Sequence[Hparams], domain: dict[str, Any], name: str) -> Floats:
    """Values of a hyperparameter as columns; NaN where it is not active. `(values, columns)`."""
    found = [one.get(name) for one in values]
    if options := domain.get("options"):
        rows = [[math.nan if one is None else float(one == option) for option in options] for one in found]
    elif parts := domain.get("parts"):
        rows = [[math.nan if one is None else float(one[part]) for part in parts] for one in found]
    else:
        rows = [[math.nan if one is None else float(one)] for one in found]  # a forest sees their order alone
    return np.array(rows, dtype=float).reshape(len(values), -1)


def _groups(labels: Floats, entries: Ints) -> list[Ints]:
    order = np.argsort(labels, kind="stable")
    cuts = np.flatnonzero(np.diff(labels[order])) + 1
    return np.split(entries[order], cuts)


def _standing(scores: Floats) -> Floats:
    """Mean places of scores, from 0 for the best to 1 for the worst."""
    if len(scores) < 2:
        return np.full(len(scores), 0.5)
    ordered = np.sort(scores)
    below, upto = np.searchsorted(ordered, scores, "left"), np.searchsorted(ordered, scores, "right")
    return np.asarray((below + upto - 1) / 2 / (len(scores) - 1))


def _varies(column: Floats) -> bool:
    return len(np.unique(column, axis=0)) > 1


def _losses(
    varying: Columns, told: Floats, gained: Floats, members: Ints, rng: np.random.Generator
) -> tuple[Floats, float]:
    """For each split, what is no longer explained without each hyperparameter; and what is explained with all."""
    from sklearn.ensemble import ExtraTreesRegressor

    blocks = [_filled(column) for column in varying.values()]
    inputs = np.column_stack([*blocks, told])
    ends = np.cumsum([block.shape[1] for block in blocks])
    places = [slice(end - block.shape[1], end) for block, end in zip(blocks, ends, strict=True)]
    losses, explained = np.zeros((_SPLITS, len(blocks))), np.zeros(_SPLITS)
    for split in range(_SPLITS):
        held = _held_out(members, rng)
        forest = ExtraTreesRegressor(
            n_estimators=_TREES,
            min_samples_leaf=5,
            max_features=0.7,
            random_state=int(rng.integers(2**31)),
        )
        forest.fit(inputs[~held], gained[~held])
        tried = _shuffled(inputs[held], places, rng)
        errors = ((forest.predict(np.concatenate(tried)).reshape(len(tried), -1) - gained[held]) ** 2).mean(axis=1)
        variance = max(float(gained[held].var()), 1e-12)
        losses[split] = (errors[1:].reshape(len(blocks), _SHUFFLES).mean(axis=1) - errors[0]) / variance
        explained[split] = 1.0 - errors[0] / variance
    return losses, float(explained.mean())


def _filled(column: Floats) -> Floats:
    """Without NaN: what is not active lies below everything."""
    return np.where(np.isnan(column), np.nanmin(column) - 1.0, column)


def _held_out(members: Ints, rng: np.random.Generator) -> Flags:
    """Segments of a quarter of the members."""
    each = np.unique(members)
    return np.isin(members, rng.choice(each, max(2, round(_HELD_OUT * len(each))), replace=False))


def _shuffled(inputs: Floats, places: Sequence[slice], rng: np.random.Generator) -> list[NDArray[np.float64]]:
    """The inputs as they are, and then with the columns of one hyperparameter after the other shuffled, repeatedly."""
    found = [inputs]
    for place in places:
        for _ in range(_SHUFFLES):
            mixed = inputs.copy()
            mixed[:, place] = rng.permutation(inputs[:, place])
            found.append(mixed)
    return found


def _factor(name: str, losses: Floats, num_factors: int) -> Factor:
    """Mean and interval: splits overlap, so their spread alone would promise too much."""
    from scipy.stats import t

    mean, spread = float(losses.mean()), float(losses.std(ddof=1))
    overlap = 1.0 / len(losses) + _HELD_OUT / (1.0 - _HELD_OUT)
    reach = float(t.ppf(1.0 - _ERROR / num_factors / 2, len(losses) - 1)) * spread * math.sqrt(overlap)
    return Factor(name, mean, mean - reach, mean + reach)
