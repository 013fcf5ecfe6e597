"""Parquet files of a ledger: written, merged, verified, and what can be saved of a damaged one."""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pbt.errors import LedgerError, first_line
from pbt.record import schema
from pbt.record.archive import Archive, Data
from pbt.record.manifest import Part

#: Rows in a row group of a merged part, about.
GROUP_ROWS = 100_000

#: What a part is called.
PART_NAME = re.compile(rf"(?:{'|'.join(schema.TABLES)})/\d{{6,}}\.parquet")

_MAGIC = b"PAR1"
#: The types of the schema survive without a copy of it in every file.
_FORMAT: dict[str, Any] = {"compression": "zstd", "store_schema": False}


def part_file(table: str, number: int) -> str:
    """Name of a part."""
    return f"{table}/{number:06d}.parquet"


def write_part(archive: Archive, number: int, table: str, rows: pa.Table) -> Part:
    """Write rows as a new part.

    Raises:
        StorageError: It cannot be written.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, **_FORMAT)
    data = sink.getvalue()
    part = Part(table=table, file=part_file(table, number), rows=rows.num_rows, sha256=_sha256(data))
    archive.write(part.file, data)
    return part


def read_part(archive: Archive, part: Part) -> pa.Table:
    """A part's rows, with the columns of this version.

    Raises:
        FileNotFoundError: It is not there.
        LedgerError: It is damaged.
        StorageError: It cannot be read.
    """
    return schema.conform(part.table, _read(verified(archive, part)))


def _read(data: Data) -> pa.Table:
    # In this thread: a thread of Arrow's that lets go of Python's bytes while the interpreter ends takes it down.
    return pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)


def read_unverified(archive: Archive, part: Part) -> pa.Table:
    """The rows of a part whose SHA-256 is not known.

    Raises:
        FileNotFoundError: It is not there.
        LedgerError: It cannot be read as Parquet.
        StorageError: It cannot be read.
    """
    data = archive.read(part.file)
    try:
        return schema.conform(part.table, _read(data))
    except (pa.ArrowException, OSError) as error:
        where = archive.where(part.file)
        raise LedgerError(f"{where} is damaged ({first_line(error)}). Restore it from a backup.") from error


def verified(archive: Archive, part: Part) -> Data:
    """A part's file, which is what it was when it was written.

    Raises:
        FileNotFoundError: It is not there.
        LedgerError: It is damaged.
        StorageError: It cannot be read.
    """
    data = archive.read(part.file)
    if _sha256(data) != part.sha256:
        raise LedgerError(
            f"{archive.where(part.file)} is damaged (its SHA-256 is not the manifest's). Restore it from a backup; "
            "`pbt.record.salvage` reads the rest (docs/ledger.md)."
        )
    return data


def merge_parts(archive: Archive, number: int, parts: Iterable[Part]) -> Part:
    """Write the rows of several parts of a table as one new part, in the same order.

    Raises:
        FileNotFoundError: One of them is not there.
        LedgerError: One of them is damaged.
        StorageError: The new part cannot be written, or one of the old ones not be read.
    """
    parts = list(parts)
    table, sink = parts[0].table, pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema.TABLES[table], **_FORMAT) as writer:
        for group in _groups(read_part(archive, part) for part in parts):
            writer.write_table(group, row_group_size=GROUP_ROWS)
    data = sink.getvalue()
    footer = _footer(data)
    part = Part(
        table=table,
        file=part_file(table, number),
        rows=sum(part.rows for part in parts),
        sha256=_sha256(data),
        groups=tuple(_sha256(data[start:end]) for start, end in _ranges(_metadata(footer))),
        footer=base64.b64encode(zlib.compress(footer)).decode(),
    )
    archive.write(part.file, data)
    return part


def _groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Tables one after another, small ones put together."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(item.num_rows for item in waiting) >= GROUP_ROWS:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def salvage_part(archive: Archive, part: Part) -> pa.Table:
    """Those rows of a damaged part that are certainly good: whole row groups, where it was merged; else none.

    Raises:
        FileNotFoundError: It is not there.
        StorageError: It cannot be read.
    """
    empty = schema.TABLES[part.table].empty_table()
    if not part.footer:
        return empty
    found, footer = pa.py_buffer(archive.read(part.file)), zlib.decompress(base64.b64decode(part.footer))
    ranges = _ranges(_metadata(footer))
    length = ranges[-1][1]
    whole = bytes(found)[:length].ljust(length, b"\0") + footer  # which says where everything is, from the front
    file = pq.ParquetFile(pa.BufferReader(whole))
    good = [
        file.read_row_group(index)
        for index, (start, end) in enumerate(ranges)
        if _sha256(memoryview(whole)[start:end]) == part.groups[index]
    ]
    return pa.concat_tables([empty, *(schema.conform(part.table, group) for group in good)])


def _ranges(metadata: pq.FileMetaData) -> list[tuple[int, int]]:
    """Where each row group begins and ends in its file."""
    found = []
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        columns = [group.column(column) for column in range(group.num_columns)]
        starts = [column.dictionary_page_offset or column.data_page_offset for column in columns]
        ends = [start + column.total_compressed_size for start, column in zip(starts, columns, strict=True)]
        found.append((min(starts), max(ends)))
    return found


def _metadata(footer: Data) -> pq.FileMetaData:
    return pq.read_metadata(pa.BufferReader(_MAGIC + bytes(footer)))


def _footer(data: pa.Buffer) -> pa.Buffer:
    """The end of a Parquet file: metadata, their length in four bytes, and the magic word."""
    length = int.from_bytes(bytes(data[-8:-4]), "little")
    return data[-8 - length :]


def _sha256(data: Data | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()
