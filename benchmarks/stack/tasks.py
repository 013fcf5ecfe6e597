"""What is trained: small tasks, each as a trainable of the core and as plain torch.

Both sides of a task hold the same model, draw batches of the same size from the same data on the device, and follow
one recipe (`plain.HPARAMS`). `tests/benchmarks/test_stack.py` holds them to the same losses and parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor, nn

from benchmarks.stack import plain
from trainables import Language
from trainables.base import Capabilities, Hparams, MetricSpec, Place, Split, Stack, Trainable
from trainables.core import ops, schedules
from trainables.core.data import TokenFeed
from trainables.core.model import NO_HPARAMS, Buffers, Parameter, Program
from trainables.core.modules import StackedModule, stack_module
from trainables.core.optim import CLIP_NORM, ready
from trainables.core.rng import Draws, below, site
from trainables.core.stack import CoreStack

_ORDER = site("data.order")


class Task(Protocol):
    """One task, told in both ways."""

    def trainable(self) -> Trainable:
        """For the core."""

    def module(self) -> nn.Module:
        """One member in plain torch, inputs to logits `[N, classes]`."""

    def source(self, device: torch.device, dtype: torch.dtype) -> plain.Source:
        """Its data in plain torch."""

    def core_name(self, name: str) -> str:
        """What the core calls a parameter of `module`."""


# ---------------------------------------------------------------------------------------------------------- images


@dataclass(frozen=True, kw_only=True)
class Images:
    """Classify images of ten classes by a plain network; a `Task`, and the `Trainable` of it.

    Attributes:
        network: Makes the network, which the core stacks.
        shape: Of one image as the network takes it.
        num: Images to draw from.
        batch_size: Of one step.
    """

    network: Callable[[], nn.Module]
    shape: tuple[int, ...]
    num: int
    batch_size: int = 8

    def trainable(self) -> Trainable:
        """Itself."""
        return self

    def module(self) -> nn.Module:
        """The network."""
        return self.network()

    def source(self, device: torch.device, dtype: torch.dtype) -> plain.Source:
        """The same images and labels."""
        images, labels = _images(self.shape, self.num)
        return plain.Images(images.to(device, dtype), labels.to(device), self.batch_size)

    def core_name(self, name: str) -> str:
        """The same."""
        return name

    def describe(self) -> Capabilities:
        """`loss`."""
        metrics = {"loss": MetricSpec(mode="min", unit="nat")}
        hparams = self._program(torch.device("cpu")).hparams
        return Capabilities(metrics=metrics, hparams=hparams, tokens_per_step=self.batch_size, rng="splitmix64 v1")

    def bucket(self, hparams: Hparams) -> str:
        """The only one."""
        return "images"

    def build(self, bucket: str, capacity: int, place: Place) -> Stack:
        """Build an empty stack."""
        return CoreStack(self._program(torch.device(place.device)), capacity, place)

    def _program(self, device: torch.device) -> Program:
        images, labels = _images(self.shape, self.num)
        return Program(
            model=Classifier(_stacked(self.network)),
            feed=ImageFeed(images.to(device), labels.to(device), self.batch_size),
            optimizer=ready("adamw"),
            schedule=schedules.build("cosine", schedules.Setting(batch_size=self.batch_size)),
            extra_hparams={"clip_norm": replace(CLIP_NORM, default=plain.HPARAMS["clip_norm"])},
        )


@cache
def _images(shape: tuple[int, ...], num: int) -> tuple[Tensor, Tensor]:
    """Images float32 `[num, *shape]`, each its class's pattern and as much noise again, and labels."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randn(10, *shape, generator=generator)
    labels = torch.randint(10, (num,), generator=generator)
    return patterns[labels] + torch.randn(num, *shape, generator=generator), labels


@cache
def _stacked(network: Callable[[], nn.Module]) -> StackedModule:
    """One for all stacks, which so share their graphs."""
    return stack_module(network())


