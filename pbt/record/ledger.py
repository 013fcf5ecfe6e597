"""The ledger: an append-only record of every decision and observation; the single truth about a sweep.

    RUN/
      run.json               the spec, versions and data the run was made with
      ledger/
        manifest.json        schema version, sealed parts with rows and SHA-256, the write-ahead file if any, checksum
        TABLE/000001.parquet immutable parts
        wal-000002.jsonl     write-ahead: one line per commit, CRC first, synced before anyone acts on it

A commit is one line, so it is there whole or not at all. A torn last line (the process died while writing) is
dropped; damage anywhere else is an error that names the file and line. `seal` turns the write-ahead file into Parquet
parts: a crash in the middle leaves the manifest pointing at the write-ahead file, and sealing again writes the same
part numbers, so nothing is lost or doubled.

A run folder can be read while it is being written, by this module and (the sealed parts) by anything that reads
Parquet: `pandas.read_parquet("RUN/ledger/segments")`.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from pbt.errors import LedgerError, RunNotFound, StorageError
from pbt.record import schema

Row: TypeAlias = Mapping[str, Any]

#: A line of the write-ahead file begins with the CRC-32 of the rest, in hexadecimal, and a space.
_HEADER_BYTES = 9

#: A write-ahead file with this many rows is sealed into parts.
SEAL_ROWS = 50_000


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file that is either there whole or not at all, synced to disk.

    Raises:
        StorageError: The folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise StorageError(
            f"cannot write {path}: {error.strerror}. Free some space or choose another storage folder."
        ) from error


def _sync_folder(folder: Path) -> None:
    """Make a renaming in the folder survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Ledger:
    """The one writer of a run's ledger.

    Args:
        run: The run's folder, which must hold no ledger yet.
        clock: Seconds since the epoch, for the `at` columns.

    Raises:
        LedgerError: The folder has a ledger already.
        StorageError: The folder cannot be written.
    """

    def __init__(self, run: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder = run / "ledger"
        self._clock = clock
        self._at_us = 0
        self._pending: list[tuple[str, dict[str, Any]]] = []
        self._unsynced = b""
        self._rows, self._size = 0, 0
        if (self._folder / "manifest.json").exists():
            raise LedgerError(f"{run} already has a ledger. Choose another name or storage folder.")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._wal = self._open_wal(1)
        except OSError as error:
            raise StorageError(f"cannot write {run}: {error.strerror}. Choose another storage folder.") from error
        self._manifest: dict[str, Any] = {"schema_version": schema.VERSION, "parts": [], "wal": 1, "finished": False}
        try:
            self._write_manifest(self._manifest)
        except StorageError:
            self._wal.close()
            raise

    def append(self, table: str, **row: Any) -> None:
        """Add a row to the next commit. No two rows have the same time, so it tells the order they were written in."""
        unknown = row.keys() - set(schema.TABLES[table].names)
        if unknown:
            raise KeyError(f"table {table} has no column {sorted(unknown)}")
        self._at_us = max(round(self._clock() * 1e6), self._at_us + 1)
        self._pending.append((table, {**row, "at": self._at_us / 1e6}))

    def commit(self) -> None:
        """Make all rows since the last commit durable, together. Returns when they are on disk.

        Raises:
            StorageError: The disk did not take them. The next commit tries again.
        """
        if self._pending:
            self._unsynced += _frame(self._pending)
            self._rows += len(self._pending)
            self._pending = []
        if not self._unsynced:
            return
        try:
            self._wal.truncate(self._size)  # drops what a commit that failed may have left
            _write_all(self._wal, self._unsynced)
            os.fsync(self._wal.fileno())
        except OSError as error:
            raise self._not_written(error) from error
        self._size += len(self._unsynced)
        self._unsynced = b""
        if self._rows >= SEAL_ROWS:
            self._seal(following=self._manifest["wal"] + 1)

    def close(self, *, finished: bool) -> None:
        """Seal everything; `finished` says whether the sweep came to its end.

        Raises:
            StorageError: The disk did not take it. Nothing is lost; closing may be tried again.
        """
        self.commit()
        self._seal(following=None, finished=finished)

    def _seal(self, following: int | None, finished: bool = False) -> None:
        """Turn the write-ahead file into immutable Parquet parts, and begin the following one, if any.

        Nothing changes, for readers or here, before the new manifest is in place: a seal that failed is tried again.
        """
        number = self._manifest["wal"]
        try:
            rows, _ = read_wal(self._wal_path(number))
            by_table = {table: [row for name, row in rows if name == table] for table in schema.TABLES}
            parts = [self._write_part(table, number, chosen) for table, chosen in by_table.items() if chosen]
            wal = self._open_wal(following) if following is not None else None
        except OSError as error:
            raise self._not_written(error) from error
        manifest = self._manifest | {
            "parts": [*self._manifest["parts"], *parts],
            "wal": following,
            "finished": finished,
        }
        try:
            self._write_manifest(manifest)
        except BaseException:
            if wal is not None:
                wal.close()
            raise
        self._wal.close()
        self._manifest, self._wal, self._rows, self._size = manifest, wal or self._wal, 0, 0
        self._wal_path(number).unlink()
        if following is None:
            self._wal_path(number + 1).unlink(missing_ok=True)  # begun by a seal that failed

    def _not_written(self, error: OSError) -> StorageError:
        return StorageError(
            f"cannot write {self._folder}: {error.strerror}. Free some space; what was recorded before is safe."
        )

    def _write_part(self, table: str, number: int, rows: Sequence[Row]) -> dict[str, Any]:
        path = self._folder / table / f"{number:06d}.parquet"
        path.parent.mkdir(exist_ok=True)
        sink = pa.BufferOutputStream()
        pq.write_table(schema.to_arrow(table, rows), sink)
        data = sink.getvalue().to_pybytes()
        write_atomically(path, data)
        return {
            "table": table,
            "file": f"{table}/{path.name}",
            "rows": len(rows),
            "sha256": hashlib.sha256(data).hexdigest(),
        }

    def _write_manifest(self, manifest: Mapping[str, Any]) -> None:
        signed = {**manifest, "sha256": _checksum(manifest)}
        write_atomically(self._folder / "manifest.json", json.dumps(signed, indent=1).encode())

    def _open_wal(self, number: int) -> io.FileIO:
        return open(self._wal_path(number), "ab", buffering=0)

    def _wal_path(self, number: int) -> Path:
        return _wal_path(self._folder, number)


class LedgerReader:
    """Reads a run's ledger, also while it is being written.

    Args:
        run: The run's folder.

    Raises:
        RunNotFound: There is no ledger in the folder.
        LedgerError: The ledger is damaged, or of a version this program does not know.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self._folder = run / "ledger"
        if not (self._folder / "manifest.json").exists():
            raise RunNotFound(f"no run at {run}. `pbt list` shows the runs there are.")
        version = self._manifest()["schema_version"]
        if version > schema.VERSION:
            raise LedgerError(
                f"{run} has ledger version {version}; this pbt reads up to {schema.VERSION}. Upgrade pbt."
            )

    @property
    def finished(self) -> bool:
        """Whether the sweep came to its end."""
        return bool(self._manifest()["finished"])

    @property
    def is_open(self) -> bool:
        """Whether it has a write-ahead file: a writer is at work, or died without closing it."""
        return self._manifest()["wal"] is not None

    def tables(self) -> dict[str, pa.Table]:
        """All tables as they are now, by name."""
        return {table: schema.to_arrow(table, rows) for table, rows in self.rows().items()}

    def table(self, name: str) -> pa.Table:
        """One table as it is now."""
        return self.tables()[name]

    def rows(self) -> dict[str, list[dict[str, Any]]]:
        """All rows as plain dictionaries, by table; `at` in seconds since the epoch."""
        return self.rows_and_position()[0]

    def rows_and_position(self) -> tuple[dict[str, list[dict[str, Any]]], tuple[Path, int] | None]:
        """All rows, and the write-ahead file and offset in it up to which they were read; None if it is closed."""
        while True:
            manifest = self._manifest()
            try:
                return self._read(manifest)
            except FileNotFoundError as error:
                # Unless the writer sealed the write-ahead file between our reading the manifest and the file.
                if self._manifest()["wal"] == manifest["wal"]:
                    raise LedgerError(f"{error.filename} is missing. Restore it from a backup.") from error

    def digest(self) -> str:
        """SHA-256 over the decision columns of all segments, ordered by (member, segment).

        Two runs with equal digests made the same decisions with the same hyperparameters in effect, whatever their
        hosts, timings and order of reports.
        """
        rows = self.rows()
        effect = {(row["member"], row["segment"]): row["hparams_in_effect"] for row in rows["outcomes"]}
        segments = sorted(rows["segments"], key=lambda row: (row["member"], row["segment"]))
        lines = [
            {name: row.get(name) for name in schema.DIGEST}
            | {"hparams_in_effect": effect.get((row["member"], row["segment"]))}
            for row in segments
        ]
        return hashlib.sha256(schema.canonical(lines).encode()).hexdigest()

    def _manifest(self) -> dict[str, Any]:
        path = self._folder / "manifest.json"
        try:
            manifest = json.loads(path.read_bytes())
            if not isinstance(manifest, dict) or manifest.pop("sha256", None) != _checksum(manifest):
                raise ValueError("its contents do not match its checksum")
        except ValueError as error:
            raise LedgerError(f"{path} is damaged: {error}. Restore it from a backup.") from error
        return manifest

    def _read(self, manifest: Mapping[str, Any]) -> tuple[dict[str, list[dict[str, Any]]], tuple[Path, int] | None]:
        found: dict[str, list[dict[str, Any]]] = {table: [] for table in schema.TABLES}
        for part in manifest["parts"]:
            found[part["table"]] += self._read_part(part)
        if manifest["wal"] is None:
            return found, None
        wal = _wal_path(self._folder, manifest["wal"])
        fresh, offset = read_wal(wal)
        for table, row in fresh:
            found[table].append(row)
        return found, (wal, offset)

    def _read_part(self, part: Mapping[str, Any]) -> list[dict[str, Any]]:
        path = self._folder / part["file"]
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != part["sha256"]:
            raise LedgerError(f"{path} is damaged (its SHA-256 is not the manifest's). Restore it from a backup.")
        rows: list[dict[str, Any]] = pq.read_table(pa.BufferReader(data)).to_pylist()
        for row in rows:
            row["at"] = row["at"].timestamp()
        return rows


class Tail:
    """Follows a ledger: each `poll` returns the rows added since the last one, in the order they were written.

    Args:
        reader: The ledger to follow.
        seen: Rows already taken, by table, to go on from where another `Tail` stopped.
    """

    def __init__(self, reader: LedgerReader, seen: Mapping[str, int] | None = None) -> None:
        self._reader = reader
        self._position: tuple[Path, int] | None = None
        self.seen: dict[str, int] = dict.fromkeys(schema.TABLES, 0) | dict(seen or {})

    def poll(self) -> list[tuple[str, dict[str, Any]]]:
        """New rows as `(table, row)`, in the order they were written. Costs what is new, not what is there."""
        fresh = self._poll_wal()
        if fresh is None:
            fresh = self._poll_all()
        for table, _ in fresh:
            self.seen[table] += 1
        return fresh

    def _poll_wal(self) -> list[tuple[str, dict[str, Any]]] | None:
        """What the write-ahead file we were reading has gained; None once it has been sealed."""
        if self._position is None:
            return None
        wal, offset = self._position
        try:
            fresh, offset = read_wal(wal, offset)
        except FileNotFoundError:
            return None
        self._position = wal, offset
        return fresh

    def _poll_all(self) -> list[tuple[str, dict[str, Any]]]:
        """Everything not yet seen, sealed or not; the next poll goes on from there."""
        rows, self._position = self._reader.rows_and_position()
        fresh = [(table, row) for table in rows for row in rows[table][self.seen[table] :]]
        return sorted(fresh, key=lambda entry: entry[1]["at"])


def _wal_path(folder: Path, number: int) -> Path:
    return folder / f"wal-{number:06d}.jsonl"


def _checksum(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(schema.canonical(manifest).encode()).hexdigest()


def _write_all(file: io.FileIO, data: bytes) -> None:
    """Write to an unbuffered file, which may take less than all at once."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _frame(rows: Sequence[tuple[str, Row]]) -> bytes:
    text = schema.canonical(rows).encode(errors="replace")  # half a surrogate in a message is no reason to stop
    return b"%08x %s\n" % (zlib.crc32(text), text)


def read_wal(path: Path, start: int = 0) -> tuple[list[tuple[str, dict[str, Any]]], int]:
    """Rows of a write-ahead file, and the offset of the end of its last whole commit.

    A torn last line, which has no line end because the writer died before it, is dropped: nobody acted on it.

    Args:
        path: The file.
        start: Offset to begin at, the end of an earlier commit.

    Raises:
        LedgerError: A whole line is damaged.
    """
    with open(path, "rb") as file:
        file.seek(start)
        data = file.read()
    *lines, rest = data.split(b"\n")
    rows, end = [], start
    for line in lines:
        if not _is_whole(line):
            raise LedgerError(f"{path} is damaged after byte {end}. What stands before it is good.")
        rows += [(table, row) for table, row in json.loads(line[_HEADER_BYTES:])]
        end += len(line) + 1
    if _is_whole(rest[:-1]):  # a whole commit whose line end has become something else
        raise LedgerError(f"{path} is damaged after byte {end}. What stands before it is good.")
    return rows, end


def _is_whole(line: bytes) -> bool:
    text = line[_HEADER_BYTES:]
    return line[:_HEADER_BYTES] == b"%08x " % zlib.crc32(text) and len(text) > 0
