"""Adam with decoupled weight decay."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from trainables.base import HparamSpec
from trainables.core.optim.adam import MOMENTS, Averages
from trainables.core.optim.base import (
    NO_SCALES,
    UNIT,
    Buffer,
    Scalars,
    Scale,
    Tensors,
    beta_specs,
    live,
    lr_spec,
    shrinking,
)


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay.

    For a parameter `x` with gradient `g`, at a member's update `t`::

        m <- beta1 m + (1 - beta1) g
        v <- beta2 v + (1 - beta2) g^2
        x <- (1 - lr weight_decay) x - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    Source: Loshchilov and Hutter 2019 (arXiv 1711.05101), algorithm 2, as in torch.optim.AdamW (decay scaled by lr).
    """

    eps: float = 1e-8
    lr: float = 1e-3
    weight_decay: float = 0.01
    name: str = "adamw"
    moments: tuple[str, ...] = MOMENTS
    compiles: ClassVar[bool] = True
    family: ClassVar[str] = "adam"

    @property
    def hparams(self) -> Mapping[str, HparamSpec]:
        """`lr`, `weight_decay`, `beta1`, `beta2`."""
        return {
            "lr": lr_spec(self.lr),
            "weight_decay": live(self.weight_decay, "decoupled, times lr"),
            **beta_specs(0.9, 0.95),
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
        """One AdamW update; see `Optimizer.update`."""
        group: list[Scalars] = []
        averages = Averages.at(step, hparams, self.eps, group)
        # lr * (m / c1) / (sqrt(v) / c2 + eps), with both corrections moved into the scalars.
        scale = Scalars(-lr * averages.correction2 / (1.0 - hparams["beta1"] ** step), group)
        shrink = shrinking(lr * hparams["weight_decay"], decayed, scales, group)
        for name, param in params.items():
            own = scales.get(name, UNIT)
            exp_avg, denominator = averages.advance(name, grads[name], moments, own.eps)
            if name in decayed:
                param.mul_(shrink[name].like(param))
            param.addcmul_(exp_avg / denominator, scale.times(own.lr).like(param))
