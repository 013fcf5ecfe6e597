"""A process for each rung, and what they say together: each counts for how well it ranks what came furthest.

No model is made of how rungs hang together. A process of the lowest rung has seen most, and may be wrong about the
target; how wrong is told by pairs of runs on the highest rung that has some: the share of them that a process puts in
the right order. That rung's own process is judged by what it says of each of its values from all others.

Sources: Li, Y. et al. 2021, "MFES-HB: Efficient Hyperband with Multi-Fidelity Quality Measurements" (arXiv 2012.03011),
section 4: weights in proportion to a power of that share, and a product of experts; Feurer et al. 2018, "Practical
Transfer Learning for Bayesian Optimization" (RGPE, arXiv 1802.02219), of leaving one out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from pbt.surrogates.curves import NOBODY, Curves, Values, evened, fit, with_parameters

#: The power of the share of pairs in order.
_POWER = 3.0
#: A rung has a process of its own from so many values on; and it can judge others from so many on.
FEWEST, _JUDGES = 4, 4


@dataclass(frozen=True)
class Ensemble:
    """Processes of rungs, and what each counts for.

    Attributes:
        members: The processes, of values evened rung by rung.
        weights: Of each; they sum to 1, `(members,)`.
    """

    members: Sequence[Curves]
    weights: np.ndarray

    def predict(self, cube: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is expected of places, and how sure that is, `(places,)` each.

        A generalised product of experts: precisions add up, each times its weight.
        """
        precision, weighed = np.zeros(len(cube)), np.zeros(len(cube))
        for model, weight in zip(self.members, self.weights, strict=True):
            mean, deviation = model.predict(np.full(len(cube), NOBODY), np.zeros(len(cube)), cube)
            own = weight / np.square(deviation)
            precision, weighed = precision + own, weighed + own * mean
        return weighed / precision, 1.0 / np.sqrt(precision)

    def with_pending(self, cube: np.ndarray) -> Ensemble:
        """The ensemble once places `(places, numbers)` will have been seen, at what each process expects of them."""
        at = np.full(len(cube), NOBODY), np.zeros(len(cube)), cube
        return replace(self, members=[model.with_pending(*at) for model in self.members])


def rungs_of(values: Values) -> list[Values]:
    """The values of each rung that has enough of them, from the lowest rung on, all as if at the target."""
    found = []
    for depth in np.unique(values.depth)[::-1]:
        here = values.depth == depth
        if here.sum() >= FEWEST and np.isfinite(values.badness[here]).any():
            found.append(
                Values(values.run[here], np.zeros(here.sum()), values.cube[here], values.badness[here]),
            )
    return found


def ensemble(rungs: Sequence[Values], parameters: Callable[[int], Mapping[str, Tensor]]) -> Ensemble:
    """Processes of rungs, weighed by how they rank the values of the last.

    Args:
        rungs: At least one; see `rungs_of`.
        parameters: Of the process of a rung, given its number.
    """
    members = [with_parameters(it, evened(it.badness), parameters(number)) for number, it in enumerate(rungs)]
    judge = rungs[-1]
    if len(judge) < _JUDGES or len(members) == 1:
        return Ensemble(members, np.full(len(members), 1.0 / len(members)))
    finite = np.where(np.isfinite(judge.badness), judge.badness, np.inf)
    shares = []
    for number, model in enumerate(members):
        at = np.full(len(judge), NOBODY), np.zeros(len(judge)), judge.cube
        expected = model.left_out() if number == len(members) - 1 else model.predict(*at)[0]
        shares.append(in_order(expected, finite))
    weights = np.array(shares) ** _POWER
    return Ensemble(members, weights / weights.sum() if weights.sum() > 0 else np.full(len(members), 1 / len(members)))


def found_parameters(values: Values) -> Mapping[str, Any]:
    """Those of the process of one rung."""
    return fit(values, evened(values.badness)).parameters


def in_order(expected: np.ndarray, seen: np.ndarray) -> float:
    """The share of pairs that are expected in the order in which they were seen; of equals none counts."""
    differs = seen[:, None] < seen[None, :]
    right = expected[:, None] < expected[None, :]
    return float((differs & right).sum() / max(1, differs.sum()))