@dataclass(frozen=True, eq=False)
class ImageFeed:
    """Batches of images and labels, drawn by a hash of (seed, consumed); a `trainables.core.model.Feed`."""

    images: Tensor
    labels: Tensor
    batch_size: int

    def buffers(self) -> Mapping[str, Tensor]:
        """None."""
        return {}

    def drawn(self, draws: Draws) -> Tensor:
        """Indices of the images that each member takes, `(K, B)`."""
        return below(draws.key(_ORDER), self.batch_size, len(self.images))

    def batch(
        self, draws: Draws, hparams: Mapping[str, Tensor] = NO_HPARAMS, buffers: Buffers | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images `[K, B, *shape]` and labels `(K, B)`."""
        index = self.drawn(draws)
        return self.images[index], self.labels[index]

    def evaluation(self, split: Split) -> Iterator[tuple[tuple[Tensor, Tensor], int]]:
        """The first images, whatever the split: nobody is judged here."""
        num = min(64, len(self.images))
        yield (self.images[:num], self.labels[:num]), num


@dataclass(frozen=True)
class Classifier:
    """A stacked network under cross entropy; a `trainables.core.model.Model`."""

    network: StackedModule

    def parameters(self) -> Mapping[str, Parameter]:
        """The network's."""
        return self.network.parameters

    def buffers(self) -> Mapping[str, Tensor]:
        """The network's."""
        return self.network.buffers

    def loss(
        self,
        params: Mapping[str, Tensor],
        batch: tuple[Tensor, Tensor],
        hparams: Mapping[str, Tensor],
        draws: Draws,
        off: Collection[str] = (),
        buffers: Buffers | None = None,
    ) -> Tensor:
        """Mean cross entropy in nats, `(K,)`."""
        images, labels = batch
        logits, _ = self.network(params, images.to(next(iter(params.values())).dtype))
        return ops.cross_entropy(logits, labels)

    def evaluate(
        self, params: Mapping[str, Tensor], batch: tuple[Tensor, Tensor], buffers: Buffers | None = None
    ) -> dict[str, Tensor]:
        """`loss`."""
        num_members = len(next(iter(params.values())))
        images, labels = (tensor.expand(num_members, *tensor.shape) for tensor in batch)
        return {"loss": self.loss(params, (images, labels), NO_HPARAMS, Draws(labels, labels))}


# ---------------------------------------------------------------------------------------------------------- language


@dataclass(frozen=True, kw_only=True)
class Bytes:
    """Language modelling: the ready trainable against a decoder in plain torch; a `Task`."""

    language: Language

    def trainable(self) -> Trainable:
        """The ready one."""
        return self.language

    def module(self) -> nn.Module:
        """The plain decoder."""
        own = self.language
        return plain.Decoder(own.width, own.depth, own.heads, own.context)

    def source(self, device: torch.device, dtype: torch.dtype) -> plain.Source:
        """The same text."""
        return plain.Text(_text(self.language, device), self.language.context, self.language.batch)

    def core_name(self, name: str) -> str:
        """Without the `weight` of torch's layers."""
        return name.removesuffix(".weight")


@cache
def _text(language: Language, device: torch.device) -> Tensor:
    """The training split as the trainable reads it, uint8."""
    stack = language.build(language.bucket({}), 1, Place(device=str(device), compile="never"))
    assert isinstance(stack, CoreStack)
    assert isinstance(stack.program.feed, TokenFeed)
    return stack.program.feed.tokens["train"]


def _lm(width: int, *, depth: int = 2, heads: int = 2, context: int = 128, batch: int = 8) -> Bytes:
    return Bytes(language=Language(width=width, depth=depth, heads=heads, context=context, batch=batch))


def _conv8() -> nn.Module:
    return plain.conv(1, 8, 16)


def _conv32() -> nn.Module:
    return plain.conv(3, 16, 32, 32)


#: Tasks by name. The larger ones are for a GPU, which one member of width 512 and more keeps busy.
TASKS: Mapping[str, Task] = MappingProxyType(
    {
        "mlp": Images(network=plain.mlp, shape=(64,), num=1797),
        "conv8": Images(network=_conv8, shape=(1, 8, 8), num=1797),
        "conv32": Images(network=_conv32, shape=(3, 32, 32), num=2000),
        "lm-small": _lm(32, depth=1, context=32),
        "lm": _lm(64),
        "lm-b1": _lm(64, batch=1),
        "lm-d128": _lm(128),
        "lm-d512": _lm(512, heads=8, context=256),
        "lm-d1024": _lm(1024, heads=16, context=256),
    }
)
