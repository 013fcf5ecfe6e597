"""Matrix products and table look-ups."""

from __future__ import annotations

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
    columns = weight.transpose(1, 2)
    y = torch.bmm(rows, columns) if bias is None else torch.baddbmm(bias[:, None], rows, columns)
    return y if x.ndim == 3 else y.view(*x.shape[:-1], weight.shape[1])


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
