"""Documents, and the corpus assembled from them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from trainables.base import DataError, Split

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
# Of every 20 documents one is for validation and one for test; the first is for training, so three fill all splits.
_PERIOD = 20
_SPLIT_OF_RANK: Mapping[int, Split] = {1: "validation", 2: "test"}
# Largest block of a text that is cut by position; and a step, coprime to the period, that parts the held-out blocks.
_BLOCK_BYTES = 65_536
_SCATTER = 7


@dataclass(frozen=True, slots=True)
class Document:
    """One text that must not be torn between splits.

    Attributes:
        name: Relative path or topic.
        domain: Kind of text it belongs to.
        content: Its bytes, `(length,)` uint8.
        split: Where it goes.
    """

    name: str
    domain: str
    content: np.ndarray
    split: Split = "train"


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """Bytes by split, ordered by domain.

    Attributes:
        source: Where the text is from.
        splits: `(bytes,)` uint8 by split.
        spans: First and past-the-last byte of every domain in every split.
        num_documents: How many texts were kept.
        sha256: Hash of all splits, in order.
    """

    source: str
    splits: Mapping[Split, np.ndarray]
    spans: Mapping[Split, Mapping[str, tuple[int, int]]]
    num_documents: int
    sha256: str

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains, in order."""
        return tuple(self.spans["train"])

    def provenance(self) -> dict[str, str | int]:
        """What a sweep records of its data."""
        return {
            "source": self.source,
            "sha256": self.sha256,
            "num_documents": self.num_documents,
            "domains": ",".join(self.domains),
            **{f"bytes_{split}": len(tokens) for split, tokens in self.splits.items()},
        }


def split_by_rank(documents: Iterable[Document]) -> list[Document]:
    """Give every document its split: in each domain, in order of the names' hashes, 1 in 20 to each held-out split.

    Depends on the names alone, so it is the same on every machine that has the same documents.
    """
    ranks: dict[str, int] = defaultdict(int)
    placed = []
    for document in sorted(documents, key=lambda d: hashlib.sha256(d.name.encode()).digest()):
        rank = ranks[document.domain] % _PERIOD
        ranks[document.domain] += 1
        placed.append(replace(document, split=_SPLIT_OF_RANK.get(rank, "train")))
    return sorted(placed, key=lambda d: (d.domain, d.name))


def split_by_position(documents: Sequence[Document]) -> list[Document]:
    """Cut the documents' joined text into blocks and give 1 in 20 to each held-out split.

    Blocks are contiguous and do not overlap; there are 20, or more where they would exceed `_BLOCK_BYTES`.
    """
    content = np.concatenate([d.content for d in documents])
    num_blocks = max(_PERIOD, len(content) // _BLOCK_BYTES)
    blocks = np.array_split(content, num_blocks)
    return [
        Document(
            f"block {i:06d}",
            documents[0].domain,
            block,
            _SPLIT_OF_RANK.get(i * _SCATTER % _PERIOD, "train"),
        )
        for i, block in enumerate(blocks)
    ]


def distinct(documents: Iterable[Document], *, ordered: bool = False) -> list[Document]:
    """The documents ordered by (domain, name), without empty ones and those whose content came before.

    With `ordered` they are taken in the order given, so that the caller says which copy stays.
    """
    seen: set[bytes] = set()
    kept = []
    key = (lambda d: 0) if ordered else (lambda d: (d.domain, d.name))
    for document in sorted(documents, key=key):
        digest = hashlib.sha256(document.content.data).digest()
        if digest not in seen and len(document.content):
            seen.add(digest)
            kept.append(document)
    return kept


def assemble(source: str, documents: Sequence[Document], domains: tuple[str, ...] | None) -> Corpus:
    """Put documents together into a corpus.

    Raises:
        DataError: There are none, or a domain asked for is not among theirs.
    """
    known = sorted({document.domain for document in documents})
    unknown = sorted(set(domains or ()) - set(known))
    if unknown:
        raise DataError(f"{source}: no domain {unknown[0]!r}; known: {', '.join(known)}")
    kept = [d for d in documents if domains is None or d.domain in domains]
    if not kept:
        raise DataError(f"{source}: no text found; give at least one non-empty text file")
    splits: dict[Split, np.ndarray] = {}
    spans: dict[Split, dict[str, tuple[int, int]]] = {}
    digest = hashlib.sha256()
    for split in SPLITS:
        splits[split], spans[split] = _joined([d for d in kept if d.split == split], kept)
        digest.update(splits[split].data)
    return Corpus(source, splits, spans, len(kept), digest.hexdigest())


def _joined(
    documents: Sequence[Document], everything: Sequence[Document]
) -> tuple[np.ndarray, dict[str, tuple[int, int]]]:
    pieces = [np.empty(0, dtype=np.uint8)]
    spans, length = {}, 0
    for domain in sorted({d.domain for d in everything}):
        own = [d.content for d in documents if d.domain == domain]
        size = sum(map(len, own))
        spans[domain] = (length, length + size)
        length += size
        pieces += own
    return np.concatenate(pieces), spans
