"""Losses, one value per member."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(
    logits: Tensor, targets: Tensor, smoothing: Tensor | None = None, counted: Tensor | None = None
) -> Tensor:
    """Mean cross entropy per member in nats, in float32 or better.

    Args:
        logits: `[K, N, V]`.
        targets: `(K, N)` int64.
        smoothing: `(K,)` share of the target spread evenly over all V classes, in [0, 1], or None for none.
            `F.cross_entropy` takes one float for all.
        counted: `(K, N)` bool, what the mean is over, or None for all.

    Returns:
        `(K,)`.

    Source: Szegedy et al. 2016, section 7 (label smoothing).
    """
    logits = _exact(logits)
    hard = _mean(_surprise(logits, targets), counted)
    if smoothing is None:
        return hard
    share = smoothing.to(hard.dtype)
    even = _mean(-logits.log_softmax(-1).mean(-1), counted)
    # A class ruled out by a logit of -inf costs those who smooth, not those who do not: 0 * inf would be NaN.
    return torch.where(share > 0, (1.0 - share) * hard + share * even, hard)


def _surprise(logits: Tensor, targets: Tensor) -> Tensor:
    """Negative log likelihood of each target, `(K, N)`."""
    if torch.compiler.is_compiling():
        value: Tensor = _CrossEntropy.apply(logits, targets)[0]
        return value
    flat = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return flat.view(targets.shape)


class _CrossEntropy(torch.autograd.Function):
    """Cross entropy whose gradient is one pass over the logits, to be compiled.

    Autograd's own comes from `nll_loss`, which scatters ones, and `log_softmax`, which sums them again: on a CPU,
    compiled, that takes twice the time.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        log_probability = logits.log_softmax(-1)
        return -log_probability.gather(-1, targets[..., None]).squeeze(-1), log_probability

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(inputs[1], output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, None]:
        targets, log_probability = ctx.saved_tensors
        # 32 bits: as wide as the logits, so that both are compared in the same vectors.
        classes = torch.arange(log_probability.shape[-1], dtype=torch.int32, device=targets.device)
        own = grad[..., None]
        spread = log_probability.exp() * own
        return torch.where(classes == targets.int()[..., None], spread - own, spread), None


def z_loss(logits: Tensor, counted: Tensor | None = None) -> Tensor:
    """Mean `log(Z)^2` per member, in float32 or better, where `Z = sum exp(logits)` is what softmax divides by.

    Cross entropy does not see a constant added to all logits; this keeps them from drifting.

    Args:
        logits: `[K, N, V]`.
        counted: `(K, N)` bool, what the mean is over, or None for all.

    Returns:
        `(K,)`.

    Source: Chowdhery et al. 2022 (arXiv 2204.02311, PaLM), section 5, with a coefficient of 1e-4.
    """
    return _mean(_exact(logits).logsumexp(-1).square(), counted)


def penalized(loss: Tensor, penalty: Tensor, strength: Tensor) -> Tensor:
    """A loss whose gradient is that of `loss + strength * penalty`, and whose value stays `loss`.

    So members with other strengths, as evaluations, report losses that compare. Where the strength is 0, value and
    gradient are those of `loss` bit for bit, even if the penalty overflows.

    Args:
        loss: `(K,)`.
        penalty: `(K,)`.
        strength: `(K,)`, at least 0.

    Returns:
        `(K,)`.
    """
    share = strength.to(loss.dtype)
    return torch.where(share > 0, loss + share * (penalty - penalty.detach()), loss)


def _exact(logits: Tensor) -> Tensor:
    """Sums over classes and tokens need more than 8 or 11 bits."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def _mean(values: Tensor, counted: Tensor | None) -> Tensor:
    """The mean over what counts, `(K, N)` to `(K,)`; 0 where nothing does.

    A member of whom all counts gets the bits of the plain mean, forward and backward, whatever the others do.
    """
    plain = values.mean(1)
    if counted is None:
        return plain
    total = torch.where(counted, values, 0.0).sum(1)
    return torch.where(counted.all(1), plain, total / counted.sum(1).clamp(min=1))
