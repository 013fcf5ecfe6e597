"""What a network of images is, and what it is given when it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from torch import Tensor

from trainables.core.model import Buffers, Parameter

#: Dropout: what it acts on, and a name of the place.
Drop: TypeAlias = Callable[[Tensor, str], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One pass of a network through a batch.

    Attributes:
        drop: Drops elements in training, and nothing in evaluation.
        momentum: `(K,)` share of the batch in the new running statistics; None in evaluation, where norms take the
            statistics in the buffers, and for networks that have none.
        buffers: `[K, *shape]` by name.
        seen: Takes activations by name, where somebody watches.
    """

    drop: Drop
    momentum: Tensor | None
    buffers: Buffers
    seen: dict[str, Tensor] | None = None

    def show(self, name: str, x: Tensor) -> Tensor:
        """Let a watcher see an activation, and return it."""
        if self.seen is not None:
            self.seen[name] = x
        return x


class Network(Protocol):
    """A stacked network from images to logits. Member k's depend on row k of everything only."""

    def parameters(self) -> Mapping[str, Parameter]:
        """The parameters of one member by plain dotted name."""

    def buffers(self) -> Mapping[str, Tensor]:
        """Running statistics of one member: what each begins with, by name."""

    def logits(self, params: Mapping[str, Tensor], x: Tensor, this: Pass) -> Tensor:
        """`[K, B, classes]` of normalised images `[K, B, C, H, W]`."""

    def flops(self) -> float:
        """Multiplications and additions of one member's forward and backward pass for one image, by formula."""


def nothing_dropped(x: Tensor, where: str) -> Tensor:
    """A `Drop` for evaluation."""
    return x


def times(x: Tensor, factor: float) -> Tensor:
    """The product; at 1 nothing is computed, so that the standard parametrization costs nothing."""
    return x if factor == 1.0 else x * factor
