"""Parametrizations: how initial weights, multipliers and hyperparameters follow width and depth.

Hyperparameters are tuned on a small base model and used at other sizes: with a parametrization, `lr`, `weight_decay`
and eps of a member mean those of the base model, and constants by tensor make of them what the model at hand needs. A
width multiplier `m` is the width over the base's, a depth multiplier `l` the depth over the base's; at 1 and 1 every
constant is 1, so all parametrizations agree there.

`standard` has constants of 1 everywhere. The others are tables over (optimizer family, role), in the form without
parameter reshaping: what grows with width is known from the role, fan_in of hidden and output matrices, fan_out of
embeddings, gains and biases, so the fans themselves are not asked for. A matrix that grows on one side only is
an embedding or an output; one that grows on neither has constants of 1 and needs no call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from trainables.core.optim.base import Scale
from trainables.errors import TrainableError, nearest

#: `embedding`: finite to width (a table, or the matrix that reads the inputs); `hidden`: width to width; `output`:
#: width to finite; `gain` of a norm and `bias`: a vector of the width.
Role: TypeAlias = Literal["embedding", "hidden", "output", "gain", "bias"]
#: `adam`: each element's step is a gradient over a running size of gradients, so its length is lr whatever the
#: gradient's scale (AdamW, NAdamW); `sgd`: steps are proportional to gradients, momentum or not.
Family: TypeAlias = Literal["adam", "sgd"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Multipliers:
    """Constants of one tensor, each relative to `standard` at the same size.

    Attributes:
        std: Of its initial standard deviation. Standard is `gain / sqrt(fan_in)`, and 1 for an embedding.
        forward: Of the product with it.
        lr: Of the learning rate.
        decay: Of weight decay; whether decoupled or not, what a step takes of a weight is `lr * decay` times `lr *
            weight_decay` of the base.
        eps: Of Adam's eps.
    """

    std: float = 1.0
    forward: float = 1.0
    lr: float = 1.0
    decay: float = 1.0
    eps: float = 1.0

    @property
    def scale(self) -> Scale:
        """What the optimizer needs of it."""
        return Scale(lr=self.lr, decay=self.decay, eps=self.eps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parametrization:
    """One parametrization, as pure functions.

    Attributes:
        families: Optimizer families it has rules for; None for all optimizers, of a family or not.
        tensor: Constants by role, by family, by width and depth multiplier, and whether the tensor is inside a residual
            branch.
        residual: What residual branches are multiplied by, by depth multiplier.
        attention: What attention scores are multiplied by, from the head size and the base's; None is the usual
            `1 / sqrt(head size)`.
    """

    families: tuple[Family, ...] | None
    tensor: Callable[[Role, Family, float, float, bool], Multipliers]
    residual: Callable[[float], float]
    attention: Callable[[int, int], float | None]


def _standard_tensor(role: Role, family: Family, width: float, depth: float, branch: bool) -> Multipliers:
    return Multipliers()


def _mup_tensor(role: Role, family: Family, width: float, depth: float, branch: bool) -> Multipliers:
    """Maximal update parametrization, with `m` the width multiplier::

        role                        std       forward  lr (adam, sgd)  eps (adam)
        embedding, gain, bias       1         1        1,   m          1/m
        hidden                      1         1        1/m, 1          1/m
        output                      sqrt(m)   1/m      1,   m          1/m

    An output's initial variance does not fall with fan_in, unlike standard's: hence `sqrt(m)` relative to it. Weight
    decay takes 1/lr in every case: what a step takes of a weight is the base's. Gradients of all tensors fall as 1/m,
    and eps with them.

    Source: Yang et al. 2022 (arXiv 2203.03466), table 8, every entry over its value at the base width, and appendix B.3
    for eps (added after the square root) and for decay that does not depend on width; as in the authors' package mup,
    where weight decay takes 1/lr, and in Dey et al. 2025 (arXiv 2505.01618), table 1.
    """
    if family == "adam":
        lr = 1.0 / width if role == "hidden" else 1.0
        eps = 1.0 / width
    else:
        lr = 1.0 if role == "hidden" else width
        eps = 1.0
    output = role == "output"
    return Multipliers(
        std=math.sqrt(width) if output else 1.0,
        forward=1.0 / width if output else 1.0,
        lr=lr,
        decay=1.0 / lr,
        eps=eps,
    )


def _completep_tensor(role: Role, family: Family, width: float, depth: float, branch: bool) -> Multipliers:
    """CompleteP: `mup`, and eps inside residual branches takes a further `1/l`, as gradients there fall with depth.

    The table has `l^(alpha - 1)` on the learning rates inside branches as well, which is 1 at CompleteP's alpha of 1;
    decoupled decay has no factor of depth.

    Source: Dey et al. 2025 (arXiv 2505.01618), table 1 with alpha = 1, as in the authors' code (EleutherAI/nanoGPT-mup,
    branch completep).
    """
    found = _mup_tensor(role, family, width, depth, branch)
    eps = found.eps / depth if branch else found.eps
    return Multipliers(std=found.std, forward=found.forward, lr=found.lr, decay=found.decay, eps=eps)


def _one(depth: float) -> float:
    return 1.0


def _inverse(depth: float) -> float:
    """Source: Dey et al. 2025 (arXiv 2505.01618), table 1, residual connections with alpha = 1."""
    return 1.0 / depth


def _usual_attention(head_dim: int, base_head_dim: int) -> None:
    return None


def _mup_attention(head_dim: int, base_head_dim: int) -> float | None:
    """`sqrt(d_base) / d`: after training q and k are correlated, and their product grows as d, not sqrt(d).

    Source: Yang et al. 2022 (arXiv 2203.03466), definition 4.1, with appendix B.1's constant, which makes it usual at
    the base.
    """
    return None if head_dim == base_head_dim else math.sqrt(base_head_dim) / head_dim


#: A name in use keeps its meaning: it is in the options of recorded sweeps. CompleteP was published for AdamW, with no
#: rule for SGD.
PARAMETRIZATIONS: Mapping[str, Parametrization] = {
    "standard": Parametrization(families=None, tensor=_standard_tensor, residual=_one, attention=_usual_attention),
    "mup": Parametrization(families=("adam", "sgd"), tensor=_mup_tensor, residual=_one, attention=_mup_attention),
    "completep": Parametrization(
        families=("adam",), tensor=_completep_tensor, residual=_inverse, attention=_mup_attention
    ),
}


def parametrization(name: str) -> Parametrization:
    """Return a registered parametrization.

    Raises:
        TrainableError: None has this name; the message says which one is nearest.
    """
    if not isinstance(name, str) or name not in PARAMETRIZATIONS:
        raise TrainableError(f"parametrization is {name!r}; {nearest(str(name), PARAMETRIZATIONS)}")
    return PARAMETRIZATIONS[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """A parametrization at one size, with one optimizer: what a model asks when it declares its parameters.

    Attributes:
        name: Of the parametrization.
        optimizer: Name of the optimizer, for messages.
        family: Its family, empty if none; see `trainables.core.optim.Optimizer`.
        width: Width multiplier.
        depth: Depth multiplier.

    Raises:
        TrainableError: The name is unknown, or it has no rule for the optimizer.
    """

    name: str = "standard"
    optimizer: str = "adamw"
    family: str = "adam"
    width: float = 1.0
    depth: float = 1.0

    def __post_init__(self) -> None:
        """Refuse rather than guess."""
        known = parametrization(self.name).families
        if known is not None and self.family not in known:
            raise TrainableError(
                f"parametrization {self.name!r} has no rule for optimizer {self.optimizer!r}; "
                f"it has rules for optimizers like {' and '.join(known)}"
            )
        for name, value in (("width", self.width), ("depth", self.depth)):
            if not (math.isfinite(value) and value > 0.0):
                raise TrainableError(f"{name} multiplier is {value!r}; give a positive number")

    def tensor(self, role: Role, branch: bool = False) -> Multipliers:
        """Constants of a tensor; `branch` says whether it is inside a residual branch, norm included."""
        if role not in get_args(Role):
            raise TrainableError(f"role is {role!r}; {nearest(str(role), get_args(Role))}")
        family: Family = "sgd" if self.family == "sgd" else "adam"
        return PARAMETRIZATIONS[self.name].tensor(role, family, self.width, self.depth, branch)

    @property
    def residual(self) -> float:
        """What residual branches are multiplied by before they are added."""
        return PARAMETRIZATIONS[self.name].residual(self.depth)

    def attention(self, head_dim: int, base_head_dim: int) -> float | None:
        """What attention scores are multiplied by; None for `1 / sqrt(head_dim)`."""
        return PARAMETRIZATIONS[self.name].attention(head_dim, base_head_dim)


#: No constants but 1.
STANDARD = Scaling()
