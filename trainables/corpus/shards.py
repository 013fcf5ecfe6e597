"""Token shards in Parquet or Arrow: one integer column of bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trainables.base import DataError

SUFFIXES = frozenset({".parquet", ".arrow", ".feather"})
_COLUMN_NAMES = ("tokens", "ids")


def read_shard(path: Path) -> np.ndarray:
    """Read one shard's tokens, `(length,)` uint8.

    The column is `tokens`, else `ids`, else the first of integers or of lists of integers. Files are read
    memory-mapped; Arrow may be in its file or its stream format.

    Raises:
        DataError: The file is unreadable, has no such column, or a value is no byte.
    """
    try:
        column = _column(path, _table(path))
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: cannot be read ({reason}); write it again") from None
    if column.null_count:
        raise DataError(f"{path}: has {column.null_count} nulls; give whole token rows")
    return _bytes(path, column)


def _table(path: Path) -> pa.Table:
    if path.suffix == ".parquet":
        return pq.read_table(path, memory_map=True)
    with pa.memory_map(str(path)) as source:
        try:
            return pa.ipc.open_file(source).read_all()
        except pa.ArrowInvalid:  # not the file format: a stream, as Hugging Face datasets write
            source.seek(0)
            return pa.ipc.open_stream(source).read_all()


def _column(path: Path, table: pa.Table) -> pa.ChunkedArray:
    """The token column, lists flattened."""
    fits = [field.name for field in table.schema if _is_tokens(field.type)]
    if not fits:
        columns = ", ".join(f"{f.name}: {f.type}" for f in table.schema) or "none"
        raise DataError(f"{path}: no integer column among [{columns}]; name one 'tokens'")
    chosen = next((name for name in _COLUMN_NAMES if name in fits), fits[0])
    column = table.column(chosen)
    return column if pa.types.is_integer(column.type) else pc.list_flatten(column)


def _is_tokens(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return pa.types.is_integer(kind)


def _bytes(path: Path, column: pa.ChunkedArray) -> np.ndarray:
    values = column.to_numpy()
    if values.dtype != np.uint8 and len(values):
        low, high = values.min(), values.max()
        if low < 0 or high > 255:
            raise DataError(f"{path}: tokens reach from {low} to {high}; this model reads bytes, 0 to 255")
    return values.astype(np.uint8, copy=False)
