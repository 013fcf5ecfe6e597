"""A Gaussian process whose parameters are the most probable ones.

The process is one of gpytorch's and botorch's; kernels and priors are given. Every parameter has a prior and is fitted
to the maximum of the posterior by L-BFGS-B, from fixed starts: the same data give the same process, and no generator is
asked. (`botorch.fit.fit_gpytorch_mll` draws new starts from torch's global generator when one fails.) All in float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from botorch.models.gpytorch import GPyTorchModel
from botorch.optim.fit import fit_gpytorch_mll_scipy
from gpytorch.constraints import Positive
from gpytorch.distributions import MultivariateNormal
from gpytorch.kernels import Kernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.models import ExactGP
from gpytorch.priors import NormalPrior
from torch import Tensor

#: Values are cut off so many robust standard deviations from their median: one loss of 1e30 would leave the others
#: equal to each other.
_WIDTH = 5.0
#: Squares of it can still be added up.
_HUGE = 1e100
#: Steps of one fit at most; it is seldom half as many.
_STEPS = 100
#: Where a process has its parameters.
KERNEL, NOISE = "covar_module.raw", "likelihood.noise_covar.raw_noise"


class Process(ExactGP, GPyTorchModel):
    """A Gaussian process with mean 0, a kernel, and noise, as botorch wants its models.

    Args:
        at: Where observations were made, `(points, columns)`.
        targets: Standardised, `(points,)`.
        kernel: Of these points; its parameters are one vector, `raw`.
    """

    _num_outputs = 1

    def __init__(self, at: Tensor, targets: Tensor, kernel: Kernel) -> None:
        logarithmic = Positive(transform=torch.exp, inv_transform=torch.log)
        super().__init__(at, targets, GaussianLikelihood(noise_constraint=logarithmic).double())
        self.covar_module = kernel

    def forward(self, at: Tensor) -> MultivariateNormal:
        """What is known of the values at points before anything was observed."""
        return MultivariateNormal(torch.zeros_like(at[..., 0]), self.covar_module(at))


def fit_parameters(
    process: Process, prior: Mapping[str, Tensor], starts: Sequence[Mapping[str, Tensor]], steps: int = _STEPS
) -> None:
    """Give a process the most probable parameters that are found.

    Args:
        process: Its parameters that need no gradient are left as they are.
        prior: Of each parameter, by `KERNEL` and `NOISE`, `(4, entries)`: mean and standard deviation of a normal
            distribution, and bounds.
        starts: Of the parameters, by the same names; those that are left out start from their means.
        steps: At most so many from each start.
    """
    parameters = {name: it for name, it in process.named_parameters() if it.requires_grad}
    for name in parameters:
        module, _, entry = name.rpartition(".")
        process.get_submodule(module).register_prior("prior", NormalPrior(*prior[name][:2]), entry)
    bounds = {name: (it[2], it[3]) for name, it in prior.items()}
    evidence = ExactMarginalLogLikelihood(process.likelihood, process).train()
    reached = []
    for start in starts:
        _set(parameters, {**{name: it[0] for name, it in prior.items()}, **start})
        options = {"maxiter": steps, "ftol": 1e-7}
        found = fit_gpytorch_mll_scipy(evidence, parameters, bounds, options=options)
        reached.append((found.fval, {name: it.detach().clone() for name, it in parameters.items()}))
    _set(parameters, min(reached, key=lambda it: it[0])[1])
    process.eval().requires_grad_(False)


def winsorised(values: np.ndarray) -> np.ndarray:
    """The values, those far out brought to the edge of the usual; where most are equal, only what could overflow."""
    values = np.clip(values, -_HUGE, _HUGE)
    middle = np.median(values)
    deviation = 1.4826 * np.median(np.abs(values - middle))
    return np.clip(values, middle - _WIDTH * deviation, middle + _WIDTH * deviation) if deviation > 0 else values


def _set(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, it in parameters.items():
            it.copy_(values[name])
