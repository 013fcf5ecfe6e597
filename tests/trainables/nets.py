"""Modules, losses and data as people write them, for tests of `adapt.from_module`."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

CLASSES, WIDTH, STEPS = 3, 6, 4


class Plain(nn.Module):
    """All of it has a stacked form; it makes its weights itself."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(WIDTH, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.1)
        )
        self.head = nn.Linear(width, CLASSES)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.constant_(self.head.bias, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.body(x))
        return y


class Attentive(nn.Module):
    """Runs under vmap: attention, a mask, a running mean that is assigned, a part that is frozen and one not used."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs = nn.Linear(WIDTH, 8)
        self.inputs.weight.requires_grad_(False)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.dropout = nn.Dropout(0.0)
        self.head = nn.Linear(8, CLASSES)
        self.unused = nn.Linear(2, 2)
        self.register_buffer("random", torch.randn(8))
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("mask", torch.ones(STEPS, STEPS, dtype=torch.bool).triu(1), persistent=False)
        self.register_buffer("kept_mask", torch.eye(STEPS, dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        y = self.inputs(x) + self.random
        y = self.layer(y, src_mask=self.mask & ~self.kept_mask)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * y.mean((0, 1)).detach()
        logits: Tensor = self.head(self.dropout(y[:, -1] - self.mean))
        return logits


class Recurrent(nn.Module):
    """Runs for one member after the other: an LSTM, and dropout of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(WIDTH, 5, batch_first=True)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        y = F.dropout(self.lstm(x)[0][:, -1], 0.1, self.training)
        logits: Tensor = self.head(self.dropout(y))
        return logits


class Tied(nn.Module):
    """Has one weight in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.out.weight = self.into.weight

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(self.into(x).tanh())
        return y


class Two(nn.Module):
    """Takes two inputs, one of them whole numbers, and gives two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Embedding(5, WIDTH)
        self.mix = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor, kind: Tensor) -> tuple[Tensor, Tensor]:
        y = x + self.rows(kind)
        return self.mix(y), y


def smoothed(output: Tensor, target: Tensor, *, smoothing: float | Tensor = 0.1) -> Tensor:
    """Cross entropy, with a hyperparameter of its own."""
    wanted = F.one_hot(target, output.shape[-1]) * (1.0 - smoothing) + smoothing / output.shape[-1]
    return -(wanted * output.log_softmax(-1)).sum(-1).mean()


def by_torch(output: Tensor, target: Tensor, *, smoothing: float = 0.1, rows: int = 1_000) -> Tensor:
    """The same by torch, which takes no tensor for it."""
    return F.cross_entropy(output[:rows], target[:rows], label_smoothing=smoothing)


def of_two(output: tuple[Tensor, Tensor], target: Tensor, weight: Tensor) -> Tensor:
    """Of two outputs and two targets."""
    logits, y = output
    return (F.cross_entropy(logits, target, reduction="none") * weight).mean() + 1e-3 * y.square().mean()


def choosy(output: Tensor, target: Tensor) -> Tensor:
    """Looks at its values, which vmap does not let it."""
    loss = F.cross_entropy(output, target)
    return loss if loss.item() < 100.0 else loss / 2.0


def _examples(num: int, seed: int, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, num)
    x = rng.normal(size=(num, *shape, WIDTH))
    x[..., :CLASSES] += np.eye(CLASSES)[labels].reshape(num, *(1,) * len(shape), CLASSES)
    return x.astype(np.float32), labels


def rows() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Arrays, one vector per example."""
    return {"train": _examples(60, 0), "validation": _examples(21, 1), "test": _examples(20, 2)}


def series() -> dict[str, Dataset]:
    """Data sets of sequences."""
    sizes = {"train": (40, 3), "validation": (17, 4), "test": (16, 5)}
    return {
        split: TensorDataset(*map(torch.from_numpy, _examples(num, seed, STEPS)))
        for split, (num, seed) in sizes.items()
    }


def pairs() -> dict[str, tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]]:
    """Two inputs, two targets."""
    found = {}
    for split, seed in (("train", 5), ("validation", 6)):
        x, labels = _examples(30, seed)
        rng = np.random.default_rng(seed)
        found[split] = ((x, rng.integers(0, 5, 30)), (labels, rng.random(30)))
    return found
