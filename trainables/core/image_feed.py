"""Batches of labelled images, gathered by index from one tensor on the device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.base import Split
from trainables.core import augment
from trainables.core.hold import once
from trainables.core.model import NO_HPARAMS, Buffers
from trainables.core.order import examples
from trainables.core.rng import Draws, site

_ORDER = site("data.images")
# Images per evaluation batch. On a CPU it hardly matters up to 128; beyond, a transformer takes half as long again.
_EVALUATION_BATCH = {"cpu": 64}
_EVALUATION_BATCH_ELSEWHERE = 512


@dataclass(frozen=True, eq=False)
class ImageFeed:
    """Images and their labels.

    In training every example comes once in an epoch, in an order of each member's own, augmented; evaluation reads
    examples spread evenly over their split, the same for every member, as they are.

    Attributes:
        images: `[N, H, W, C]` uint8 by split, on the stack's device.
        labels: `(N,)` int64 by split, likewise.
        fill: `(C,)` uint8, the colour of what is cut out.
        batch_size: Images per member and training step.
        evaluation_examples: Images per split, at most.
    """

    images: Mapping[Split, Tensor]
    labels: Mapping[Split, Tensor]
    fill: Tensor
    batch_size: int
    evaluation_examples: int

    def buffers(self) -> Mapping[str, Tensor]:
        """None: where a member is in its data follows from (seed, consumed)."""
        return {}

    def batch(
        self, draws: Draws, hparams: Mapping[str, Tensor] = NO_HPARAMS, buffers: Buffers | None = None
    ) -> tuple[Tensor, Tensor]:
        """The members' next batches: images `[K, batch_size, C, H, W]` uint8, and labels `(K, batch_size)`.

        What `hparams` says nothing of is not augmented.
        """
        nothing = torch.zeros_like(draws.seed, dtype=torch.float64)
        strength = {name: hparams.get(name, nothing) for name in augment.HPARAMS}
        images, labels = self.images["train"], self.labels["train"]
        size, height, width, _ = images.shape
        # Computed once each: compiled, all of their hashing would otherwise be done again for every pixel.
        chosen = once(examples(draws, _ORDER, self.batch_size, size))
        rows, columns = map(once, augment.pixels(draws, strength, self.batch_size, height, width))
        seen = images[chosen[:, :, None, None], rows[..., :, None], columns[..., None, :]]
        hidden = once(augment.covered(draws, strength["cutout"], self.batch_size, height, width))
        seen = torch.where(hidden[..., None], self.fill, seen)
        return seen.movedim(-1, 2), labels[chosen]

    def evaluation(self, split: Split) -> Iterator[tuple[tuple[Tensor, Tensor], int]]:
        """Fixed images `[B, C, H, W]` uint8 and labels `(B,)`, each batch with its number of images."""
        images, labels = self.images[split], self.labels[split]
        num = min(self.evaluation_examples, len(labels))
        # Whole numbers only: of splits ordered by class, each class has its share.
        chosen = torch.arange(num, device=labels.device) * len(labels) // num
        for chunk in chosen.split(_EVALUATION_BATCH.get(labels.device.type, _EVALUATION_BATCH_ELSEWHERE)):
            yield (images[chunk].movedim(-1, 1), labels[chunk]), len(chunk)
