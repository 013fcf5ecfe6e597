"""Labelled images, and the data set put together from parts of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from trainables.base import DataError, Split

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
# Of every 10 different images of a class one is for each split that is to be held out; the first is for training.
_PERIOD = 10
# An image in two splits stays in the one that is named first, so that nothing leaks into training.
_KEPT: tuple[Split, ...] = ("test", "validation", "train")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Part:
    """Labelled images of one size.

    Attributes:
        source: Where they are from, for messages.
        images: `[N, H, W, C]` uint8.
        labels: `(N,)` of whole numbers or names.
        split: Where they go; None leaves it to `assemble`.
    """

    source: str
    images: np.ndarray
    labels: np.ndarray
    split: Split | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """Images by split, each split ordered by class and, within one, by a hash of the pixels.

    Attributes:
        source: Where they are from.
        classes: Names of the classes; a label is an index into them.
        images: `[N, H, W, C]` uint8 by split.
        labels: `(N,)` int64 by split.
        mean: `(C,)` float64, of the training images' channels.
        std: `(C,)` float64, likewise; 1 where a channel is constant.
        num_repeats: Images left out because the same pixels are in a split that is held out.
        sha256: Hash of all splits, in order.
    """

    source: str
    classes: tuple[str, ...]
    images: Mapping[Split, np.ndarray]
    labels: Mapping[Split, np.ndarray]
    mean: np.ndarray
    std: np.ndarray
    num_repeats: int
    sha256: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        height, width, channels = self.images["train"].shape[1:]
        return height, width, channels

    def provenance(self) -> dict[str, str | int]:
        """What a sweep records of its data."""
        height, width, channels = self.shape
        return {
            "source": self.source,
            "sha256": self.sha256,
            "num_classes": len(self.classes),
            "height": height,
            "width": width,
            "channels": channels,
            "num_repeats": self.num_repeats,
            **{f"examples_{split}": len(labels) for split, labels in self.labels.items()},
        }


@dataclass(frozen=True, slots=True, eq=False)
class _Examples:
    """All examples, whatever part they are from.

    Attributes:
        images: `[N, H, W, C]` uint8.
        labels: `(N,)` int64.
        digests: Hashes of the pixels.
        splits: `(N,)` places in `SPLITS`; -1 where nobody said.
    """

    images: np.ndarray
    labels: np.ndarray
    digests: np.ndarray
    splits: np.ndarray

    def only(self, kept: np.ndarray) -> _Examples:
        return _Examples(self.images[kept], self.labels[kept], self.digests[kept], self.splits[kept])


def assemble(source: str, parts: Sequence[Part]) -> Images:
    """Put parts together into a data set.

    Held-out splits that no part is for are taken from the training images: of every 10 different images of a class one
    each, chosen by a hash of the pixels. So the result depends on the images alone, not on their names or order.

    Args:
        source: Where the parts are from.
        parts: Either all have a split, some of them `train`, or none has.

    Raises:
        DataError: There are no images, their sizes differ, or a class has too few.
    """
    parts = [part for part in parts if len(part.labels)]
    _check(source, parts)
    classes, labels = _classes(source, parts)
    images = np.concatenate([part.images for part in parts])
    digests = np.array([hashlib.sha256(image.tobytes()).digest() for image in images], dtype=object)
    places = [-1 if part.split is None else SPLITS.index(part.split) for part in parts]
    splits = np.repeat(places, [len(part.labels) for part in parts])
    found = _Examples(images, labels, digests, splits)
    whole = _with_all_splits(source, _without_leaks(found), classes)
    return _split(source, classes, whole, len(found.labels) - len(whole.labels))


def _check(source: str, parts: Sequence[Part]) -> None:
    if not parts:
        raise DataError(f"{source}: no images found; give at least 3 of each class")
    first = parts[0]
    for part in parts:
        if (part.split is None) != (first.split is None):
            one, other = (part, first) if part.split is None else (first, part)
            raise DataError(f"{one.source}: says no split, but {other.source} does; name train, validation or test")
        if part.images.shape[1:] != first.images.shape[1:]:
            raise DataError(
                f"{part.source}: images are {_size(part.images)}, but {_size(first.images)} in {first.source}; "
                "bring all to one size"
            )


def _size(images: np.ndarray) -> str:
    height, width, channels = images.shape[1:]
    return f"{height} x {width} with {channels} channel{'s' if channels > 1 else ''}"


def _classes(source: str, parts: Sequence[Part]) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the classes in order, and all labels as indices into them."""
    kinds = {part.labels.dtype.kind in "iu": part.source for part in parts}
    if len(kinds) > 1:
        raise DataError(f"{kinds[True]}: labels are numbers, but names in {kinds[False]}; give one of both")
    names, labels = np.unique(np.concatenate([part.labels for part in parts]), return_inverse=True)
    if len(names) < 2:
        raise DataError(f"{source}: all images are of class {names[0]}; give at least 2 classes")
    return tuple(map(str, names)), labels.reshape(-1).astype(np.int64)


