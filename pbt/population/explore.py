"""How hyperparameters are changed where weights are taken over."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pbt.member import Hparams, generator
from pbt.spec import is_number, require
from pbt.strategy import Task


def check_explore(factors: object, resample_probability: object) -> None:
    """Refuse perturbation factors and probabilities that are none.

    Raises:
        SpecError: They are none.
    """
    require(
        isinstance(factors, list | tuple)
        and len(factors) == 2
        and all(is_number(factor) and 0 < factor < math.inf for factor in factors),
        "strategy.options.factors",
        f"{list(factors) if isinstance(factors, tuple) else factors!r} are not two positive numbers",
        "Write [0.8, 1.2]",
    )
    require(
        is_number(resample_probability) and 0 <= resample_probability <= 1,
        "strategy.options.resample_probability",
        f"{resample_probability!r} is not a probability",
        "Write a number from 0 to 1",
    )


def perturbed(
    task: Task, generation: int, member: int, hparams: Hparams, factors: Sequence[float], resample_probability: float
) -> Hparams:
    """A neighbour of a point of the space, for a member that takes over weights at the end of a generation.

    What weights are made for is as in the point.
    """
    rng = generator(task.seed, "explore", generation, member)
    return task.space.perturb(hparams, rng, factors, resample_probability, keep=task.structural)


def resampled(task: Task, generation: int, member: int, donor: Hparams) -> Hparams:
    """Any point of the space that a donor's weights can go on with, for such a member."""
    return task.space.sample(generator(task.seed, "explore", generation, member), carried(task, donor))


def carried(task: Task, donor: Hparams) -> Hparams:
    """What a donor's weights are made for, and bring with them."""
    return {name: donor[name] for name in task.structural if name in donor}


def fitted(task: Task, generation: int, member: int, hparams: Hparams, donor: Hparams) -> Hparams:
    """A point as it is where a donor's weights can go on with it; else with what these bring, and what that needs."""
    if carried(task, hparams) == carried(task, donor):
        return hparams
    rng = generator(task.seed, "fit", generation, member)
    return task.space.sample(rng, {**hparams, **carried(task, donor)})
