"""What an optimizer is to the training core, and the helpers that stacked optimizers share."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from trainables.base import HparamSpec
from trainables.core.hold import hold, is_held

Tensors: TypeAlias = Mapping[str, Tensor]

#: Stands for a parameter's name in a buffer that has one value for the whole member.
MEMBER = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """What multiplies the hyperparameters of one parameter tensor; constants of the program, the same for all members.

    Attributes:
        lr: Of the learning rate.
        decay: Of the weight decay, beside the learning rate: decay that the rule multiplies by lr takes both.
        eps: Of what keeps Adam from dividing by 0.
    """

    lr: float = 1.0
    decay: float = 1.0
    eps: float = 1.0


#: Leaves everything as it is.
UNIT = Scale()
NO_SCALES: Mapping[str, Scale] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffer:
    """State of one kind that is not a moment: of other shapes, another dtype, or another beginning.

    Attributes:
        shapes: Shapes without the capacity dimension, by parameter; `{MEMBER: ()}` is one number per member.
        dtype: None for the parameters'.
        start: Every element in a fresh member.
    """

    shapes: Mapping[str, tuple[int, ...]]
    dtype: torch.dtype | None = None
    start: float = 0.0


class Optimizer(Protocol):
    """An update rule, the state it keeps and the live hyperparameters it reads.

    Attributes:
        name: Prefix of its tensors in a member's state.
        moments: Those of its buffers that have the parameters' shapes and dtype, and begin at zero.
        hparams: Specifications of what it reads, by name; `lr` is one of them.
        compiles: Whether `update` can be part of a compiled step.
        family: The family whose rules of `trainables.core.parametrization` hold for it, `adam` or `sgd`; empty where
            there are none: it is then never given any `scales`.
    """

    @property
    def name(self) -> str: ...
    @property
    def moments(self) -> tuple[str, ...]: ...
    @property
    def hparams(self) -> Mapping[str, HparamSpec]: ...
    @property
    def compiles(self) -> bool: ...
    @property
    def family(self) -> str: ...

    def buffers(self, params: Tensors) -> Mapping[str, Buffer]:
        """The rest of its state by kind, kept, copied and saved like the moments.

        Args:
            params: `[K, *shape]` by name; for their shapes, dtype and device only.
        """

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
        """Change `params` and `moments` in place.

        Args:
            params: `[K, *shape]` by name.
            grads: The same, of the per-member losses; may be overwritten.
            moments: The optimizer's state, moments and further buffers, by kind and parameter name.
            step: `(K,)` int64 number of this update in each member's life, from 1.
            lr: `(K,)` float64 learning rate in effect.
            hparams: `(K,)` float64 by name.
            decayed: Names of the parameters that weight decay acts on.
            scales: Multipliers of hyperparameters, of those parameters that have any other than 1.
        """


def live(default: float, doc: str, high: float | None = None) -> HparamSpec:
    """Specification of a live hyperparameter in `[0, high]`."""
    return HparamSpec(kind="live", default=default, low=0.0, high=high, doc=doc)


def lr_spec(default: float) -> HparamSpec:
    """Specification of `lr`."""
    return live(default, "peak learning rate")


def beta_specs(beta1: float, beta2: float) -> dict[str, HparamSpec]:
    """Specifications of the decay rates of Adam's moments; at 1 the bias correction would divide by 0."""
    return {
        "beta1": live(beta1, "decay of the first moment", high=0.999999),
        "beta2": live(beta2, "decay of the second moment", high=0.999999),
    }


def member_norm(tensor: Tensor) -> Tensor:
    """Euclidean norm of each member's part of `[K, *shape]`, `(K,)` float64."""
    return torch.linalg.vector_norm(tensor.reshape(len(tensor), -1), dim=1).double()


@dataclass(slots=True)
class Scalars:
    """One float64 scalar per member, ready to broadcast over `[K, *shape]` tensors in their dtype.

    Attributes:
        values: `(K,)`.
        group: All those that take arithmetic to come by; they are held together at the first use of any.
    """

    values: Tensor
    group: list[Scalars] | None = field(default=None, repr=False, compare=False)
    cache: dict[int, Tensor] = field(default_factory=dict)
    multiples: dict[float, Scalars] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Join the group."""
        if self.group is not None:
            self.group.append(self)

    def like(self, tensor: Tensor) -> Tensor:
        """The scalars as `[K, 1, ..., 1]` in the tensor's dtype."""
        if self.group:
            _hold(self.group, tensor.dtype)
        if tensor.ndim not in self.cache:
            shape = (-1,) + (1,) * (tensor.ndim - 1)
            self.cache[tensor.ndim] = self.values.to(tensor.dtype).view(shape)
        return self.cache[tensor.ndim]

    def times(self, factor: float) -> Scalars:
        """The scalars multiplied by a constant; at 1 themselves, bit for bit and for free."""
        if factor == 1.0:
            return self
        if factor not in self.multiples:
            self.multiples[factor] = Scalars(self.values * factor)
        return self.multiples[factor]


def _hold(group: list[Scalars], dtype: torch.dtype) -> None:
    """Have a compiled step compute all of a group once, by one operation that the compiler does not look into."""
    if is_held(group[0].values):
        rows = hold(torch.stack([scalars.values for scalars in group]).to(dtype))
        for scalars, row in zip(group, rows.unbind(0), strict=True):
            scalars.values = row
    group.clear()


def shrinking(
    rate: Tensor, decayed: Collection[str], scales: Mapping[str, Scale], group: list[Scalars]
) -> dict[str, Scalars]:
    """What decoupled decay multiplies each decayed parameter by: 1 minus its share of `rate`.

    Args:
        rate: `(K,)` float64, learning rate times weight decay, before any multipliers.
        decayed: Names of the parameters.
        scales: As in `Optimizer.update`.
        group: Of the update's scalars.
    """
    # lr times decay is a product of constants: where a parametrization keeps it at 1, it stays exactly 1.
    factors = {name: scale.lr * scale.decay for name, scale in ((n, scales.get(n, UNIT)) for n in sorted(decayed))}
    rates = Scalars(rate)
    found = {factor: Scalars(1.0 - rates.times(factor).values, group) for factor in dict.fromkeys(factors.values())}
    return {name: found[factor] for name, factor in factors.items()}
