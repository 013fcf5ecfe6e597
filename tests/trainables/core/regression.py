"""Regression on drawn examples: a linear model whose gradients have known moments, and a small network."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainables.base import HparamSpec, Place
from trainables.core import ops
from trainables.core.model import Model, Parameter, Program
from trainables.core.optim import CLIP_NORM, SGD
from trainables.core.rng import Draws, normal, site
from trainables.core.schedules import Constant
from trainables.core.stack import CoreStack

INPUTS = 5
SIGMA = 0.5


@dataclass(frozen=True)
class Drawn:
    """Inputs x ~ N(0, I) and targets `SIGMA e`, e ~ N(0, 1), so that the best linear weights are 0.

    Batches are `[K, B, INPUTS + 1]`, the target last.
    """

    batch_size: int

    def buffers(self):
        return {}

    def batch(self, draws: Draws, hparams=None, buffers=None) -> Tensor:
        numbers = normal(draws.key(site("examples")), self.batch_size * (INPUTS + 1))
        examples = numbers.view(-1, self.batch_size, INPUTS + 1)
        return torch.cat([examples[..., :INPUTS], SIGMA * examples[..., INPUTS:]], dim=-1)

    def evaluation(self, split) -> Iterator[tuple[Tensor, int]]:
        yield torch.empty(0), 1


@dataclass(frozen=True)
class Linear:
    """Half the squared error of `x w`, `w` starting at `(1, ..., 1) * start`."""

    start: float = 0.4

    def parameters(self):
        return {"w": Parameter(shape=(INPUTS,), mean=self.start)}

    def buffers(self):
        return {}

    def loss(self, params, batch, hparams, draws, off: Collection[str] = (), buffers=None) -> Tensor:
        error = torch.einsum("kbi,ki->kb", batch[..., :INPUTS], params["w"]) - batch[..., INPUTS]
        return error.square().mean(1) / 2

    def evaluate(self, params, batch, buffers=None) -> dict[str, Tensor]:
        return {}


@dataclass(frozen=True)
class Network:
    """One hidden layer of 7 with dropout: an odd number, so that micro-batches begin anywhere in a word of the mask."""

    def parameters(self):
        return {"up": Parameter(shape=(7, INPUTS), std=0.5), "down": Parameter(shape=(1, 7), std=0.5)}

    def buffers(self):
        return {}

    def loss(self, params, batch, hparams, draws, off: Collection[str] = (), buffers=None) -> Tensor:
        hidden = ops.linear(batch[..., :INPUTS], params["up"]).tanh()
        hidden = ops.dropout(hidden, hparams["dropout"], draws, site("hidden"))
        error = ops.linear(hidden, params["down"]).squeeze(-1) - batch[..., INPUTS]
        return error.square().mean(1) / 2

    def evaluate(self, params, batch, buffers=None) -> dict[str, Tensor]:
        return {}


def program(model: Model, batch_size: int, accumulate: int, noise_decay: float = 0.99) -> Program:
    """Trained by plain SGD, clipped."""
    return Program(
        model=model,
        feed=Drawn(batch_size),
        optimizer=SGD(lr=0.1, decay=None),
        schedule=Constant(),
        extra_hparams={"dropout": HparamSpec(kind="live", default=0.0, low=0.0, high=0.9), "clip_norm": CLIP_NORM},
        accumulate=accumulate,
        noise_decay=noise_decay,
    )


def stack(program: Program, hparams: Sequence[dict[str, Any]], place: Place | None = None) -> CoreStack:
    """Member i in slot i, with seed i."""
    made = CoreStack(program, len(hparams), place or Place(dtype="float64", compile="never"))
    for slot, values in enumerate(hparams):
        made.admit(slot, values, seed=slot)
    return made
