"""A user's own corpus: a text file, a folder of text files, or Parquet and Arrow token shards.

A folder is split by file, or, where its entries are named `train`, `validation` and `test`, as they say. A single
file (or a folder with too few files to fill every split) is cut into blocks, of which 1 in 20 goes to each held-out
split. All of it is one domain, or, where that is asked for, each folder in the folder is one, split by itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from trainables.base import DataError
from trainables.corpus.documents import (
    SPLITS,
    Document,
    distinct,
    split_by_position,
    split_by_rank,
)
from trainables.corpus.shards import SUFFIXES, read_shard

_DOMAIN = "text"
# As git does: a file with a zero byte near its beginning is no text.
_SNIFFED_BYTES = 8192


def signature(path: Path) -> tuple[tuple[str, int, int], ...]:
    """What changes when the data does: name, size and time of every file.

    Raises:
        DataError: There is nothing at the path.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; check the path given as data=PATH")
    found = []
    for file in _files(path):
        status = file.stat()
        found.append((str(file), status.st_size, status.st_mtime_ns))
    return tuple(found)


def documents(path: Path, needed: int, by_folder: bool = False) -> list[Document]:
    """Every distinct text at the path, each with its split.

    Args:
        path: A file or folder.
        needed: Bytes that every split must have; a folder that cannot give them by file is cut into blocks.
        by_folder: Whether each folder in the folder (in those of the splits, where they are named) is a domain.

    Raises:
        DataError: A file is unreadable, there is no text, or only some of the splits are named.
    """
    found = [d for file in _files(path) if (d := _read(file, path)) is not None]
    if not any(len(d.content) for d in found):
        raise DataError(f"{path}: no text found; give at least one non-empty text file")
    named = _named_splits(path)
    if by_folder:
        found = [replace(d, domain=_folder(d.name, depth=1 if named else 0)) for d in found]
    if named:
        return _without_repeats(_by_named_split(path, found, named))
    domains: dict[str, list[Document]] = defaultdict(list)
    for document in distinct(found):
        domains[document.domain].append(document)
    return [document for own in domains.values() for document in _split(own, needed)]


def _split(own: Sequence[Document], needed: int) -> list[Document]:
    """A domain's documents, by file if that gives every split enough."""
    by_file = split_by_rank(own)
    sizes = {s: sum(len(d.content) for d in by_file if d.split == s) for s in SPLITS}
    return by_file if min(sizes.values()) >= needed else split_by_position(own)


def _folder(name: str, depth: int) -> str:
    """The folder at a depth that a file is in; files beside the folders are a domain of their own."""
    folders = name.split("/")[depth:-1]
    return folders[0] if folders else _DOMAIN


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = (f for f in path.rglob("*") if f.is_file())
    return sorted(f for f in files if not _hidden(f.relative_to(path)))


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def _read(file: Path, root: Path) -> Document | None:
    """The file as a document, or None for a binary file in a folder."""
    name = file.name if file == root else file.relative_to(root).as_posix()
    if file.suffix in SUFFIXES:
        return Document(name, _DOMAIN, read_shard(file))
    try:
        content = np.frombuffer(file.read_bytes(), dtype=np.uint8)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); check its permissions") from None
    if (content[:_SNIFFED_BYTES] == 0).any():
        if file == root:
            raise DataError(f"{file}: is binary, not text; give text, Parquet or Arrow")
        return None
    return Document(name, _DOMAIN, content)


def _named_splits(path: Path) -> dict[str, Path]:
    """Entries of a folder that are named like splits, by split; a `test` without `train` is just a name."""
    if path.is_file():
        return {}
    named: dict[str, Path] = {entry.stem: entry for entry in sorted(path.iterdir()) if entry.stem in SPLITS}
    return named if "train" in named else {}


def _by_named_split(path: Path, found: Sequence[Document], named: dict[str, Path]) -> Iterator[Document]:
    missing = [split for split in SPLITS if split not in named]
    if missing:
        raise DataError(f"{path}: has {', '.join(sorted(named))} but no {missing[0]}; add it, or rename them all")
    for document in found:
        first = Path(document.name).parts[0]
        for split in SPLITS:
            if Path(first).stem == split:
                yield replace(document, split=split)


def _without_repeats(found: Iterator[Document]) -> list[Document]:
    """Drop repeated contents; of a text in two splits the held-out copy stays, so nothing leaks into training."""
    order = {"test": 0, "validation": 1, "train": 2}
    held_out_first = sorted(found, key=lambda d: (order[d.split], d.name))
    return distinct(held_out_first, ordered=True)
