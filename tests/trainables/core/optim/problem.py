"""A small problem that keeps every optimizer moving, and stacks that train on it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.contracts.states import assert_close, assert_same, finite
from trainables.base import HparamSpec, Place
from trainables.core.model import Parameter, Program
from trainables.core.optim import Optimizer
from trainables.core.schedules import Constant
from trainables.core.stack import CoreStack

K = 3
#: Weight decay acts on `weight` and on `gate`, which begins at zero: a norm of 0.
PARAMETERS = {
    "weight": Parameter(shape=(4, 3), std=1.0, decay=True),
    "bias": Parameter(shape=(4,), std=1.0),
    "gate": Parameter(shape=(2, 5), decay=True),
}
DECAYED = {name for name, parameter in PARAMETERS.items() if parameter.decay}


def gradient(x: Any, consumed: int) -> Any:
    """Of the loss below, elementwise, at a member's step `consumed`, from 0."""
    sin = torch.sin if isinstance(x, Tensor) else np.sin
    return x + 0.6 * sin(3.0 * x) + push(consumed)


def push(consumed: Any) -> Any:
    """What keeps gradients from vanishing, where Adam and its kin run into chaos and rounding grows to any size."""
    return torch.cos(0.7 * consumed.double()) if isinstance(consumed, Tensor) else math.cos(0.7 * consumed)


@dataclass(frozen=True)
class Bumpy:
    """`x^2 / 2 - 1/5 cos(3 x) + push x`, summed over all elements; `scale` multiplies a member's loss."""

    def parameters(self) -> Mapping[str, Parameter]:
        return PARAMETERS

    def buffers(self):
        return {}

    def loss(self, params, batch, hparams, draws, off: Collection[str] = (), buffers=None) -> Tensor:
        pushes = push(draws.consumed)
        total = torch.zeros_like(pushes)
        for x in params.values():
            flat = x.flatten(1).double()
            total = total + (flat**2 / 2 - 0.2 * torch.cos(3 * flat) + pushes[:, None] * flat).sum(1)
        return total * hparams["scale"]

    def evaluate(self, params, batch, buffers=None) -> dict[str, Tensor]:
        return {}


class NoData:
    """Nothing to read."""

    def buffers(self):
        return {}

    def batch(self, draws, hparams=None, buffers=None) -> Tensor:
        return draws.seed

    def evaluation(self, split) -> Iterator[tuple[Tensor, int]]:
        yield torch.empty(0), 1


def stack(optimizer: Optimizer, hparams: Sequence[Mapping[str, Any]], place: Place | None = None) -> CoreStack:
    """Member i in slot i, with seed i."""
    program = Program(
        model=Bumpy(),
        feed=NoData(),
        optimizer=optimizer,
        schedule=Constant(),
        extra_hparams={"scale": HparamSpec(kind="live", default=1.0)},
    )
    made = CoreStack(program, len(hparams), place or Place(dtype="float64", compile="never"))
    for slot, values in enumerate(hparams):
        made.admit(slot, values, seed=slot)
    return made


def weights(made: CoreStack, slot: int) -> dict[str, Tensor]:
    """A member's parameters by name."""
    prefix = "params."
    shards = made.state(slot).shards
    return {s.name.removeprefix(prefix): s.tensor for s in shards if s.name.startswith(prefix)}


def check_nan_stays(optimizer: Optimizer, hparams: Sequence[Mapping[str, Any]], bad: float) -> None:
    """NaN or infinite weights and state of the member in slot 1 change no bit of the others."""
    calm, poisoned = (stack(optimizer, hparams, Place(compile="never")) for _ in range(2))
    state = poisoned.state(1)
    for shard in state.shards:
        if shard.tensor.is_floating_point():
            shard.tensor.fill_(bad)
    poisoned.admit(1, hparams[1], seed=1, state=state)
    for members in (calm, poisoned):
        members.run([5] * K)
    for slot in (0, 2):
        assert_same(calm.state(slot), poisoned.state(slot))
    assert not finite(poisoned.state(1))


def check_slot_does_not_matter(optimizer: Optimizer, hparams: Sequence[Mapping[str, Any]]) -> None:
    """A member trains the same in whatever slot it sits, to rounding."""
    straight, turned = stack(optimizer, hparams), stack(optimizer, hparams)
    for slot, member in enumerate((2, 0, 1)):
        turned.admit(slot, hparams[member], seed=member)
    for members in (straight, turned):
        members.run([20] * K)
    for slot, member in enumerate((2, 0, 1)):
        assert_close(straight.state(member), turned.state(slot), 1e-12)
