"""Adam with a trust ratio for each layer."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trainables.base import HparamSpec
from trainables.core.optim.adam import MOMENTS, Averages
from trainables.core.optim.base import (
    NO_SCALES,
    Buffer,
    Scalars,
    Scale,
    Tensors,
    beta_specs,
    live,
    lr_spec,
    member_norm,
)


@dataclass(frozen=True)
class LAMB:
    """Layerwise adaptive moments for batch training; a layer is a parameter tensor of one member.

    For a parameter `x` with gradient `g`, at a member's update `t`::

        m <- beta1 m + (1 - beta1) g
        v <- beta2 v + (1 - beta2) g^2
        u  = (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay x
        x <- x - lr |x| / |u| u

    The trust ratio `|x| / |u|` (phi is the identity) is 1 where a norm is 0, so that what begins at zero can leave it.
    Every tensor has a trust ratio, as in the algorithm; only decay spares norms and biases. Not to be confused with
    `LARS`, the same idea on momentum SGD.

    Source: You et al. 2020 (arXiv 1904.00962), algorithm 2.
    """

    eps: float = 1e-6
    lr: float = 1e-3
    weight_decay: float = 0.01
    name: str = "lamb"
    moments: tuple[str, ...] = MOMENTS
    compiles: ClassVar[bool] = True
    family: ClassVar[str] = ""

    @property
    def hparams(self) -> Mapping[str, HparamSpec]:
        """`lr`, `weight_decay`, `beta1`, `beta2`."""
        return {
            "lr": lr_spec(self.lr),
            "weight_decay": live(self.weight_decay, "part of the update, inside the trust ratio"),
            **beta_specs(0.9, 0.999),
        }

    def buffers(self, params: Tensors) -> Mapping[str, Buffer]:
        """None but the moments."""
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
        """One LAMB update; see `Optimizer.update`."""
        group: list[Scalars] = []
        averages = Averages.at(step, hparams, self.eps, group)
        # As in AdamW, both corrections are moved into the scalars.
        scale = Scalars(averages.correction2 / (1.0 - hparams["beta1"] ** step), group)
        decay = Scalars(hparams["weight_decay"], group)
        for name, param in params.items():
            exp_avg, denominator = averages.advance(name, grads[name], moments)
            direction = exp_avg / denominator * scale.like(param)
            if name in decayed:
                direction = direction + param * decay.like(param)
            rate = -lr * _trust_ratio(param, direction)
            param.addcmul_(direction, Scalars(rate).like(param))


def _trust_ratio(param: Tensor, direction: Tensor) -> Tensor:
    """`|x| / |u|` of each member, `(K,)` float64; 1 where either is 0."""
    length, wanted = member_norm(param), member_norm(direction)
    return torch.where((length > 0) & (wanted > 0), length / wanted, torch.ones_like(length))
