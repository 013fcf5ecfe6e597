"""Adam with Nesterov momentum and decoupled weight decay."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trainables.base import HparamSpec
from trainables.core.optim.adam import MOMENTS, Averages
from trainables.core.optim.base import (
    MEMBER,
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
class NAdamW:
    """Nesterov-accelerated Adam with a warm-up of its momentum and decoupled weight decay.

    For a parameter `x` with gradient `g`, at a member's update `t`, and `P_t` the product of `mu_1 ... mu_t`::

        mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2)
        m   <- beta1 m + (1 - beta1) g
        v   <- beta2 v + (1 - beta2) g^2
        d    = (1 - mu_t) / (1 - P_t) g + mu_{t+1} / (1 - P_t mu_{t+1}) m
        x   <- (1 - lr weight_decay) x - lr d / (sqrt(v / (1 - beta2^t)) + eps)

    `P_t`, one float64 number per member, is state: `beta1` and `momentum_decay` may have changed on the way.

    Source: Dozat 2016, "Incorporating Nesterov Momentum into Adam" (ICLR workshop), NAdam with its schedule of mu, as
    in torch.optim.NAdam with decoupled_weight_decay.
    """

    eps: float = 1e-8
    lr: float = 2e-3
    weight_decay: float = 0.01
    name: str = "nadamw"
    moments: tuple[str, ...] = MOMENTS
    compiles: ClassVar[bool] = True
    family: ClassVar[str] = "adam"

    @property
    def hparams(self) -> Mapping[str, HparamSpec]:
        """`lr`, `weight_decay`, `beta1`, `beta2`, `momentum_decay`."""
        return {
            "lr": lr_spec(self.lr),
            "weight_decay": live(self.weight_decay, "decoupled, times lr"),
            **beta_specs(0.9, 0.95),
            "momentum_decay": live(4e-3, "how fast the momentum rises from beta1 / 2 to beta1; 0 keeps it at half"),
        }

    def buffers(self, params: Tensors) -> Mapping[str, Buffer]:
        """`mu_product`, one number per member."""
        return {"mu_product": Buffer(shapes={MEMBER: ()}, dtype=torch.float64, start=1.0)}

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
        """One NAdamW update; see `Optimizer.update`."""
        group: list[Scalars] = []
        averages, beta1 = Averages.at(step, hparams, self.eps, group), hparams["beta1"]
        mu, mu_next = (beta1 * (1.0 - 0.5 * 0.96 ** (t * hparams["momentum_decay"])) for t in (step, step + 1))
        product = moments["mu_product"][MEMBER].mul_(mu)
        # As in AdamW, the correction of v is moved into the scalars.
        scale_grad = Scalars(-lr * averages.correction2 * (1.0 - mu) / (1.0 - product), group)
        scale_avg = Scalars(-lr * averages.correction2 * mu_next / (1.0 - product * mu_next), group)
        shrink = shrinking(lr * hparams["weight_decay"], decayed, scales, group)
        for name, param in params.items():
            grad, own = grads[name], scales.get(name, UNIT)
            exp_avg, denominator = averages.advance(name, grad, moments, own.eps)
            if name in decayed:
                param.mul_(shrink[name].like(param))
            of_grad, of_avg = scale_grad.times(own.lr), scale_avg.times(own.lr)
            direction = grad * of_grad.like(param) + exp_avg * of_avg.like(param)
            param.addcdiv_(direction, denominator)
