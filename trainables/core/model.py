"""What a trainable tells the training core: parameters, a stacked loss, batches, an optimizer and a schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from trainables.base import HparamSpec, Split, TrainableError
from trainables.core.optim import UNIT, Optimizer, Scale
from trainables.core.rng import Draws, mix, normal, seed_word, site, uniform
from trainables.core.schedules import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter tensor of one member.

    Attributes:
        shape: Its shape, without the capacity dimension.
        mean: Mean of the distribution it starts from.
        std: Standard deviation of the normal distribution it starts from; 0 starts every element at `mean`.
        uniform: Where not 0, it starts from a uniform distribution in `[mean - uniform, mean + uniform)` instead.
        draw: Its initial value as a function of a `(1,)` int64 key, where no distribution above gives it.
        decay: Whether weight decay acts on it.
        scale: Multipliers of its learning rate, weight decay and eps, as a parametrization gives them.
    """

    shape: tuple[int, ...]
    mean: float = 0.0
    std: float = 0.0
    uniform: float = 0.0
    draw: Callable[[Tensor], Tensor] | None = None
    decay: bool = False
    scale: Scale = UNIT

    def initial(self, key: Tensor) -> Tensor:
        """The value that one member starts from, in float64 (`draw` decides for itself), by a `(1,)` key.

        Shapes are one member's, so that nothing depends on how many are stacked.
        """
        if self.draw is not None:
            return self.draw(key)
        size = math.prod(self.shape)
        if self.uniform:
            draws = self.uniform * (2.0 * uniform(key, size)[0] - 1.0)
        elif self.std:
            draws = self.std * normal(key, size)[0]
        else:
            return torch.full(self.shape, self.mean, dtype=torch.float64)
        return (self.mean + draws).view(self.shape)


def initial_values(parameters: Mapping[str, Parameter], seed: int) -> dict[str, Tensor]:
    """One member's initial parameters by name, drawn on the CPU: a function of its seed alone, on every device."""
    key = mix(torch.tensor([seed_word(seed)]))
    return {name: parameter.initial(mix(key + site(f"init.{name}"))) for name, parameter in parameters.items()}


_OF_TORCH = (
    "this optimizer is torch's own and runs eagerly only: training is slower than with a stacked one, such as adamw"
)
NO_HPARAMS: Mapping[str, Tensor] = MappingProxyType({})
#: One tensor, or a tuple of several such as (images, labels). In training `[K, B, ...]` each; B counts examples.
Batch: TypeAlias = Any
#: State of a model or a feed besides the parameters, `[K, *shape]` by name. To renew one, put a new tensor, outside the
#: graph, in its place.
Buffers: TypeAlias = dict[str, Tensor]


class Model(Protocol):
    """A stacked network. Member k's outputs must depend on row k of the inputs only.

    Computes in the dtype of its parameters, to which it casts floating inputs; losses and metrics in float32 or better.
    """

    def parameters(self) -> Mapping[str, Parameter]:
        """The parameters of one member by plain dotted name."""

    def buffers(self) -> Mapping[str, Tensor]:
        """What else belongs to one member's weights, such as running statistics: what each begins with, by name."""

    def loss(
        self,
        params: Mapping[str, Tensor],
        batch: Batch,
        hparams: Mapping[str, Tensor],
        draws: Draws,
        off: Collection[str] = (),
        buffers: Buffers | None = None,
    ) -> Tensor:
        """Training loss `(K,)`.

        Args:
            params: `[K, *shape]` by name.
            batch: What the feed gave.
            hparams: `(K,)` float64 by name; `[K, parts]` where a value has parts.
            draws: Source of every random number.
            off: Hyperparameters known to be without effect for every member (they are 0, or a batch size is all of
                the batch): what they switch may be left out, if the result is the same bit for bit.
            buffers: By name, to be read and renewed; None only if there are none.
        """

    def evaluate(self, params: Mapping[str, Tensor], batch: Batch, buffers: Buffers | None = None) -> dict[str, Tensor]:
        """Metrics `(K,)` by name: means over one evaluation batch, which has no member dimension."""


