"""A decay from 1 to a ratio, in one of several shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from trainables.base import HparamSpec
from trainables.core.schedules.base import divisor, duration
from trainables.errors import TrainableError, nearest


@dataclass(frozen=True)
class Shape:
    """How a decay gets from 1 to the final ratio.

    Attributes:
        curve: The multiplier, from progress in [0, 1] and the final ratio; exactly 1 at 0 and the ratio at 1.
        lowest_ratio: The smallest final ratio it can reach without a jump.
    """

    curve: Callable[[Tensor, Tensor], Tensor]
    lowest_ratio: float = 0.0


def _linear(progress: Tensor, ratio: Tensor) -> Tensor:
    return ratio + (1.0 - ratio) * (1.0 - progress)


def _one_minus_sqrt(progress: Tensor, ratio: Tensor) -> Tensor:
    return ratio + (1.0 - ratio) * (1.0 - progress.sqrt())


def _exponential(progress: Tensor, ratio: Tensor) -> Tensor:
    return ratio**progress


def _cosine(progress: Tensor, ratio: Tensor) -> Tensor:
    # Recorded runs depend on every bit: the order of the operations matters.
    return ratio + (1.0 - ratio) * 0.5 * (1.0 + torch.cos(math.pi * progress))


#: Shapes by name. A new one is one entry.
SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "linear": Shape(_linear),
        "1-sqrt": Shape(_one_minus_sqrt),
        # An exponential never gets to 0: with a ratio of 0 it would fall there at once.
        "exponential": Shape(_exponential, lowest_ratio=1e-8),
        "cosine": Shape(_cosine),
    }
)


@dataclass(frozen=True)
class Decay:
    """From 1 to `final_lr_ratio` over `decay_steps`, then constant.

    With progress p = min(1, a / D) for age a and decay D, and ratio r::

        linear         r + (1 - r) * (1 - p)
        1-sqrt         r + (1 - r) * (1 - sqrt(p))
        exponential    r ** p
        cosine         r + (1 - r) * (1 + cos(pi * p)) / 2

    and 1 when D = 0. Continuous and falling in all shapes; r is reached exactly.

    Source: 1-sqrt: Hägele et al. 2024 (arXiv 2405.18392), section 3.2; exponential: Hu et al. 2024 (MiniCPM, arXiv
    2404.06395), section 6.2, there given by its rate instead of its end; cosine: Loshchilov and Hutter 2017 (SGDR,
    arXiv 1608.03983), equation 5, without restarts.

    Attributes:
        shape: A name in `SHAPES`.
    """

    shape: str = "cosine"

    def __post_init__(self) -> None:
        """Refuse an unknown shape."""
        if self.shape not in SHAPES:
            raise TrainableError(f"decay shape {self.shape!r} is unknown; {nearest(self.shape, SHAPES)}")

    @property
    def hparams(self) -> Mapping[str, HparamSpec]:
        """`decay_steps` and `final_lr_ratio`."""
        lowest = SHAPES[self.shape].lowest_ratio
        ratio = HparamSpec(kind="live", default=0.1, low=lowest, high=1.0, doc="lr after the decay, of lr")
        return {"decay_steps": duration(f"steps of {self.shape} decay; 0 is none"), "final_lr_ratio": ratio}

    def __call__(self, age: Tensor, hparams: Mapping[str, Tensor]) -> Tensor:
        """Return the multipliers, `(K,)` float64; see `Schedule`."""
        decay = hparams["decay_steps"]
        progress = (age.to(torch.float64) / divisor(decay)).clamp(0.0, 1.0)
        falling = SHAPES[self.shape].curve(progress, hparams["final_lr_ratio"])
        return torch.where(decay > 0, falling, torch.ones_like(falling))
