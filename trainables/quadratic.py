"""The toy of population-based training: a hidden quadratic objective and two surrogates.

Source: Jaderberg et al. 2017, "Population Based Training of Neural Networks", section 4.1 and figure 2.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.base import (
    Capabilities,
    Hparams,
    HparamSpec,
    MetricSpec,
    Place,
    Split,
    Stack,
    TrainableError,
)
from trainables.core.model import NO_HPARAMS, Batch, Buffers, Parameter, Program
from trainables.core.optim import SGD
from trainables.core.rng import Draws
from trainables.core.schedules import Constant
from trainables.core.stack import CoreStack

_BUCKET = "quadratic"
#: The surrogate h0 t0^2 + h1 t1^2 - 1.2 takes 4 multiplications and 2 additions; backward is counted twice forward, as
#: for matrix products (Kaplan et al. 2020, section 2.1), of which there are none.
_FLOPS_PER_STEP = 3.0 * 6


@dataclass(frozen=True)
class Quadratic:
    """Climb a quadratic by the gradient of a surrogate that the hyperparameters shape.

    Two parameters t start at (0.9, 0.9). The objective is `Q = 1.2 - (t0^2 + t1^2)`; a member ascends the gradient of
    `1.2 - (h0 t0^2 + h1 t1^2)`, so after n steps `t_i = 0.9 (1 - 2 lr h_i)^n`. A member with h = (1, 0) alone can
    never reach the top, which a population that copies can.
    """

    def describe(self) -> Capabilities:
        """`Q` to be maximised; `h0`, `h1` and `lr` live."""
        return Capabilities(
            metrics={"Q": MetricSpec(mode="max", doc="1.2 - |theta|^2; at most 1.2")},
            hparams=_program().hparams,
            flops_per_step=_FLOPS_PER_STEP,
            data={"source": "none: a closed form"},
        )

    def bucket(self, hparams: Hparams) -> str:
        """All members share one bucket."""
        return _BUCKET

    def build(self, bucket: str, capacity: int, place: Place) -> Stack:
        """Build an empty stack."""
        if bucket != _BUCKET:
            raise TrainableError(f"bucket {bucket!r} is unknown; quadratic has only {_BUCKET!r}")
        return CoreStack(_program(), capacity, place)


@dataclass(frozen=True)
class _Hill:
    """The model: `theta`, `[K, 2]`."""

    def parameters(self) -> Mapping[str, Parameter]:
        return {"theta": Parameter(shape=(2,), mean=0.9)}

    def buffers(self) -> Mapping[str, Tensor]:
        return {}

    def loss(
        self,
        params: Mapping[str, Tensor],
        batch: Batch,
        hparams: Mapping[str, Tensor],
        draws: Draws,
        off: Collection[str] = (),
        buffers: Buffers | None = None,
    ) -> Tensor:
        theta = params["theta"]
        shape = torch.stack([hparams["h0"], hparams["h1"]], dim=1).to(theta.dtype)
        return (shape * theta.square()).sum(1) - 1.2

    def evaluate(self, params: Mapping[str, Tensor], batch: Batch, buffers: Buffers | None = None) -> dict[str, Tensor]:
        return {"Q": 1.2 - params["theta"].square().sum(1)}


@dataclass(frozen=True)
class _NoData:
    """A feed for a model that reads none; every split is the same."""

    def buffers(self) -> Mapping[str, Tensor]:
        return {}

    def batch(self, draws: Draws, hparams: Mapping[str, Tensor] = NO_HPARAMS, buffers: Buffers | None = None) -> Tensor:
        return draws.seed

    def evaluation(self, split: Split) -> Iterator[tuple[Tensor, int]]:
        yield torch.empty(0), 1


def _program() -> Program:
    return Program(
        model=_Hill(),
        feed=_NoData(),
        optimizer=SGD(lr=0.01, decay=None),
        schedule=Constant(),
        extra_hparams={
            name: HparamSpec(kind="live", default=1.0, doc=f"curvature of theta_{i} as trained")
            for i, name in enumerate(("h0", "h1"))
        },
    )
