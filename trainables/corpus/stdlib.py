"""The default corpus: the text of the running interpreter's standard library.

Python source by package, and the language reference's help topics as prose. Nothing is downloaded and nothing is
written; machines with the same Python have the same corpus, and its hash says so. Parts that a distribution leaves
out (Debian: `test`, `idlelib`, `lib2to3`) are simply absent.
"""

from __future__ import annotations

import os
import platform
import sysconfig
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from trainables.base import DataError
from trainables.corpus.documents import SPLITS, Document, distinct, split_by_rank

SOURCE = f"standard library of Python {platform.python_version()}"

# Not the library's own text; pydoc_data holds the topics that `prose` is made of.
_SKIPPED = {"site-packages", "dist-packages", "__pycache__", "pydoc_data", "lib-dynload"}
# A package with less text than this joins `other`: too small to be a domain of its own.
_SMALLEST_DOMAIN_BYTES = 250_000


def documents() -> list[Document]:
    """Every distinct text of the library, each with its domain and split.

    Raises:
        DataError: The library's source is not on this machine.
    """
    root = Path(sysconfig.get_path("stdlib"))
    found = distinct([*_topics(), *_sources(root)])
    if not found:
        raise DataError(f"{root}: no Python source found; give your own text with data=PATH")
    return split_by_rank(_without_small_domains(found))


def _sources(root: Path) -> Iterator[Document]:
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in _SKIPPED]
        for file in files:
            if file.endswith(".py"):
                path = Path(folder, file)
                content = _utf8(path)
                if content is not None:
                    name = path.relative_to(root).as_posix()
                    yield Document(name, _domain(name), content)


def _utf8(path: Path) -> np.ndarray | None:
    """The file's bytes, or None if they are not readable as UTF-8 (the library tests its codecs on such files)."""
    try:
        content = path.read_bytes()
        content.decode()
    except (OSError, UnicodeDecodeError):
        return None
    return np.frombuffer(content, dtype=np.uint8)


def _domain(name: str) -> str:
    parts = name.split("/")
    if len(parts) == 1:
        return "modules"
    return "tests" if {"test", "tests", "idle_test"} & set(parts[:-1]) else parts[0]


def _topics() -> Iterator[Document]:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return
    for topic, text in topics.items():
        content = np.frombuffer(text.encode(), dtype=np.uint8)
        yield Document(f"topic:{topic}", "prose", content)


def _without_small_domains(found: list[Document]) -> list[Document]:
    """Merge into `other` the domains with little text, or with too few texts for three splits."""
    sizes: dict[str, int] = defaultdict(int)
    counts: dict[str, int] = defaultdict(int)
    for document in found:
        sizes[document.domain] += len(document.content)
        counts[document.domain] += 1
    small = {d for d in sizes if sizes[d] < _SMALLEST_DOMAIN_BYTES or counts[d] < len(SPLITS)}
    return [replace(d, domain="other") if d.domain in small else d for d in found]
