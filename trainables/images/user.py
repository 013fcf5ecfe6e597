"""A user's own images: a folder with one folder per class, an `.npz` file, or Parquet files."""

from __future__ import annotations

import re
from pathlib import Path

from trainables.base import DataError, Split
from trainables.images.arrays import SPLIT_NAMES, read_arrays
from trainables.images.examples import Part
from trainables.images.folders import read_folder
from trainables.images.tables import read_table


def signature(path: Path) -> tuple[tuple[str, int, int], ...]:
    """What changes when the data does: name, size and time of every file.

    Raises:
        DataError: There is nothing at the path.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; check the path given as data=PATH")
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    statuses = [(str(file), file.stat()) for file in files]
    return tuple((name, status.st_size, status.st_mtime_ns) for name, status in statuses)


def parts(path: Path) -> list[Part]:
    """Every image at the path.

    Raises:
        DataError: The path is of no known kind, or something there cannot be used.
    """
    if path.is_dir():
        tables = sorted(path.rglob("*.parquet"))
        return [read_table(table, _split(path, table)) for table in tables] if tables else read_folder(path)
    if path.suffix == ".npz":
        return read_arrays(path)
    if path.suffix == ".parquet":
        return [read_table(path, None)]
    raise DataError(f"{path}: is of no known kind; give a folder with a folder per class, .npz, or .parquet")


def _split(root: Path, table: Path) -> Split | None:
    """The split that a table's folder or name begins with: `test/0.parquet`, `test-00000-of-00001.parquet`."""
    first = Path(table.relative_to(root).parts[0]).stem
    return SPLIT_NAMES.get(re.split(r"[^a-z]", first.lower())[0])
