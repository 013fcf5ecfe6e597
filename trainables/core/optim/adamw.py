"""Adam with decoupled weight decay."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from trainables.base import HparamSpec
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
    moments: tuple[str, ...] = ("exp_avg", "exp_avg_sq")
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
        beta1, beta2 = hparams["beta1"], hparams["beta2"]
        correction1 = 1.0 - beta1**step
        correction2 = (1.0 - beta2**step).sqrt()
        # lr * (m / c1) / (sqrt(v) / c2 + eps), with both corrections moved into the scalars.
        scale = Scalars(-lr * correction2 / correction1)
        eps = Scalars(self.eps * correction2)
        rate1, rate2 = Scalars(1.0 - beta1), Scalars(1.0 - beta2)
        shrink = shrinking(lr * hparams["weight_decay"], decayed, scales)
        for name, param in params.items():
            grad, own = grads[name], scales.get(name, UNIT)
            exp_avg, exp_avg_sq = moments["exp_avg"][name], moments["exp_avg_sq"][name]
            exp_avg.lerp_(grad, rate1.like(param))
            exp_avg_sq.lerp_(grad * grad, rate2.like(param))
            if name in decayed:
                param.mul_(shrink[name].like(param))
            denominator = exp_avg_sq.sqrt().add_(eps.times(own.eps).like(param))
            param.addcmul_(exp_avg / denominator, scale.times(own.lr).like(param))
