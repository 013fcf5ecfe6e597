"""What a search is worth: the regret of what it recommends, over what it has spent.

Regret is 0 of the best configuration at the target and 1 of the one in the middle; until anything is recommended it is
1, and never counts for more than 2. Over the logarithm of what was spent its mean is the area below it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import rankdata

from benchmarks.search.tasks import Table
from benchmarks.search.world import Played

#: From so many complete runs on is looked at what is recommended, at so many moments.
FIRST, MOMENTS = 0.5, 100
#: What counts as more counts as this.
WORST = 2.0


def spending(runs: float) -> np.ndarray:
    """The moments, in complete runs; evenly over the logarithm."""
    return np.geomspace(FIRST, runs, MOMENTS)


def regret_over_cost(table: Table, played: Played, runs: float) -> np.ndarray:
    """Regret at each of `spending`, `(moments,)`."""
    spent = np.array([it.spent for it in played.moments]) / table.complete_cost
    regrets = np.array([1.0, *(min(WORST, table.regret(it.row)) for it in played.moments)])
    return regrets[np.searchsorted(spent, spending(runs), side="right")]


def cost_to_reach(regrets: np.ndarray, goal: float, runs: float) -> float:
    """Complete runs until regret is at a goal or below; infinite if it never is."""
    there = np.flatnonzero(regrets <= goal)
    return float(spending(runs)[there[0]]) if len(there) else float("inf")


def mean_ranks(regrets: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of each method among all, by task and seed.

    Args:
        regrets: Area below the regret by method, `(tasks, seeds)`.

    Returns:
        Ranks by method, `(tasks, seeds)`; 1 is best, equals share.
    """
    ranks = rankdata(np.stack(list(regrets.values())), axis=0)
    return dict(zip(regrets, ranks, strict=True))


def paired_interval(differences: np.ndarray, seed: int = 0, draws: int = 10_000) -> tuple[float, float]:
    """Of the mean of paired differences: 95 % of means of tasks and seeds drawn again.

    Args:
        differences: `(tasks, seeds)`; tasks are drawn, and seeds within each.
        seed: Of the draws.
        draws: How many.

    Source: Davison & Hinkley 1997, "Bootstrap Methods and their Application", section 3.8, of levels.
    """
    rng = np.random.default_rng(seed)
    tasks, seeds = differences.shape
    chosen = rng.integers(tasks, size=(draws, tasks, 1))
    within = rng.integers(seeds, size=(draws, tasks, seeds))
    means = differences[chosen, within].mean(axis=(1, 2))
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def in_words(names: Sequence[str], ranks: Mapping[str, np.ndarray]) -> list[str]:
    """Methods by mean rank, each with how far it is from the first and in which interval that lies."""
    ordered = sorted(names, key=lambda name: ranks[name].mean())
    lines = []
    for name in ordered:
        low, high = paired_interval(ranks[name] - ranks[ordered[0]])
        lines.append(f"{name}: mean rank {ranks[name].mean():.2f}, behind the first by {low:.2f} to {high:.2f}")
    return lines
