"""What a population has seen so far: what each segment of training brought, and what had been expected of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pbt.member import Hparams
from pbt.population.verdicts import Standing
from pbt.strategy import Task, badness

#: Of a normal distribution, 80 % lie within so many standard deviations.
_EIGHTY = 1.2815515655446004
#: Predictions are judged from so many on, and by the last so many, or of two generations if these are more.
_FEW, _LAST = 10, 20


@dataclass(frozen=True, slots=True)
class Observation:
    """One segment of training.

    Attributes:
        generation: That it belonged to.
        time: Age of the weights when it began, in segments.
        before: Their score then.
        gain: By how much it became better, negative if worse; None if the weights diverged.
        hparams: What it was trained with.
    """

    generation: int
    time: float
    before: float
    gain: float | None
    hparams: Hparams


class Experience:
    """A memory of segments, the latest so many.

    Args:
        capacity: How many.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self.observations: list[Observation] = []
        #: Mean and standard deviation of the gain that each member is to report next.
        self._expected: dict[int, tuple[float, float]] = {}
        #: What came, less what was expected, in standard deviations.
        self._residuals: list[float] = []

    def observe(self, task: Task, generation: int, ranking: Sequence[Standing]) -> None:
        """Note what a generation brought.

        Of weights that nobody has scored before it is not known: of those that are new, and in the first generation.
        """
        for standing in sorted(ranking, key=lambda it: it.member):
            seen = _observation(task, generation, standing)
            if seen is None:
                continue
            self.observations.append(seen)
            if seen.gain is not None and standing.member in self._expected:
                mean, deviation = self._expected[standing.member]
                self._residuals.append((seen.gain - mean) / deviation)
        self._expected = {}
        self.observations = self.observations[-self._capacity :]
        self._residuals = self._residuals[-max(_LAST, 2 * len(ranking)) :]

    def expect(self, member: int, mean: float, deviation: float) -> None:
        """Note what a member's next segment is expected to bring, the noise in it included."""
        if deviation > 0:  # or no gain could be held against it
            self._expected[member] = (mean, deviation)

    def doubt(self) -> str | None:
        """Why expectations are not to be trusted; None if they may be.

        Segments of one generation have much in common, so that only gross errors count: fewer than half where 80 % are
        due. That expectations are too cautious is no reason.
        """
        number = len(self._residuals)
        inside = sum(abs(it) <= _EIGHTY for it in self._residuals)
        if number < _FEW or 2 * inside >= number:
            return None
        return f"of the last {number} gains {inside} were in the 80 % interval that was predicted"

    def snapshot(self) -> dict[str, Any]:
        """The whole memory as JSON-able data."""
        return {
            "observations": [{**asdict(it), "hparams": dict(it.hparams)} for it in self.observations],
            "expected": [[member, *pair] for member, pair in self._expected.items()],
            "residuals": list(self._residuals),
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Become the memory that gave the snapshot."""
        self.observations = [Observation(**it) for it in snapshot["observations"]]
        self._expected = {member: (mean, deviation) for member, mean, deviation in snapshot["expected"]}
        self._residuals = list(snapshot["residuals"])


def _observation(task: Task, generation: int, standing: Standing) -> Observation | None:
    if len(standing.recent) < 2:
        return None
    (age, before), (_, after) = standing.recent[-2:]
    gain = badness(before, task.mode) - badness(after, task.mode)
    is_lost = badness(after, task.mode) == math.inf
    if not math.isfinite(before) or not (is_lost or math.isfinite(gain)):
        return None
    return Observation(generation, age / task.budget.steps, before, None if is_lost else gain, standing.hparams)


def filled(gains: Sequence[float | None]) -> list[float]:
    """Gains, with the worst of all in place of those of weights that diverged; 0 where all did.

    Left out, they would leave the very places unknown that are to be avoided.
    """
    worst = min((it for it in gains if it is not None), default=0.0)
    return [worst if it is None else it for it in gains]
