"""What strategies draw at random: each draw depends on the seed, what it is for, when and for whom, and on no other."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pbt.member import generator
from pbt.population.verdicts import Keep, Restart, Standing, Verdict
from pbt.strategy import Task


def donor_index(task: Task, generation: int, receiver: int, number: int) -> int:
    """Which of so many donors a member gets."""
    return int(generator(task.seed, "donor", generation, receiver).integers(number))


def restart(task: Task, generation: int, standing: Standing, reason: str = "") -> Restart:
    """Nobody is copied from: begin again, elsewhere in the space."""
    rng = generator(task.seed, "restart", generation, standing.member)
    return Restart(standing.member, task.space.sample(rng), int(rng.integers(2**62)), reason)


def all_again(task: Task, generation: int, ranking: Sequence[Standing]) -> list[Verdict]:
    """Where all diverged, all begin again.

    Returns:
        Nothing if somebody has not diverged.
    """
    is_over = all(math.isnan(standing.score) for standing in ranking)
    return [restart(task, generation, standing) for standing in ranking] if is_over else []


def without_donors(task: Task, generation: int, ranking: Sequence[Standing]) -> list[Verdict]:
    """What becomes of those that have nobody to copy from: where all diverged all begin again; one alone goes on.

    Returns:
        Nothing if there is somebody to copy from.
    """
    if verdicts := all_again(task, generation, ranking):
        return verdicts
    return [Keep(ranking[0].member, "there is nobody to copy from")] if len(ranking) == 1 else []
