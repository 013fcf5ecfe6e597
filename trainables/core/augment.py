"""Augmentation of images: where each pixel of an augmented image is taken from, and which are covered.

Draws are functions of (seed, consumed, site, index) alone, and how strong they act is live: one number per member.
Everything is in whole pixels, so that a compiled step sees the same images bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trainables.base import HparamSpec
from trainables.core.rng import Draws, below, site, uniform

_ROWS, _COLUMNS = site("augment.shift.rows"), site("augment.shift.columns")
_FLIP = site("augment.flip")
_CENTRE_ROWS, _CENTRE_COLUMNS = site("augment.cutout.rows"), site("augment.cutout.columns")

#: What may be augmented, all off by default.
HPARAMS: Mapping[str, HparamSpec] = {
    "shift": HparamSpec(
        kind="live", default=0, low=0, high=1024, doc="largest shift in pixels; beyond the edge it is repeated"
    ),
    "flip": HparamSpec(kind="live", default=0.0, low=0.0, high=1.0, doc="probability of mirroring left to right"),
    "cutout": HparamSpec(
        kind="live", default=0, low=0, high=1024, doc="side in pixels of a square covered in the mean colour"
    ),
}


def pixels(draws: Draws, hparams: Mapping[str, Tensor], count: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Which row and which column of the original each row and column of an augmented image shows.

    Shifted by whole numbers of pixels, uniform in [-shift, shift] in both directions, then mirrored with probability
    `flip`. Beyond its edge an image goes on as at the edge.

    Args:
        draws: The step's random draws.
        hparams: `shift` and `flip`, `(K,)` float64.
        count: Images per member.
        height: Rows.
        width: Columns.

    Returns:
        Rows `(K, count, height)` and columns `(K, count, width)`, int64.

    Source: He et al. 2016 (arXiv 1512.03385), section 4.2: shifts by up to 4 pixels and mirroring.
    """
    shift = hparams["shift"].long()
    rows, columns = (
        _shifted(below(draws.key(where), count, 2 * shift + 1) - shift[:, None], size)
        for where, size in ((_ROWS, height), (_COLUMNS, width))
    )
    mirrored = uniform(draws.key(_FLIP), count) < hparams["flip"][:, None]
    return rows, torch.where(mirrored[..., None], width - 1 - columns, columns)


def covered(draws: Draws, side: Tensor, count: int, height: int, width: int) -> Tensor:
    """Which pixels are cut out: a square around a pixel drawn uniformly, as far as it lies inside the image.

    Args:
        draws: The step's random draws.
        side: `(K,)` float64 in pixels; 0 covers nothing.
        count: Images per member.
        height: Rows.
        width: Columns.

    Returns:
        `(K, count, height, width)` bool.

    Source: DeVries and Taylor 2017 (arXiv 1708.04552), section 3.2.
    """
    rows, columns = (
        _near(below(draws.key(where), count, size), side.long(), size)
        for where, size in ((_CENTRE_ROWS, height), (_CENTRE_COLUMNS, width))
    )
    return rows[..., :, None] & columns[..., None, :]


def _shifted(by: Tensor, size: int) -> Tensor:
    """Places `(K, count, size)` of the original."""
    return (torch.arange(size, device=by.device) + by[..., None]).clamp(0, size - 1)


def _near(centre: Tensor, side: Tensor, size: int) -> Tensor:
    """Which of `size` places are among the `side` around a centre: `(K, count, size)` bool."""
    first = (centre - side[:, None] // 2)[..., None]
    place = torch.arange(size, device=centre.device)
    return (place >= first) & (place < first + side[:, None, None])
