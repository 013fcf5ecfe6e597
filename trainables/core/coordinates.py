"""Coordinate check: do activations keep their size, and move alike, whatever the width and depth?

A parametrization is right if, after some steps of training, the change of every layer's activations neither grows nor
vanishes with size. It shows in a few steps of small models, long before losses do.

Source: Yang et al. 2022 (arXiv 2203.03466), appendix D.1.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from trainables.base import Hparams, Place, Trainable
from trainables.core.stack import CoreStack
from trainables.errors import TrainableError

Size = TypeVar("Size", bound=Hashable)


@runtime_checkable
class Observed(Protocol):
    """A `trainables.core.model.Model` that shows what is inside."""

    def activations(self, params: Mapping[str, Tensor], batch: Tensor) -> Mapping[str, Tensor]:
        """Activations by layer, `[K, ...]` each, for an evaluation batch, without dropout; names as in parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coordinates:
    """What one layer's activations do; means of absolute values over coordinates, positions and seeds.

    Attributes:
        size: `(steps + 1,)` mean absolute activation, before the first step and after each.
        change: `(steps + 1,)` mean absolute difference from the activation before the first step; 0 at first.
    """

    size: np.ndarray
    change: np.ndarray


@torch.no_grad()
def coordinates(
    trainables: Mapping[Size, Trainable],
    hparams: Hparams,
    *,
    steps: int = 4,
    seeds: Sequence[int] = (0,),
    place: Place | None = None,
) -> dict[Size, dict[str, Coordinates]]:
    """Train a few steps at several sizes and watch the activations of one fixed batch of the validation split.

    Args:
        trainables: What to train, by size: a width, a depth, or both.
        hparams: Hyperparameters, the same for all, as if tuned at the base.
        steps: Steps to train.
        seeds: Seeds to average over, the members of a stack.
        place: Where to train; eager on the CPU in float64 if None.

    Returns:
        By size and by layer.

    Raises:
        TrainableError: A trainable is not one of this core, or its model has no `activations`.
    """
    place = place or Place(dtype="float64", compile="never")
    return {size: _watched(trainable, hparams, steps, seeds, place) for size, trainable in trainables.items()}


def drifts(found: Mapping[Size, Mapping[str, Coordinates]]) -> dict[str, np.ndarray]:
    """How many times as far each layer moved at each size as at the first, after the last step.

    Args:
        found: By size and by layer, as `coordinates` gives them.

    Returns:
        By layer, of those that all sizes have, `(sizes,)`: 1 at first, and 1 everywhere where size does not matter.
        Not finite where a layer did not move at the first size, or a size diverged.
    """
    first, *others = found.values()
    shared = [name for name in first if all(name in layers for layers in others)]
    changes = {name: np.array([layers[name].change[-1] for layers in found.values()]) for name in shared}
    with np.errstate(divide="ignore", invalid="ignore"):
        return {name: change / change[0] for name, change in changes.items()}


def _watched(
    trainable: Trainable, hparams: Hparams, steps: int, seeds: Sequence[int], place: Place
) -> dict[str, Coordinates]:
    stack = trainable.build(trainable.bucket(hparams), len(seeds), place)
    if not isinstance(stack, CoreStack) or not isinstance(stack.program.model, Observed):
        raise TrainableError(f"{type(trainable).__name__} has no activations to watch; give its model `activations`")
    for slot, seed in enumerate(seeds):
        stack.admit(slot, hparams, seed=seed)
    batch, _ = next(iter(stack.program.feed.evaluation("validation")))
    first = _activations(stack, batch)
    sizes: dict[str, list[float]] = {name: [] for name in first}
    changes: dict[str, list[float]] = {name: [] for name in first}
    for step in range(steps + 1):
        stack.run([step] * len(seeds))
        for name, now in _activations(stack, batch).items():
            sizes[name].append(float(now.abs().mean()))
            changes[name].append(float((now - first[name]).abs().mean()))
    return {name: Coordinates(size=np.array(sizes[name]), change=np.array(changes[name])) for name in first}


def _activations(stack: CoreStack, batch: Tensor) -> dict[str, Tensor]:
    model = stack.program.model
    assert isinstance(model, Observed)
    return {name: value.double() for name, value in model.activations(stack.params, batch).items()}
