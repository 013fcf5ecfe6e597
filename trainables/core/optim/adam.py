"""What the kin of Adam share: two moving averages of the gradient, and the corrections of their beginning at zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from trainables.core.optim.base import Scalars, Tensors

#: The averages of the gradient and of its square.
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True)
class Averages:
    """The two averages at one update, for all parameters.

    The correction of the second one, `sqrt(1 - beta2^t)`, is moved from under the fraction line into the scalars: what
    is divided by `advance`'s denominator is to be multiplied by it.

    Attributes:
        correction2: `(K,)` float64, `sqrt(1 - beta2^t)`.

    Source: Kingma and Ba 2015 (arXiv 1412.6980), algorithm 1, and its remark on a cheaper order of computation.
    """

    correction2: Tensor
    _rate1: Scalars
    _rate2: Scalars
    _eps: Scalars

    @classmethod
    def at(cls, step: Tensor, hparams: Tensors, eps: float, group: list[Scalars]) -> Averages:
        """Those at a member's update `step`, `(K,)` from 1, with its `beta1` and `beta2`; scalars join the group."""
        beta1, beta2 = hparams["beta1"], hparams["beta2"]
        correction2 = (1.0 - beta2**step).sqrt()
        return cls(correction2, *(Scalars(v, group) for v in (1.0 - beta1, 1.0 - beta2, eps * correction2)))

    def advance(
        self, name: str, grad: Tensor, moments: Mapping[str, Tensors], eps_scale: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Take a parameter's gradient in; returns the average and `sqrt(exp_avg_sq) + eps`, both `[K, *shape]`."""
        exp_avg, exp_avg_sq = (moments[moment][name] for moment in MOMENTS)
        exp_avg.lerp_(grad, self._rate1.like(grad))
        exp_avg_sq.lerp_(grad * grad, self._rate2.like(grad))
        return exp_avg, exp_avg_sq.sqrt().add_(self._eps.times(eps_scale).like(grad))
