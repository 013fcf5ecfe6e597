"""The model around a network: normalised images in, losses and metrics out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.core import ops
from trainables.core.model import Batch, Buffers, Parameter
from trainables.core.rng import Draws, site
from trainables.networks.base import Network, Pass, nothing_dropped


@dataclass(frozen=True, eq=False)
class Classifier:
    """A `trainables.core.model.Model` of batches (images uint8, labels).

    Attributes:
        network: From normalised images to logits.
        mean: `(C,)` float64 of the training images' channels, on the stack's device.
        std: `(C,)` float64, likewise.
    """

    network: Network
    mean: Tensor
    std: Tensor

    def parameters(self) -> Mapping[str, Parameter]:
        """The network's."""
        return self.network.parameters()

    def buffers(self) -> Mapping[str, Tensor]:
        """The network's."""
        return self.network.buffers()

    def loss(
        self,
        params: Mapping[str, Tensor],
        batch: Batch,
        hparams: Mapping[str, Tensor],
        draws: Draws,
        off: Collection[str] = (),
        buffers: Buffers | None = None,
    ) -> Tensor:
        """Mean cross entropy in nats with smoothed labels, `(K,)`, of images `[K, B, C, H, W]`."""

        def drop(x: Tensor, where: str) -> Tensor:
            if "dropout" in off:
                return x
            return ops.dropout(x, hparams["dropout"], draws, site(where))

        images, labels = batch
        this = Pass(drop=drop, momentum=hparams.get("bn_momentum"), buffers={} if buffers is None else buffers)
        logits = self.network.logits(params, self._normalised(images, params), this)
        return ops.cross_entropy(_wide(logits), labels, hparams["label_smoothing"])

    def evaluate(self, params: Mapping[str, Tensor], batch: Batch, buffers: Buffers | None = None) -> dict[str, Tensor]:
        """Metrics of images `[B, C, H, W]`: no dropout, running statistics, labels as they are."""
        images, labels = (t.expand(len(params["head.weight"]), *t.shape) for t in batch)
        this = Pass(drop=nothing_dropped, momentum=None, buffers=buffers or {})
        logits = _wide(self.network.logits(params, self._normalised(images, params), this))
        hits = (logits.argmax(-1) == labels).to(logits.dtype).mean(1)
        return {"accuracy": hits, "error": 1.0 - hits, "loss": ops.cross_entropy(logits, labels)}

    def activations(
        self, params: Mapping[str, Tensor], batch: Batch, buffers: Buffers | None = None
    ) -> dict[str, Tensor]:
        """What each block and branch gives, and the logits, with the statistics of the batch as in training."""
        seen: dict[str, Tensor] = {}
        members = len(params["head.weight"])
        images = batch[0].expand(members, *batch[0].shape)
        momentum = torch.zeros(members, dtype=torch.float64, device=images.device)
        # A copy: norms put new statistics into it.
        this = Pass(drop=nothing_dropped, momentum=momentum, buffers=dict(buffers or {}), seen=seen)
        self.network.logits(params, self._normalised(images, params), this)
        return seen

    def _normalised(self, images: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """`[K, B, C, H, W]` in the parameters' dtype; over the training images each channel has mean 0, variance 1."""
        dtype = params["head.weight"].dtype
        wide = torch.promote_types(dtype, torch.float32)
        mean, std = (t.to(wide)[:, None, None] for t in (self.mean, self.std))
        return ((images.to(wide) - mean) / std).to(dtype)


def _wide(x: Tensor) -> Tensor:
    """In float32 or better."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
