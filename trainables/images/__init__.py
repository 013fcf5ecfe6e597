"""Labelled images, split into train, validation and test.

`load(None)` is the handwritten digits that come with scikit-learn; `load(path)` is a user's own: a folder of pictures
with one folder per class, an `.npz` file of arrays, or Parquet.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from trainables.images import digits, user
from trainables.images.examples import Images, assemble

__all__ = ["Images", "load"]


def load(data: str | None) -> Images:
    """Load a data set; kept in the process, so that a second call is free.

    Args:
        data: A path, or None for the digits.

    Raises:
        DataError: The path is missing, or the data is unreadable, of mixed sizes or too small.
    """
    if data is None:
        return _digits()
    path = Path(data)
    return _of_user(path, user.signature(path))


@lru_cache(maxsize=1)
def _digits() -> Images:
    return assemble(digits.SOURCE, digits.parts())


@lru_cache(maxsize=2)
def _of_user(path: Path, signature: object) -> Images:
    return assemble(str(path), user.parts(path))
