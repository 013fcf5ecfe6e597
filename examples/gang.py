"""A network that two processes share, as `examples/gang.yaml` trains it: any torch.nn module would do."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables import images
from trainables.core.image_feed import ImageFeed

_LARGEST = 255.0


def make() -> nn.Module:
    """A small network for 8 x 8 pixels, with fresh weights. Each of its layers is gathered when it is its turn."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 10)
    )


def loss(network: nn.Module, batch: Any) -> Tensor:
    """The mean cross entropy of a batch of digits."""
    pixels, labels = batch
    return functional.cross_entropy(network(pixels / _LARGEST), labels)


def feed(device: torch.device) -> ImageFeed:
    """The 1,797 digits that come with scikit-learn, 64 at a time."""
    digits = images.load(None)
    return ImageFeed(
        images={split: torch.from_numpy(pixels).to(device) for split, pixels in digits.images.items()},
        labels={split: torch.from_numpy(labels).to(device) for split, labels in digits.labels.items()},
        fill=torch.from_numpy(digits.mean.round().astype(np.uint8)).to(device),
        batch_size=64,
        evaluation_examples=1000,
    )