class Feed(Protocol):
    """Where batches come from."""

    def buffers(self) -> Mapping[str, Tensor]:
        """What says where one member is in its data, besides (seed, consumed): what each begins with, by name."""

    def batch(self, draws: Draws, hparams: Mapping[str, Tensor] = NO_HPARAMS, buffers: Buffers | None = None) -> Batch:
        """One training batch per member: a function of (seed, consumed), hyperparameters and buffers, to be renewed."""

    def evaluation(self, split: Split) -> Iterator[tuple[Batch, int]]:
        """Fixed batches of a split, the same for every member, each with its weight in the mean."""


def num_examples(batch: Batch) -> int:
    """How many examples each member has in a training batch."""
    first: Tensor = batch if isinstance(batch, Tensor) else batch[0]
    return first.shape[1]


def parts(batch: Batch, count: int) -> Sequence[Batch]:
    """A training batch as micro-batches of equal size."""
    if isinstance(batch, Tensor):
        return batch.chunk(count, dim=1)
    return list(zip(*(tensor.chunk(count, dim=1) for tensor in batch), strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Everything a stack needs to train one bucket.

    Attributes:
        model: The stacked network.
        feed: Its batches.
        optimizer: The update rule.
        schedule: The learning rate over a member's age.
        extra_hparams: What the model itself reads; with a `clip_norm` among them, gradients are clipped. With a
            `batch_size` among them, a member's loss is the mean over as many rows of its batch, the first ones: the
            model leaves out the others, see `trainables.core.batch_size`.
        accumulate: Micro-batches that each batch is split into, along its dimension 1 (the examples), to save memory:
            their gradients are averaged before clipping and the update. It divides the batch. The step is the same to
            rounding if the loss is a mean over examples that do not see each other, as batch norm lets them. From 2 on
            the gradient noise scale is measured (`trainables.core.noise`), which needs two batch sizes.
        noise_decay: Decay of the noise scale's moving averages by one step, in [0, 1).
        fresh: Initial parameters and buffers of one member by name, as a function of its seed, on the CPU; None where
            each starts from what the model says of it.
        eager: Why the model cannot be part of a compiled step; empty where it can.
    """

    model: Model
    feed: Feed
    optimizer: Optimizer
    schedule: Schedule
    extra_hparams: Mapping[str, HparamSpec]
    accumulate: int = 1
    noise_decay: float = 0.99
    fresh: Callable[[int], Mapping[str, Tensor]] | None = None
    eager: str = ""

    def __post_init__(self) -> None:
        """Refuse numbers that make no step."""
        if not isinstance(self.accumulate, int) or isinstance(self.accumulate, bool) or self.accumulate < 1:
            raise TrainableError(f"accumulate is {self.accumulate!r}; give a whole number >= 1")
        if not isinstance(self.noise_decay, int | float) or not 0.0 <= self.noise_decay < 1.0:
            raise TrainableError(f"noise_decay is {self.noise_decay!r}; give a number in [0, 1)")

    @property
    def uncompiled(self) -> str:
        """Why the step cannot be compiled, as a sentence; empty where it can."""
        return self.eager if self.optimizer.compiles else _OF_TORCH

    @property
    def step_metrics(self) -> tuple[str, ...]:
        """What a step reports for the mean over a run, in the order of `step.Tensors.totals`.

        `diverged` is 1 in a step whose loss or gradient norm is not finite. `grad_noise_trace` and `grad_sq_norm` are
        the moving averages that `noise_scale` is the ratio of; without micro-batches there is nothing to measure.
        """
        names = ("loss", "grad_norm", "lr", "diverged")
        return (*names, "grad_noise_trace", "grad_sq_norm") if self.accumulate > 1 else names

    @property
    def buffers(self) -> dict[str, Tensor]:
        """What one member's buffers begin with, those of the model and of the feed."""
        return {**self.model.buffers(), **self.feed.buffers()}

    @property
    def hparams(self) -> dict[str, HparamSpec]:
        """Every hyperparameter of a member, by name."""
        return {
            **self.optimizer.hparams,
            **self.schedule.hparams,
            **self.extra_hparams,
        }
