"""Norms of a convolutional network: by batch, by ghost batch, or by groups of channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.core import ops
from trainables.core.model import Parameter
from trainables.core.parametrization import Multipliers
from trainables.networks.base import Pass

#: What a norm may take its statistics from.
NORMS = ("batch", "ghost", "group")


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    """One kind of norm, wherever it stands in a network.

    Attributes:
        kind: One of `NORMS`.
        ghost_size: Examples in a ghost batch.
        groups: Groups of channels of `group`.
    """

    kind: str = "batch"
    ghost_size: int = 16
    groups: int = 8

    @property
    def has_memory(self) -> bool:
        """Whether it keeps running statistics, which evaluation uses."""
        return self.kind != "group"

    def parameters(self, name: str, channels: int, gain: Multipliers, bias: Multipliers) -> dict[str, Parameter]:
        """Gain 1 and bias 0."""
        return {
            f"{name}.weight": Parameter(shape=(channels,), mean=1.0, scale=gain.scale),
            f"{name}.bias": Parameter(shape=(channels,), scale=bias.scale),
        }

    def buffers(self, name: str, channels: int) -> dict[str, Tensor]:
        """Running mean 0 and variance 1, as in torch."""
        if not self.has_memory:
            return {}
        return {f"{name}.mean": torch.zeros(channels), f"{name}.var": torch.ones(channels)}

    def __call__(self, x: Tensor, params: Mapping[str, Tensor], name: str, this: Pass) -> Tensor:
        """Normalise `[K, B, C, H, W]`; in training the running statistics are renewed."""
        weight, bias = params[f"{name}.weight"], params[f"{name}.bias"]
        if not self.has_memory:
            return ops.group_norm(x, self.groups, weight, bias)
        running = ops.Running(this.buffers[f"{name}.mean"], this.buffers[f"{name}.var"])
        if this.momentum is None:
            return ops.batch_norm_inference(x, running, weight, bias)
        size = self.ghost_size if self.kind == "ghost" else x.shape[1]
        y, new = ops.ghost_batch_norm(x, running, this.momentum, size, weight, bias)
        assert new is not None
        this.buffers[f"{name}.mean"], this.buffers[f"{name}.var"] = new.mean, new.var
        return y


#: As in torch.
BATCH_NORM = Norm()
