"""What is known before anything is tried: runs that were recorded, and a guess of the user's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pbt.member import Hparams
from pbt.search.chart import Chart
from pbt.search.policy import Ladder
from searchspaces import Space

#: A value counts as seen on a rung if its steps are within this factor.
_NEAR = 1.3
#: Draws around a guess are so far from it, on the scale of a hyperparameter, where its bounds are 1 apart.
_SPREAD = 0.15


@dataclass(frozen=True, slots=True)
class Earlier:
    """A run that was recorded.

    Attributes:
        hparams: With which hyperparameters.
        curve: After how many steps of the target it had come to what, low being good; infinite where it diverged.
        reach: From which rung to which it can be compared: models of other sizes are trained to others.
    """

    hparams: Hparams
    curve: tuple[tuple[float, float], ...]
    reach: tuple[float, float] = (0.0, math.inf)

    def on(self, ladder: Ladder) -> Iterator[tuple[float, float]]:
        """What it was worth on the rungs at which it was looked at, or nearly."""
        for rung in (it for it in ladder.rungs if self.reach[0] <= it <= self.reach[1]):
            near = [(abs(math.log(steps / rung)), badness) for steps, badness in self.curve]
            far, badness = min(near, default=(math.inf, math.nan))
            if far <= math.log(_NEAR):
                yield rung, badness


@dataclass(frozen=True)
class Guess:
    """Where the best may lie.

    Half of what is drawn is drawn around it.

    Source: Mallik et al. 2023, "PriorBand: Practical Hyperparameter Optimization in the Age of Deep Learning" (arXiv
    2306.12370), of drawing around what an expert believes as well as at random.

    Attributes:
        hparams: Of some or all hyperparameters.
    """

    hparams: Mapping[str, Any] = field(default_factory=dict)

    def sample(self, space: Space, rng: np.random.Generator, given: Hparams, is_first: bool) -> Hparams:
        """A configuration with the given values; the first of all is the guess itself."""
        drawn = space.sample(rng, given)
        is_near = rng.random() < 0.5
        guessed = {name: value for name, value in self.hparams.items() if name in space and name not in given}
        if not guessed or not (is_near or is_first):
            return drawn
        chart = Chart(space, given)
        place = chart.encode(space.sample(rng, {**guessed, **given}))
        if not is_first:
            place = place + chart.columns(guessed) * rng.normal(0.0, _SPREAD, len(place))
        return chart.decode(place)
