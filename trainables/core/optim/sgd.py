"""Stochastic gradient descent: plain, heavy ball, Nesterov; coupled or decoupled weight decay."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from trainables.base import HparamSpec, TrainableError
from trainables.core.optim.base import NO_SCALES, UNIT, Buffer, Scalars, Scale, Tensors, live, lr_spec, shrinking


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent, with optional heavy-ball or Nesterov momentum and weight decay.

    For a parameter `x` with gradient `g`::

        g <- g + weight_decay x                 (coupled)
        x <- (1 - lr weight_decay) x            (decoupled)
        v <- momentum v + g
        x <- x - lr g                           (plain)
        x <- x - lr v                           (heavy ball)
        x <- x - lr (g + momentum v)            (Nesterov)

    Attributes:
        momentum: Keep a velocity; with a `momentum` of 0 a member takes plain steps all the same.
        nesterov: Look ahead along the velocity.
        decay: How weight decay acts; None has none, not even as a hyperparameter.
        lr: Default learning rate.
        weight_decay: Default weight decay.
        name: Prefix of the state.

    Source: torch.optim.SGD with dampening 0; decoupled: Loshchilov and Hutter 2019 (arXiv 1711.05101), algorithm 1, but
    decay scaled by lr and lr outside the velocity, as torch has them in AdamW and SGD.
    """

    momentum: bool = False
    nesterov: bool = False
    decay: Literal["coupled", "decoupled"] | None = "coupled"
    lr: float = 0.01
    weight_decay: float = 0.0
    name: str = "sgd"
    compiles: ClassVar[bool] = True
    family: ClassVar[str] = "sgd"

    def __post_init__(self) -> None:
        """Refuse what torch.optim.SGD refuses, too."""
        if self.nesterov and not self.momentum:
            raise TrainableError("sgd nesterov is True but momentum is False; Nesterov needs momentum")

    @property
    def moments(self) -> tuple[str, ...]:
        """The momentum buffer, if there is momentum."""
        return ("momentum",) if self.momentum else ()

    @property
    def hparams(self) -> Mapping[str, HparamSpec]:
        """`lr`, and with momentum `momentum`, and with decay `weight_decay`."""
        found = {"lr": lr_spec(self.lr)}
        if self.momentum:
            found["momentum"] = live(0.9, "momentum", high=1.0)
        if self.decay is not None:
            how = "coupled" if self.decay == "coupled" else "decoupled, times lr"
            found["weight_decay"] = live(self.weight_decay, how)
        return found

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
        """One SGD update; see `Optimizer.update`."""
        group: list[Scalars] = []
        rate = Scalars(-lr, group)
        momentum = Scalars(hparams["momentum"], group) if self.momentum else None
        if self.decay is not None:
            decay = Scalars(hparams["weight_decay"], group)
            shrink = shrinking(lr * hparams["weight_decay"], decayed, scales, group)
        for name, param in params.items():
            grad, own = grads[name], scales.get(name, UNIT)
            if self.decay == "coupled" and name in decayed:
                grad = grad + param * decay.times(own.decay).like(param)
            if self.decay == "decoupled" and name in decayed:
                param.mul_(shrink[name].like(param))
            if momentum is not None:
                velocity = moments["momentum"][name]
                velocity.mul_(momentum.like(param)).add_(grad)
                grad = grad + velocity * momentum.like(param) if self.nesterov else velocity
            param.addcmul_(grad, rate.times(own.lr).like(param))
