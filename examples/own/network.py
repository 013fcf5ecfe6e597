"""A network, its loss and its data, as `network.yaml` trains them: nothing here knows of populations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn


class Network(nn.Module):
    """A small convolutional network for 8 x 8 pixels."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.BatchNorm2d(2 * channels), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(2 * channels * 4, 10)
        nn.init.zeros_(self.head.weight)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits `[examples, 10]` of pixels `[examples, 1, 8, 8]`."""
        logits: Tensor = self.head(self.dropout(self.body(pixels).flatten(1)))
        return logits


def loss(logits: Tensor, digit: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Mean cross entropy. What is keyword-only and has a float as default is a hyperparameter: here `smoothing`."""
    right = F.one_hot(digit, 10) * (1.0 - smoothing) + smoothing / 10
    return -(right * logits.log_softmax(-1)).sum(-1).mean()


def data() -> dict[str, tuple[Tensor, Tensor]]:
    """The 1,797 digits that come with scikit-learn, in three parts."""
    digits = load_digits()
    pixels, labels = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16.0, torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, validation, test = order.split([1200, 300, 297])
    return {
        "train": (pixels[train], labels[train]),
        "validation": (pixels[validation], labels[validation]),
        "test": (pixels[test], labels[test]),
    }
