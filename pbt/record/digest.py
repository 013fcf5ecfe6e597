"""The digest of a ledger: equal for two runs that decided the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pbt.record import schema

#: Columns that no ledger had at first: where they say nothing, the digest is as it was.
_LATER = ("shrink",)
#: Rows that are told at once.
_BATCH = 65_536


def digest(tables: Mapping[str, pa.Table]) -> str:
    """SHA-256 over the decision columns of all segments, ordered by (member, segment), as canonical JSON.

    Args:
        tables: A ledger's `segments` and `outcomes`.
    """
    outcomes = tables["outcomes"]
    ends = zip(outcomes["member"].to_pylist(), outcomes["segment"].to_pylist(), strict=True)
    effect = dict(zip(ends, outcomes["hparams_in_effect"].to_pylist(), strict=True))  # the last one holds
    member, index = (np.asarray(tables["segments"][name]) for name in ("member", "segment"))
    order = np.lexsort((index, member))
    keys = zip(member[order].tolist(), index[order].tolist(), strict=True)
    held = pa.array([effect.get(key) for key in keys], pa.string())
    segments = tables["segments"].take(order).append_column("hparams_in_effect", held)
    absent = {name for name in _LATER if segments[name].null_count == len(segments)}
    segments = segments.select(sorted(set(schema.DIGEST) - absent))
    lines = (line for batch in segments.combine_chunks().to_batches(_BATCH) for line in _lines(batch))
    found = hashlib.sha256(b"[")
    for number, line in enumerate(lines):
        found.update(f",{line}".encode() if number else line.encode())
    found.update(b"]")
    return found.hexdigest()


def _lines(rows: pa.RecordBatch) -> list[str]:
    """Rows as canonical JSON, its keys in order. Values repeat a great deal: each is written once."""
    pieces: list[str | pa.Array] = []
    for name in rows.schema.names:
        coded = pc.dictionary_encode(rows[name])
        texts = pa.array([schema.canonical(value) for value in coded.dictionary.to_pylist()], pa.string())
        pieces += [
            f"{',' if pieces else '{'}{schema.canonical(name)}:",
            pc.fill_null(texts.take(coded.indices), "null"),
        ]
    found: list[str] = pc.binary_join_element_wise(*pieces, "}", "").to_pylist()
    return found
