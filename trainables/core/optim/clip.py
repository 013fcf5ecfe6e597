"""Gradient clipping, each member to its own bound."""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.base import HparamSpec
from trainables.core.optim.base import Scalars, Tensors

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
    scalars = Scalars(factor)
    return {name: grad * scalars.like(grad) for name, grad in grads.items()}
