"""Batches of token windows, gathered by index from one tensor on the device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.base import Split
from trainables.core.model import NO_HPARAMS, Buffers
from trainables.core.rng import Draws, below, site

_ORDER = site("data.order")
# Windows per evaluation batch. On a CPU small enough to stay in its cache (64 take 1.7 times as long as 8).
_EVALUATION_BATCH = {"cpu": 8}
_EVALUATION_BATCH_ELSEWHERE = 64


@dataclass(frozen=True, eq=False)
class TokenFeed:
    """Windows of consecutive tokens.

    Training windows begin where a hash of (seed, consumed, row) says; evaluation windows are spread evenly over their
    split and are the same for every member.

    Attributes:
        tokens: `(length,)` uint8 by split, on the stack's device.
        window: Tokens per window: one more than the model's context, as targets are inputs shifted by one.
        batch_size: Windows per member and training step.
        evaluation_windows: Windows per split, at most; fewer where the split is too small for distinct ones.
    """

    tokens: Mapping[Split, Tensor]
    window: int
    batch_size: int
    evaluation_windows: int

    def buffers(self) -> Mapping[str, Tensor]:
        """None: where a member is in its data follows from (seed, consumed)."""
        return {}

    def batch(self, draws: Draws, hparams: Mapping[str, Tensor] = NO_HPARAMS, buffers: Buffers | None = None) -> Tensor:
        """The members' next batches: `[K, batch_size, window]` int64."""
        tokens = self.tokens["train"]
        num_starts = len(tokens) - self.window + 1
        starts = below(draws.key(_ORDER), self.batch_size, num_starts)
        return windows(tokens, starts, self.window)

    def evaluation(self, split: Split) -> Iterator[tuple[Tensor, int]]:
        """Fixed windows, `[windows, window]` int64, each batch with its number of windows."""
        tokens = self.tokens[split]
        last = len(tokens) - self.window
        num = max(1, min(self.evaluation_windows, (last + self.window) // self.window))
        starts = torch.linspace(0, last, num, dtype=torch.float64, device=tokens.device).long()
        for chunk in starts.split(_EVALUATION_BATCH.get(tokens.device.type, _EVALUATION_BATCH_ELSEWHERE)):
            yield windows(tokens, chunk, self.window), len(chunk)


def windows(tokens: Tensor, starts: Tensor, window: int) -> Tensor:
    """Consecutive tokens from some places on: int64, in the shape of the places, with a last dimension more."""
    within = torch.arange(window, device=tokens.device)
    return tokens[starts[..., None] + within].long()
