"""What strategies draw at random: each draw depends on the seed, what it is for, when and for whom, and on no other."""

from __future__ import annotations

from pbt.member import generator
from pbt.population.verdicts import Restart, Standing
from pbt.strategy import Task


def donor_index(task: Task, generation: int, receiver: int, number: int) -> int:
    """Which of so many donors a member gets."""
    return int(generator(task.seed, "donor", generation, receiver).integers(number))


def restart(task: Task, generation: int, standing: Standing, reason: str = "") -> Restart:
    """Nobody is copied from: begin again, elsewhere in the space."""
    rng = generator(task.seed, "restart", generation, standing.member)
    return Restart(standing.member, task.space.sample(rng), int(rng.integers(2**62)), reason)
