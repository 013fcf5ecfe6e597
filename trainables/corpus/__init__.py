"""Text as bytes, split into train, validation and test.

`load(None, ...)` is the text of the running interpreter's standard library, which every machine already has;
`load(path, ...)` is a user's own: a text file, a folder of text files, or Parquet and Arrow token shards.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from trainables.base import DataError
from trainables.corpus import stdlib, user
from trainables.corpus.documents import Corpus, assemble

__all__ = ["Corpus", "load"]


def load(data: str | None, domains: tuple[str, ...] | None, needed: int, by_folder: bool = False) -> Corpus:
    """Load a corpus; kept in the process, so that a second call is free.

    Args:
        data: A path, or None for the standard library.
        domains: Which of the corpus's domains to keep; None keeps all.
        needed: Bytes that every split must have at least.
        by_folder: Whether the folders in a user's folder are its domains; else all of it is one, `text`.

    Raises:
        DataError: The path or a domain is missing, or the data is unreadable, empty or too small.
    """
    if data is None:
        corpus = _of_stdlib(domains)
    else:
        path = Path(data)
        corpus = _of_user(path, user.signature(path), domains, needed, by_folder)
    for split, tokens in corpus.splits.items():
        if len(tokens) < needed:
            raise DataError(
                f"{corpus.source}: the {split} split has {len(tokens)} bytes; "
                f"give more text, or a smaller context: at least {needed} bytes a split"
            )
    return corpus


@lru_cache(maxsize=4)
def _of_stdlib(domains: tuple[str, ...] | None) -> Corpus:
    return assemble(stdlib.SOURCE, stdlib.documents(), domains)


@lru_cache(maxsize=4)
def _of_user(path: Path, signature: object, domains: tuple[str, ...] | None, needed: int, by_folder: bool) -> Corpus:
    return assemble(str(path), user.documents(path, needed, by_folder), domains)
