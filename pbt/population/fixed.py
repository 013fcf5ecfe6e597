"""The baseline: the same initial population, every member keeping its hyperparameters to the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pbt.member import Hparams
from pbt.population.evolution import Evolution
from pbt.population.roster import check_initial
from pbt.population.rounds import Rounds
from pbt.strategy import Strategy, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """Options of the baseline.

    With the same seed, space and budget as a `PBT` sweep it trains the very same initial configurations for the same
    number of member-steps: its best member is the best *fixed* configuration of that population.

    Attributes:
        initial: Hyperparameters of the first members; the others are sampled from the space.
    """

    initial: Sequence[Hparams] = ()

    def __post_init__(self) -> None:
        """Refuse initial configurations that are none."""
        check_initial(self.initial)

    @property
    def synchronous(self) -> bool:
        """Members train in generations, though nothing is decided between them."""
        return True

    def begin(self, task: Task) -> Strategy:
        """Start on a task."""
        return Evolution(task, Rounds(), self.initial)
