"""Arrays of images and labels, as NumPy files hold them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from trainables.base import DataError, Split
from trainables.images.examples import Part

#: Names that splits go by.
SPLIT_NAMES: Mapping[str, Split] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}
# Names of the arrays, with and without a split; those of Keras and of MedMNIST are among them.
_WHOLE = ("images", "labels")
_BY_SPLIT = (("x_{}", "y_{}"), ("{}_images", "{}_labels"), ("images_{}", "labels_{}"))


def read_arrays(path: Path) -> list[Part]:
    """Read an `.npz` file: arrays `images` and `labels`, or `x_train`, `y_train`, `x_test`, ... by split.

    Raises:
        DataError: The file is unreadable, or its arrays are not images with labels.
    """
    try:
        with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: cannot be read as .npz without pickled objects ({reason}); save it again") from None
    pairs = _pairs(arrays)
    if not pairs:
        known = ", ".join(sorted(arrays)) or "none"
        raise DataError(f"{path}: has arrays {known}; name them images and labels, or x_train, y_train, x_test, y_test")
    return [
        Part(source=str(path), images=images(path, arrays[x]), labels=labels(path, arrays[y], len(arrays[x])), split=s)
        for s, x, y in pairs
    ]


def _pairs(arrays: Mapping[str, np.ndarray]) -> list[tuple[Split | None, str, str]]:
    """Split and names of each pair of images and labels."""
    named: list[tuple[Split | None, str, str]] = [
        (split, x.format(name), y.format(name)) for name, split in SPLIT_NAMES.items() for x, y in _BY_SPLIT
    ]
    found = [pair for pair in named if pair[1] in arrays and pair[2] in arrays]
    return found or [(None, *_WHOLE)] * all(name in arrays for name in _WHOLE)


def images(where: Path, array: np.ndarray) -> np.ndarray:
    """Images as `[N, H, W, C]` uint8, from `[N, H, W]`, `[N, H, W, C]` or `[N, C, H, W]` of any type.

    C is 1, 3 or 4; where both could be, channels are last.

    Raises:
        DataError: There are other dimensions, or values that are no whole numbers from 0 to 255.
    """
    if array.ndim == 3:
        array = array[..., None]
    elif array.ndim == 4 and array.shape[-1] not in (1, 3, 4) and array.shape[1] in (1, 3, 4):
        array = np.moveaxis(array, 1, -1)
    if array.ndim != 4 or array.shape[-1] not in (1, 3, 4) or not all(array.shape[1:]):
        shape = list(array.shape)
        raise DataError(f"{where}: images have shape {shape}; give [N, H, W], or [N, H, W, C] with 1, 3 or 4 channels")
    if array.dtype != np.uint8:
        if array.dtype.kind not in "iufb":
            raise DataError(f"{where}: images are of type {array.dtype}; give whole numbers from 0 to 255")
        with np.errstate(invalid="ignore"):
            narrow = array.astype(np.uint8)
        if not np.array_equal(narrow, array):
            raise DataError(f"{where}: pixels are not all whole numbers from 0 to 255; scale, round and save as uint8")
        array = narrow
    return np.ascontiguousarray(array)


def labels(where: Path, array: np.ndarray, count: int) -> np.ndarray:
    """Labels as `(N,)` whole numbers or names, from `(N,)` or `[N, 1]`.

    Raises:
        DataError: They are neither, or not one for each image.
    """
    flat = array.reshape(-1) if array.ndim == 2 and array.shape[1] == 1 else array
    if flat.shape != (count,):
        raise DataError(f"{where}: {count} images have labels of shape {list(array.shape)}; give one label an image")
    if flat.dtype.kind not in "iuUb":
        raise DataError(f"{where}: labels are of type {array.dtype}; give whole numbers or names")
    return flat if flat.dtype.kind == "U" else flat.astype(np.int64)
