"""Covariance of what two segments of training bring.

With inputs x (numbers), h (categories) and t (time, in segments),

    k((t, x, h), (t', x', h')) = s^2 m(x, h, x', h') (1 - eps)^(|t - t'| / 2)
    m = (1 - mix) (k_x + k_h) / 2 + mix k_x k_h
    k_x = exp(-sum_i ((x_i - x_i') / l_i)^2 / 2),   k_h = share of the categories that are equal

What was seen long ago says less about today: the weights have changed since. Where there are no categories `m` is
`k_x`. The sum is halved so that `m` of a point with itself is 1 for any `mix`.

Sources: the decay in time: Bogunovic et al. 2016, "Time-Varying Gaussian Process Bandit Optimization" (arXiv
1601.06650), as used by Parker-Holder et al. 2020 (PB2, arXiv 2002.02518). Sum and product of the kernels of numbers and
categories: Ru et al. 2020, "Bayesian Optimisation over Multiple Continuous and Categorical Inputs" (CoCaBO, arXiv
1906.08878), as used by Parker-Holder et al. 2021 (PB2-Mix, arXiv 2106.15883). In the code of the latter's authors
(github.com/jparkerholder/procgen_autorl, `pb2_utils.py`) numbers and categories have an `eps` and an `s^2` each.
"""

from __future__ import annotations

from typing import Any

import torch
from gpytorch.kernels import Kernel
from torch import Tensor


class SegmentKernel(Kernel):
    """The module's kernel, of points `(..., points, 1 + numbers + categories)`: time, numbers, categories.

    Its parameters are one vector, `raw`: the logarithms of `s^2` and of the decay `-log(1 - eps) / 2`, the logit of
    `mix`, and the logarithms of the scales.

    Args:
        numbers: How many there are.
    """

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self._end = 1 + numbers
        self.register_parameter("raw", torch.nn.Parameter(torch.zeros(3 + numbers, dtype=torch.float64)))

    @property
    def signal(self) -> Tensor:
        """`s^2`."""
        return self.raw[0].exp()

    @property
    def decay(self) -> Tensor:
        """`-log(1 - eps) / 2`: what is lost per segment, in logarithms of the covariance."""
        return self.raw[1].exp()

    @property
    def epsilon(self) -> float:
        """`eps`: 0 where nothing changes with time, 1 where the past says nothing."""
        return float(1.0 - torch.exp(-2.0 * self.decay))

    @property
    def mix(self) -> Tensor:
        """Of product against sum, in (0, 1)."""
        return self.raw[2].sigmoid()

    @property
    def scales(self) -> Tensor:
        """`l`, `(numbers,)`."""
        return self.raw[3:].exp()

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any) -> Tensor:
        """Covariance `(..., points, points)` of the noise-free function; if `diag`, of each point with itself."""
        if diag:
            return self.signal.expand(x1.shape[:-1])
        gone = (x1[..., :, None, 0] - x2[..., None, :, 0]).abs()
        faded = self.raw[0] - self.decay * gone
        near = _closeness(x1[..., 1 : self._end] / self.scales, x2[..., 1 : self._end] / self.scales)
        if x1.shape[-1] == self._end:
            return torch.exp(faded + near)
        different = torch.cdist(x1[..., self._end :], x2[..., self._end :], p=0)
        equal = 1.0 - different / (x1.shape[-1] - self._end)
        half = (1.0 - self.mix) / 2.0
        return torch.exp(faded) * (torch.exp(near) * (half + self.mix * equal) + half * equal)


def _closeness(x1: Tensor, x2: Tensor) -> Tensor:
    """Minus half of the squares of distances, as one product of matrices: most of a fit's time goes into kernels."""
    one, other = x1.square().sum(dim=-1, keepdim=True) / -2.0, x2.square().sum(dim=-1, keepdim=True) / -2.0
    ones = torch.ones_like
    return torch.cat([x1, one, ones(one)], dim=-1) @ torch.cat([x2, ones(other), other], dim=-1).mT
