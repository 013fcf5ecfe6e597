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
from trainables.core.model import Batch, Buffers
from trainables.core.stack import CoreStack
from trainables.errors import TrainableError

Size = TypeVar("Size", bound=Hashable)


@runtime_checkable
class Observed(Protocol):
    """A `trainables.core.model.Model` that shows what is inside."""

    def activations(
        self, params: Mapping[str, Tensor], batch: Batch, buffers: Buffers | None = None
    ) -> Mapping[str, Tensor]:
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


def final_changes(found: Mapping[Size, Mapping[str, Coordinates]]) -> dict[str, np.ndarray]:
    """How far each layer has moved after the last step, `(sizes,)`, of the layers that all sizes have.

    Where sizes differ in depth, the last of numbered layers stand for all, with `last` for their number: what the
    fourth block of eight adds to is not what the fourth of four does.
    """
    layers_of = list(found.values())
    if any(layers.keys() != layers_of[0].keys() for layers in layers_of):
        layers_of = [_last_of_numbered(layers) for layers in layers_of]
    first, *others = layers_of
    shared = [name for name in first if all(name in layers for layers in others)]
    return {name: np.array([layers[name].change[-1] for layers in layers_of]) for name in shared}


def _last_of_numbered(layers: Mapping[str, Coordinates]) -> dict[str, Coordinates]:
    """Layers without a number, and those whose every number is the highest of its kind: `blocks.3.mlp` of four."""
    highest: dict[str, int] = {}
    for name in layers:
        for kind, number in _numbers(name):
            highest[kind] = max(number, highest.get(kind, 0))
    found = {}
    for name, layer in layers.items():
        if all(number == highest[kind] for kind, number in _numbers(name)):
            found[".".join("last" if part.isdigit() else part for part in name.split("."))] = layer
    return found


def _numbers(name: str) -> list[tuple[str, int]]:
    """The numbers in a dotted name, each with what stands before it."""
    parts = name.split(".")
    return [(".".join(parts[:i]), int(part)) for i, part in enumerate(parts) if part.isdigit()]


def growth(sizes: Sequence[int], changes: np.ndarray) -> float:
    """By what factor a change grows with each doubling of the size: 1 where size does not matter.

    It is 2 to the power of the slope of log(change) over log(size), by least squares: what a few sizes have in common,
    where the ratio of two would have the noise of both.

    Args:
        sizes: At least two, all different.
        changes: One for each.

    Returns:
        The factor, or NaN where something did not move at all or is not finite.
    """
    changes = np.asarray(changes, dtype=np.float64)
    if not (np.isfinite(changes) & (changes > 0)).all():
        return float("nan")
    x, y = np.log2(np.asarray(sizes, dtype=np.float64)), np.log2(changes)
    return float(2.0 ** (((x - x.mean()) * (y - y.mean())).sum() / np.square(x - x.mean()).sum()))


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


def _activations(stack: CoreStack, batch: Batch) -> dict[str, Tensor]:
    model = stack.program.model
    assert isinstance(model, Observed)
    return {name: value.double() for name, value in model.activations(stack.params, batch, stack.buffers).items()}
