"""Folders of pictures, one for each class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from trainables.base import DataError, Split
from trainables.images import pictures
from trainables.images.arrays import SPLIT_NAMES
from trainables.images.examples import Part

SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})


def read_folder(path: Path) -> list[Part]:
    """Read `class_name/*.png` or `.jpg`, at any depth below a class, in folders named by split or not.

    Raises:
        DataError: A class is empty, or a picture is unreadable or of another size than the others.
    """
    found: list[tuple[Split | None, str, Path]] = []
    for split, top in _tops(path):
        for folder in _folders(top):
            files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES and not _hidden(f, folder))
            if not files:
                raise DataError(f"{folder}: class has no .png or .jpg; add some, or remove the folder")
            found += [(split, folder.name, file) for file in files]
    if not found:
        raise DataError(f"{path}: no images found; give CLASS/*.png or .jpg, .npz or Parquet")
    # In one go, so that all have the same size and number of channels.
    images = pictures.decode((str(file), _read(file)) for _, _, file in found)
    labels = np.array([name for _, name, _ in found])
    splits = np.array([split or "" for split, _, _ in found])
    return [
        Part(source=str(path), images=images[splits == name], labels=labels[splits == name], split=_split(name))
        for name in dict.fromkeys(splits.tolist())
    ]


def _split(name: str) -> Split | None:
    return SPLIT_NAMES.get(name)


def _tops(path: Path) -> Iterator[tuple[Split | None, Path]]:
    """Folders of classes: those named like splits, if one is for training and holds folders itself; else the whole."""
    named = {folder: SPLIT_NAMES.get(folder.name.lower()) for folder in _folders(path)}
    if any(split == "train" and _folders(folder) for folder, split in named.items()):
        for folder, split in named.items():
            if split is None:
                raise DataError(f"{folder}: is no split, but there are others; keep train, validation and test only")
            yield split, folder
    else:
        yield None, path


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _hidden(file: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(root).parts)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); check its permissions") from None
