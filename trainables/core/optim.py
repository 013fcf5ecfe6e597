"""Stacked optimizers: one update of K members, each with its own `(K,)` hyperparameters.

Every formula is torch.optim's own, with the scalars replaced by per-member tensors; the tests hold them to it.
No operation reduces over members, so a NaN stays where it arose.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from trainables.base import HparamSpec

Tensors = Mapping[str, Tensor]


class Optimizer(Protocol):
    """An update rule, the moments it keeps and the live hyperparameters it reads.

    Attributes:
        name: Prefix of its tensors in a member's state.
        moments: Its buffers, each with the shapes of the parameters.
        hparams: Specifications of what it reads, by name; `lr` is one of them.
    """

    @property
    def name(self) -> str: ...
    @property
    def moments(self) -> tuple[str, ...]: ...
    @property
    def hparams(self) -> Mapping[str, HparamSpec]: ...

    def update(
        self,
        params: Tensors,
        grads: Tensors,
        moments: Mapping[str, Tensors],
        step: Tensor,
        lr: Tensor,
        hparams: Tensors,
        decayed: Collection[str],
    ) -> None:
        """Change `params` and `moments` in place.

        Args:
            params: `[K, *shape]` by name.
            grads: The same, of the per-member losses; may be overwritten.
            moments: The optimizer's buffers, by moment and parameter name.
            step: `(K,)` int64 number of this update in each member's life, from 1.
            lr: `(K,)` float64 learning rate in effect.
            hparams: `(K,)` float64 by name.
            decayed: Names of the parameters that weight decay acts on.
        """


def _lr(default: float) -> HparamSpec:
    return HparamSpec(kind="live", default=default, low=0.0, doc="peak learning rate")


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay.

    Source: Loshchilov and Hutter 2019, algorithm 2, as in torch.optim.AdamW (decay scaled by lr).
    """

    eps: float = 1e-8
    lr: float = 1e-3
    weight_decay: float = 0.01
    name: str = "adamw"
    moments: tuple[str, ...] = ("exp_avg", "exp_avg_sq")

    @property
    def hparams(self) -> Mapping[str, HparamSpec]:
        """`lr`, `weight_decay`, `beta1`, `beta2`."""
        return {
            "lr": _lr(self.lr),
            "weight_decay": HparamSpec(kind="live", default=self.weight_decay, low=0.0, doc="decoupled, times lr"),
            "beta1": HparamSpec(kind="live", default=0.9, low=0.0, high=0.999999, doc="decay of the first moment"),
            "beta2": HparamSpec(kind="live", default=0.95, low=0.0, high=0.999999, doc="decay of the second moment"),
        }

    def update(
        self,
        params: Tensors,
        grads: Tensors,
        moments: Mapping[str, Tensors],
        step: Tensor,
        lr: Tensor,
        hparams: Tensors,
        decayed: Collection[str],
    ) -> None:
        """One AdamW update; see `Optimizer.update`."""
        beta1, beta2 = hparams["beta1"], hparams["beta2"]
        correction1 = 1.0 - beta1**step
        correction2 = (1.0 - beta2**step).sqrt()
        # lr * (m / c1) / (sqrt(v) / c2 + eps), with both corrections moved into the scalars.
        scale = _Scalars(-lr * correction2 / correction1)
        eps = _Scalars(self.eps * correction2)
        rate1, rate2 = _Scalars(1.0 - beta1), _Scalars(1.0 - beta2)
        shrink = _Scalars(1.0 - lr * hparams["weight_decay"])
        for name, param in params.items():
            grad = grads[name]
            exp_avg, exp_avg_sq = moments["exp_avg"][name], moments["exp_avg_sq"][name]
            exp_avg.lerp_(grad, rate1.like(param))
            exp_avg_sq.lerp_(grad * grad, rate2.like(param))
            if name in decayed:
                param.mul_(shrink.like(param))
            denominator = exp_avg_sq.sqrt().add_(eps.like(param))
            param.addcmul_(exp_avg / denominator, scale.like(param))


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent, with optional heavy-ball or Nesterov momentum and coupled weight decay.

    Source: torch.optim.SGD with dampening 0.
    """

    momentum: bool = False
    nesterov: bool = False
    lr: float = 0.01
    name: str = "sgd"

    @property
    def moments(self) -> tuple[str, ...]:
        """The momentum buffer, if there is momentum."""
        return ("momentum",) if self.momentum else ()

    @property
    def hparams(self) -> Mapping[str, HparamSpec]:
        """`lr`, and with momentum `momentum` and `weight_decay`."""
        if not self.momentum:
            return {"lr": _lr(self.lr)}
        return {
            "lr": _lr(self.lr),
            "momentum": HparamSpec(kind="live", default=0.9, low=0.0, high=1.0, doc="momentum"),
            "weight_decay": HparamSpec(kind="live", default=0.0, low=0.0, doc="coupled"),
        }

    def update(
        self,
        params: Tensors,
        grads: Tensors,
        moments: Mapping[str, Tensors],
        step: Tensor,
        lr: Tensor,
        hparams: Tensors,
        decayed: Collection[str],
    ) -> None:
        """One SGD update; see `Optimizer.update`."""
        rate = _Scalars(-lr)
        for name, param in params.items():
            grad = grads[name]
            if self.momentum:
                grad = self._with_momentum(name, param, grad, moments, hparams, decayed)
            param.addcmul_(grad, rate.like(param))

    def _with_momentum(
        self,
        name: str,
        param: Tensor,
        grad: Tensor,
        moments: Mapping[str, Tensors],
        hparams: Tensors,
        decayed: Collection[str],
    ) -> Tensor:
        momentum = _Scalars(hparams["momentum"]).like(param)
        if name in decayed:
            grad = grad + param * _Scalars(hparams["weight_decay"]).like(param)
        velocity = moments["momentum"][name]
        velocity.mul_(momentum).add_(grad)
        return grad + velocity * momentum if self.nesterov else velocity


#: Specification of the clipping threshold that `clip` takes.
CLIP_NORM = HparamSpec(kind="live", default=0.0, low=0.0, doc="largest gradient norm of a member; 0 does not clip")


def gradient_norm(grads: Tensors) -> Tensor:
    """Euclidean norm of each member's whole gradient, `(K,)`."""
    norms = [torch.linalg.vector_norm(g.flatten(1), dim=1) for g in grads.values()]
    return torch.linalg.vector_norm(torch.stack(norms), dim=0)


def clip(grads: Tensors, norm: Tensor, clip_norm: Tensor) -> dict[str, Tensor]:
    """Scale each member's gradient down to its `clip_norm`, `(K,)`; 0 leaves it as it is.

    Source: Pascanu et al. 2013, algorithm 1; 1e-6 as in torch.nn.utils.clip_grad_norm_.
    """
    factor = (clip_norm / (norm.to(torch.float64) + 1e-6)).clamp(max=1.0)
    factor = torch.where(clip_norm > 0, factor, torch.ones_like(factor))
    scalars = _Scalars(factor)
    return {name: grad * scalars.like(grad) for name, grad in grads.items()}


@dataclass(slots=True)
class _Scalars:
    """One float64 scalar per member, ready to broadcast over `[K, *shape]` tensors in their dtype."""

    values: Tensor
    cache: dict[int, Tensor] = field(default_factory=dict)

    def like(self, tensor: Tensor) -> Tensor:
        """The scalars as `[K, 1, ..., 1]` in the tensor's dtype."""
        if tensor.ndim not in self.cache:
            shape = (-1,) + (1,) * (tensor.ndim - 1)
            self.cache[tensor.ndim] = self.values.to(tensor.dtype).view(shape)
        return self.cache[tensor.ndim]
