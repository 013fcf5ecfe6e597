"""Matrix products and table look-ups."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.core.ops.layout import per_member


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias` per member, as torch.nn.Linear.

    Args:
        x: `[K, ..., I]`.
        weight: `[K, O, I]`.
        bias: `[K, O]`, or None.

    Returns:
        `[K, ..., O]`.
    """
    rows = x if x.ndim == 3 else x.reshape(len(x), x[0].numel() // max(1, x.shape[-1]), x.shape[-1])
    y: Tensor = _Linear.apply(rows, weight, bias)
    return y if x.ndim == 3 else y.view(*x.shape[:-1], weight.shape[1])


class _Linear(torch.autograd.Function):
    """A product per member whose weight gradient is contiguous.

    Autograd's own comes out of `bmm` as a transposed view, and all that follows goes through memory in strides: norms,
    clipping and the optimizer. On a CPU, a compiled AdamW then takes seven times as long.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if bias is None:
            return _product(x, weight.transpose(1, 2))
        if len(x) == 1 or torch.compiler.is_compiling():
            # The sum is part of a later loop once it is compiled. One member's baddbmm takes five times its product.
            return _product(x, weight.transpose(1, 2)) + bias[:, None]
        return torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _ = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        return (
            _product(grad, weight) if wanted[0] else None,
            _product(grad.transpose(1, 2), x) if wanted[1] else None,
            grad.sum(1) if wanted[2] else None,
        )


def _product(a: Tensor, b: Tensor) -> Tensor:
    """`a[k] @ b[k]` for every k; a single one without the batch, which costs more than a small product."""
    return torch.mm(a[0], b[0])[None] if len(a) == 1 else torch.bmm(a, b)


def embedding(tokens: Tensor, weight: Tensor, padding: int | None = None) -> Tensor:
    """Rows of each member's table, as torch.nn.Embedding.

    Args:
        tokens: `(K, ...)` int64 in `[0, V)`. Not checked: beyond V lies the next member's table.
        weight: `[K, V, D]`.
        padding: A token whose row gets no gradient, or None.

    Returns:
        `[K, ..., D]`.
    """
    num_members, vocabulary, width = weight.shape
    first = torch.arange(num_members, device=tokens.device) * vocabulary
    index = tokens + per_member(first, tokens)
    rows = F.embedding(index, weight.view(num_members * vocabulary, width))
    return rows if padding is None else torch.where((tokens == padding)[..., None], rows.detach(), rows)
