"""Momentum SGD with a learning rate for each layer."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trainables.base import HparamSpec
from trainables.core.optim.base import NO_SCALES, Buffer, Scalars, Scale, Tensors, live, lr_spec, member_norm


@dataclass(frozen=True)
class LARS:
    """Layerwise adaptive rate scaling; a layer is a parameter tensor of one member.

    For a parameter `x` with gradient `g`::

        r  = trust |x| / (|g| + weight_decay |x|)
        v <- momentum v + lr r (g + weight_decay x)
        x <- x - v

    The local rate `r` is 1 where `|x|` or `|g|` is 0. What weight decay does not act on (norms and biases) has a local
    rate of 1, too: it takes plain momentum steps, as implementations of LARS commonly have it. The learning rate is
    inside the velocity, so that a change of it acts on new gradients only; in `SGD` it multiplies the whole velocity.

    Source: You et al. 2017 (arXiv 1708.03888), algorithm 1, with its trust coefficient.
    """

    lr: float = 1.0
    weight_decay: float = 5e-4
    name: str = "lars"
    moments: tuple[str, ...] = ("momentum",)
    compiles: ClassVar[bool] = True
    family: ClassVar[str] = ""

    @property
    def hparams(self) -> Mapping[str, HparamSpec]:
        """`lr`, `momentum`, `weight_decay`, `trust`."""
        return {
            "lr": lr_spec(self.lr),
            "momentum": live(0.9, "momentum", high=1.0),
            "weight_decay": live(self.weight_decay, "coupled, inside the local rate"),
            "trust": live(1e-3, "trust coefficient: length of a step over the weights' norm, at lr 1"),
        }

    def buffers(self, params: Tensors) -> Mapping[str, Buffer]:
        """None but the velocity."""
        return {}

    def update(
        self,
        params: Tensors,
        grads: Tensors,
        moments: Mapping[str, Tensors],
        step: Tensor,
        lr: Tensor,
        hparams: Tensors,
        decayed: Collection[str],
        scales: Mapping[str, Scale] = NO_SCALES,
    ) -> None:
        """One LARS update; see `Optimizer.update`."""
        group: list[Scalars] = []
        momentum, decay = Scalars(hparams["momentum"], group), Scalars(hparams["weight_decay"], group)
        plain = Scalars(lr, group)
        for name, param in params.items():
            grad, rate = grads[name], plain
            if name in decayed:
                rate = Scalars(lr * _local_rate(param, grad, hparams))
                grad = grad + param * decay.like(param)
            velocity = moments["momentum"][name]
            velocity.mul_(momentum.like(param)).addcmul_(grad, rate.like(param))
            param.sub_(velocity)


def _local_rate(param: Tensor, grad: Tensor, hparams: Tensors) -> Tensor:
    """Local rate of each member's layer, `(K,)` float64, from the gradient before decay."""
    length, slope = member_norm(param), member_norm(grad)
    rate = hparams["trust"] * length / (slope + hparams["weight_decay"] * length)
    return torch.where((length > 0) & (slope > 0), rate, torch.ones_like(rate))
