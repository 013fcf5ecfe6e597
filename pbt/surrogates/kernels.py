"""Covariance of what two segments of training bring.

With inputs x (numbers), h (categories) and t (time, in segments),

    k((t, x, h), (t', x', h')) = s^2 m(x, h, x', h') (1 - eps)^(|t - t'| / 2)
    m = (1 - mix) (k_x + k_h) / 2 + mix k_x k_h
    k_x = exp(-sum_i ((x_i - x_i') / l_i)^2 / 2),   k_h = share of the categories that are equal

What was seen long ago says less about today: the weights have changed since. Where there are no categories `m` is
`k_x`, where there are no numbers it is `k_h`. The sum is halved so that `m` of a point with itself is 1 for any `mix`.

Sources: the decay in time: Bogunovic et al. 2016, "Time-Varying Gaussian Process Bandit Optimization" (arXiv
1601.06650), section 2, as used by Parker-Holder et al. 2020 (PB2, arXiv 2002.02518), section 3. Sum and product of the
kernels of numbers and categories: Ru et al. 2020, "Bayesian Optimisation over Multiple Continuous and Categorical
Inputs" (CoCaBO, arXiv 1906.08878), section 4.2, as used by Parker-Holder et al. 2021 (PB2-Mix, arXiv 2106.15883).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the kernel and the noise depend on; see the module for the letters.

    Attributes:
        scales: `l`, `(numbers,)`.
        signal: `s^2`.
        decay: `-log(1 - eps) / 2`: what is lost per segment, in logarithms of the covariance.
        mix: Of product against sum, in (0, 1).
        noise: Variance of the noise of observations.
    """

    scales: Tensor
    signal: Tensor
    decay: Tensor
    mix: Tensor
    noise: Tensor

    @property
    def epsilon(self) -> float:
        """`eps`: 0 where nothing changes with time, 1 where the past says nothing."""
        return float(1.0 - torch.exp(-2.0 * self.decay))


@dataclass(frozen=True, slots=True)
class Located:
    """Points as tensors.

    Attributes:
        times: `(points,)`, in segments.
        numbers: `(points, numbers)`.
        categories: `(points, categories)`, whole numbers.
    """

    times: Tensor
    numbers: Tensor
    categories: Tensor


def covariance(first: Located, second: Located, parameters: Parameters) -> Tensor:
    """Covariance `(first points, second points)` of the noise-free function."""
    decay = torch.exp(-parameters.decay * (first.times[:, None] - second.times[None, :]).abs())
    return parameters.signal * decay * _similarity(first, second, parameters)


def _similarity(first: Located, second: Located, parameters: Parameters) -> Tensor:
    has_numbers, has_categories = first.numbers.shape[1] > 0, first.categories.shape[1] > 0
    if not has_categories:
        return _of_numbers(first.numbers, second.numbers, parameters.scales)
    equal = (first.categories[:, None, :] == second.categories[None, :, :]).to(parameters.signal.dtype).mean(dim=2)
    if not has_numbers:
        return equal
    near = _of_numbers(first.numbers, second.numbers, parameters.scales)
    return (1.0 - parameters.mix) * (near + equal) / 2.0 + parameters.mix * near * equal


def _of_numbers(first: Tensor, second: Tensor, scales: Tensor) -> Tensor:
    # Differences first: squares of sums would cancel where points are close to each other.
    gaps = (first[:, None, :] - second[None, :, :]) / scales
    return torch.exp(-0.5 * (gaps * gaps).sum(dim=2))