def _without_leaks(found: _Examples) -> _Examples:
    """Leave out images whose pixels are also in a split that is held out more strictly."""
    kept = np.ones(len(found.labels), dtype=bool)
    seen: set[bytes] = set()
    for split in _KEPT:
        own = found.splits == SPLITS.index(split)
        repeats = np.array([digest in seen for digest in found.digests], dtype=bool)
        kept &= ~(own & repeats)
        seen |= set(found.digests[own])
    return found.only(kept)


def _with_all_splits(source: str, found: _Examples, classes: Sequence[str]) -> _Examples:
    """Take the splits that nobody gave from the training images, or from all where no split was given."""
    given = {SPLITS[place] for place in np.unique(found.splits) if place >= 0}
    if given and "train" not in given:
        raise DataError(f"{source}: has {', '.join(sorted(given))} but no train; add it")
    missing = [split for split in SPLITS[1:] if split not in given]
    pool = np.flatnonzero(found.splits <= 0)
    _check_every_class(source, found.labels[pool], classes)
    splits = found.splits.copy()
    splits[pool] = _by_rank(source, found.only(pool), classes, missing)
    return replace(found, splits=splits)


def _check_every_class(source: str, labels: np.ndarray, classes: Sequence[str]) -> None:
    counts = np.bincount(labels, minlength=len(classes))
    if not counts.all():
        raise DataError(f"{source}: class {classes[int(counts.argmin())]} has no training images; add some")


def _by_rank(source: str, pool: _Examples, classes: Sequence[str], missing: Sequence[Split]) -> list[int]:
    """A split for each image: those with the same pixels go together, so that none is trained on and held out."""
    places = [0, *map(SPLITS.index, missing)]
    chosen: dict[bytes, int] = {}
    for label, name in enumerate(classes):
        own = sorted(set(pool.digests[pool.labels == label]) - chosen.keys())
        if len(own) < len(places):
            raise DataError(f"{source}: class {name} has {len(own)} different images; give at least {len(places)}")
        for index, digest in enumerate(own):
            rank = index % _PERIOD
            chosen[digest] = places[rank] if rank < len(places) else 0
    return [chosen[digest] for digest in pool.digests]


def _split(source: str, classes: tuple[str, ...], whole: _Examples, num_repeats: int) -> Images:
    order = sorted(range(len(whole.labels)), key=lambda i: (whole.labels[i], whole.digests[i]))
    sorted_ = whole.only(np.array(order))
    images: dict[Split, np.ndarray] = {}
    labels: dict[Split, np.ndarray] = {}
    digest = hashlib.sha256(repr((classes, whole.images.shape[1:])).encode())
    for place, split in enumerate(SPLITS):
        own = sorted_.splits == place
        images[split], labels[split] = sorted_.images[own], sorted_.labels[own]
        digest.update(images[split].data)
        digest.update(labels[split].data)
    mean, std = _moments(images["train"])
    return Images(source, classes, images, labels, mean, std, num_repeats, digest.hexdigest())


def _moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel; whole numbers are counted, so both are exact to rounding."""
    channels = images.reshape(-1, images.shape[-1])
    counts = np.stack([np.bincount(channel, minlength=256) for channel in channels.T]) / len(channels)
    levels = np.arange(256)
    mean = counts @ levels
    std = np.sqrt((counts * (levels - mean[:, None]) ** 2).sum(1))
    return mean, np.where(std > 0, std, 1.0)
