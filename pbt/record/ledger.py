"""The ledger: an append-only record of every decision and observation; the single truth about a sweep.

    RUN/
      run.json                  the spec, versions and data the run was made with
      ledger/
        lock                    held by the process that writes
        wal-000002.jsonl        write-ahead: one line per commit, CRC first, written before anyone acts on it
        archive.json            only where the rest is kept elsewhere: its address
        manifest.json           schema version, sealed parts and their SHA-256, the write-ahead file if any, checksum
        manifest-copy.json      a copy of it
        TABLE/000001.parquet    immutable parts

A commit is one line, so it is there whole or not at all. It outlives the process as soon as it is written, and the
machine at most 100 ms later. A torn last line (the process died while writing) is dropped; damage anywhere else is an
error that names the file. Sealing turns the write-ahead file into Parquet parts, and the end of the sweep merges those
into one for each table. The manifest is replaced last: a crash before leaves the ledger as it was, a crash after it
leaves files that nobody reads.

A ledger can be read while it is being written, by this module and (the sealed parts) by anything that reads Parquet:
`pandas.read_parquet("RUN/ledger/segments")`. See docs/ledger.md.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import pyarrow as pa

from pbt.errors import LedgerError, RunNotFound, StorageError
from pbt.record import schema
from pbt.record.archive import Archive, LocalArchive, open_archive, sync_folder, write_atomically
from pbt.record.digest import digest
from pbt.record.lock import WriterLock, is_written, writer_pid
from pbt.record.manifest import (
    POINTER,
    Manifest,
    Part,
    address,
    find_archive,
    point_to,
    read_manifest,
    write_manifest,
)
from pbt.record.parts import PART_NAME, merge_parts, read_part, verified, write_part
from pbt.record.wal import SYNC_S, Entry, Row, WriteAhead, frame, read_wal, wal_path

__all__ = [
    "SEAL_ROWS",
    "SYNC_S",
    "Ledger",
    "LedgerReader",
    "Row",
    "Tail",
    "is_written",
    "read_wal",
    "write_atomically",
    "writer_pid",
]

T = TypeVar("T")
Rows: TypeAlias = dict[str, list[dict[str, Any]]]
#: A write-ahead file, and the offset up to which it was read.
Position: TypeAlias = tuple[Path, int]

#: A write-ahead file with this many rows is sealed into parts,
SEAL_ROWS = 50_000

#: and one in which rows have waited for so many seconds, at the next commit.
SEAL_S = 300.0

#: Seconds until sealing is tried again, after it failed.
RETRY_S = 10.0

#: Seconds between attempts to write what the disk did not take.
AGAIN_S = 1.0

_WAL = re.compile(r"wal-(\d{6,})\.jsonl")


class Ledger:
    """The one writer of a run's ledger.

    At most 100 ms of decisions (`SYNC_S`) are at risk when the machine dies; none when only this process does.

    Args:
        run: The run's folder.
        clock: Seconds since the epoch, for the `at` columns.
        existing: Take up the ledger that the run has, closed or not; otherwise it must have none yet.
        archive: Where sealed parts and manifest are kept: an address (`s3://BUCKET/PATH`) or a folder; None is the
            run's folder. Each run needs a place of its own. The write-ahead file is always in the run's folder.
        patience_s: Seconds that a commit goes on trying while the disk does not take it: it may be full, or not be
            reachable, for a while.

    Attributes:
        run: The run's folder.

    Raises:
        RunNotFound: There is no ledger to take up.
        LedgerError: There is one already; or the one to take up is damaged, of another version, or being written.
        StorageError: The folder or the archive cannot be written.
    """

    def __init__(
        self,
        run: Path,
        clock: Callable[[], float] = time.time,
        *,
        existing: bool = False,
        archive: str | Path | Archive | None = None,
        patience_s: float = 0.0,
    ) -> None:
        self.run = run
        self._patience_s = patience_s
        self._folder = run / "ledger"
        self._clock = clock
        self._at_us = 0
        self._pending: list[Entry] = []
        self._rows = 0
        self._sealed_at, self._retry_at = time.monotonic(), 0.0
        if existing:
            self._archive = _own_archive(run, archive)
            self._refuse_old()  # before anything is made
        else:
            self._archive = open_archive(self._folder if archive is None else archive)
            self._refuse_another()
        self._lock = self._make_lock()
        try:
            self._manifest, self._wal = self._take_up() if existing else self._begin()
        except OSError as error:
            self._lock.release()
            raise StorageError(f"cannot write {run}: {error.strerror}. Choose another storage folder.") from error
        except BaseException:
            self._lock.release()
            raise

    # ------------------------------------------------------------------------------------------------- beginning

    def _make_lock(self) -> WriterLock:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot write {self.run}: {error.strerror}. Choose another storage folder.") from error
        return WriterLock(self.run)

    def _refuse_another(self) -> None:
        if (self._folder / POINTER).exists() or _has_manifest(LocalArchive(self._folder)):
            raise LedgerError(f"{self.run} already has a ledger. Choose another name or storage folder.")
        if _has_manifest(self._archive):
            raise LedgerError(f"{self._archive.uri} already has a ledger. Give each run an archive of its own.")

    def _refuse_old(self) -> None:
        version = LedgerReader(self.run, archive=self._archive).version
        if version < schema.OLDEST_WRITTEN:
            raise LedgerError(
                f"{self.run} was recorded by an older pbt (ledger version {version}); it can be read, not resumed."
            )

    def _begin(self) -> tuple[Manifest, WriteAhead]:
        self._refuse_another()  # now that nobody else can begin one
        path = self._wal_path(1)
        if path.exists() and path.stat().st_size:
            raise LedgerError(f"{path} is there without a manifest. Restore that, or choose another name.")
        manifest, wal = Manifest(schema_version=schema.VERSION, wal=1), WriteAhead(path)
        try:
            sync_folder(self._folder)
            write_manifest(self._archive, manifest)
            point_to(self.run, self._archive)
        except BaseException:
            wal.close()
            raise
        return manifest, wal

    def _take_up(self) -> tuple[Manifest, WriteAhead]:
        manifest = LedgerReader(self.run, archive=self._archive).check()
        manifest = dataclasses.replace(manifest, schema_version=schema.VERSION)  # old parts are read as any version's
        self._at_us = manifest.at_us
        if manifest.wal is None:
            number, size = manifest.last + 1, 0
            manifest = dataclasses.replace(manifest, wal=number, last=number, finished=False)
        else:
            rows, size = read_wal(self._wal_path(manifest.wal))
            number, self._rows = manifest.wal, len(rows)
            self._at_us = _microseconds(rows, manifest.at_us)
        wal = WriteAhead(self._wal_path(number), size)
        try:
            sync_folder(self._folder)
            write_manifest(self._archive, manifest)
        except BaseException:
            wal.close()
            raise
        self._remove_other_parts(manifest)
        self._remove_other_wals(manifest)
        return manifest, wal

    # --------------------------------------------------------------------------------------------------- writing

    def append(self, table: str, **row: Any) -> None:
        """Add a row to the next commit. No two rows have the same time, so it tells the order they were written in."""
        if not row.keys() <= schema.COLUMNS[table]:
            raise KeyError(f"table {table} has no column {sorted(row.keys() - schema.COLUMNS[table])}")
        self._at_us = max(schema.microseconds(self._clock()), self._at_us + 1)
        row["at"] = self._at_us / 1e6
        self._pending.append((table, row))

    def commit(self) -> None:
        """Write all rows since the last commit, together, so that they outlive this process.

        They outlive the machine at most 100 ms later; `sync` waits for that.

        Raises:
            StorageError: The disk did not take them, or did not sync earlier ones. The next commit tries again.
        """
        line = frame(self._pending) if self._pending else b""
        self._rows += len(self._pending)
        self._pending = []
        try:
            self._wal.append(line)
        except OSError as error:
            self._insist(error)
        if self._is_due():
            self._try_to_seal()

    def _insist(self, error: OSError) -> None:
        """Try again until the disk takes what was to be written, and take down that it did not."""
        began = time.monotonic()
        while True:
            if (waited_s := time.monotonic() - began) >= self._patience_s:
                self._patience_s = 0.0  # it has ended
                raise self._not_written(error) from error
            time.sleep(min(AGAIN_S, self._patience_s - waited_s))
            try:
                self._wal.append(b"")
            except OSError as another:
                error = another
            else:
                break
        waited = f"for {time.monotonic() - began:.0f} s the ledger could not be written ({error.strerror})"
        self.append("incidents", kind="storage", message=f"{waited}; everybody waited, and nothing is lost")

    def sync(self) -> None:
        """Commit, and wait until the disk has everything.

        Raises:
            StorageError: The disk did not take it. The next commit tries again.
        """
        self.commit()
        try:
            self._wal.sync()
        except OSError as error:
            raise self._not_written(error) from error

    def close(self, *, finished: bool) -> None:
        """Seal everything, and let go of the ledger; nothing happens if it is closed.

        Args:
            finished: Whether the sweep came to its end. The parts of each table are merged then.

        Raises:
            StorageError: The disk did not take it. Nothing is lost; closing may be tried again.
        """
        if self._lock.released:
            return
        if self._manifest.wal is not None:
            self.commit()
            self._seal(go_on=False)
        if finished and not self._manifest.finished:
            self._merge()
            self._remove_other_parts(self._manifest)
            self._replace_manifest(finished=True)
        self._lock.release()

    def abandon(self) -> None:
        """Let go of the ledger as the death of the process would: what was committed is there, nothing is sealed."""
        self._wal.close()
        self._lock.release()

    def _not_written(self, error: OSError) -> StorageError:
        return StorageError(
            f"cannot write {self._folder}: {error.strerror}. Free some space; what was recorded before is safe."
        )

    # --------------------------------------------------------------------------------------------------- sealing

    def _is_due(self) -> bool:
        now = time.monotonic()
        full = self._rows >= SEAL_ROWS or (self._rows > 0 and now - self._sealed_at >= SEAL_S)
        return full and now >= self._retry_at

    def _try_to_seal(self) -> None:
        """Seal; where that fails, later. The rows are safe where they are, so no commit fails for it."""
        try:
            self._seal(go_on=True)
        except StorageError:
            self._retry_at = time.monotonic() + RETRY_S

    def _seal(self, *, go_on: bool) -> None:
        """Turn the write-ahead file into immutable Parquet parts, and begin the following one, if there is to be one.

        Nothing changes, for readers or here, before the new manifest is in place: a seal that failed is tried again,
        and writes the same part numbers.
        """
        number = self._manifest.last
        following = number + 1 if go_on else None
        try:
            self._wal.sync()
            rows, _ = read_wal(self._wal.path)
            parts = self._write_parts(number, rows)
            wal = self._following_wal(number + 1) if go_on else None
        except OSError as error:
            raise self._not_written(error) from error
        try:
            self._replace_manifest(
                parts=(*self._manifest.parts, *parts),
                wal=following,
                last=following or number,
                at_us=_microseconds(rows, self._manifest.at_us),
            )
        except BaseException:
            if wal:
                wal.close()
            raise
        self._wal.close()
        self._wal, self._rows, self._sealed_at = wal or self._wal, 0, time.monotonic()
        self._remove_other_wals(self._manifest)

    def _following_wal(self, number: int) -> WriteAhead:
        wal = WriteAhead(self._wal_path(number))
        try:
            sync_folder(self._folder)
        except OSError:
            wal.close()
            raise
        return wal

    def _write_parts(self, number: int, rows: Iterable[Entry]) -> list[Part]:
        by_table: Rows = {}
        for table, row in rows:
            by_table.setdefault(table, []).append(row)
        return [
            write_part(self._archive, number, table, schema.to_arrow(table, by_table[table]))
            for table in schema.TABLES
            if table in by_table
        ]

    def _merge(self) -> None:
        """Make one part of all parts of each table. A table for which that fails keeps those it has."""
        number = self._manifest.last + 1
        parts: list[Part] = []
        for table in schema.TABLES:
            old = self._manifest.of(table)
            try:
                parts += [merge_parts(self._archive, number, old)] if len(old) > 1 else old
            except (StorageError, LedgerError, FileNotFoundError):
                parts += old
        if len(parts) < len(self._manifest.parts):
            self._replace_manifest(parts=tuple(parts), last=number)

    def _replace_manifest(self, **changes: Any) -> None:
        manifest = dataclasses.replace(self._manifest, **changes)
        write_manifest(self._archive, manifest)
        self._manifest = manifest

    def _remove_other_parts(self, manifest: Manifest) -> None:
        """Remove parts that the manifest no longer speaks of, or never did, so that nobody reads rows twice."""
        known = {part.file for part in manifest.parts}
        with suppress(StorageError):  # `LedgerReader` does not read them
            for name in self._archive.names():
                if PART_NAME.fullmatch(name) and name not in known:
                    self._archive.delete(name)

    def _remove_other_wals(self, manifest: Manifest) -> None:
        with suppress(OSError):
            for path in self._folder.iterdir():
                found = _WAL.fullmatch(path.name)
                if found and int(found[1]) != manifest.wal:
                    path.unlink()

    def _wal_path(self, number: int) -> Path:
        return wal_path(self._folder, number)


class LedgerReader:
    """Reads a run's ledger, also while it is being written.

    Args:
        run: The run's folder.
        archive: Where its parts are, if not where the run's folder says.

    Attributes:
        run: The run's folder.

    Raises:
        RunNotFound: There is no ledger in the folder.
        LedgerError: The ledger is damaged, or of a version this program does not know.
        StorageError: Its archive cannot be reached.
    """

    def __init__(self, run: Path, *, archive: str | Path | Archive | None = None) -> None:
        self.run = run
        self._folder = run / "ledger"
        self._archive = find_archive(run, archive)
        self._manifest()

    @property
    def version(self) -> int:
        """Version of its tables; one older than `schema.OLDEST_WRITTEN` can be read, but not taken up."""
        return self._manifest().schema_version

    @property
    def finished(self) -> bool:
        """Whether the sweep came to its end."""
        return self._manifest().finished

    @property
    def is_open(self) -> bool:
        """Whether it has a write-ahead file: a writer is at work, or died without closing it. See `is_written`."""
        return self._manifest().wal is not None

    def files(self, name: str) -> list[str]:
        """Paths or addresses of a table's sealed parts, in order, for other programs that read Parquet."""
        return [self._archive.where(part.file) for part in self._manifest().of(name)]

    def table(self, name: str) -> pa.Table:
        """One table as it is now. Costs little more than reading its Parquet files."""
        return self.tables((name,))[name]

    def tables(self, names: Iterable[str] | None = None) -> dict[str, pa.Table]:
        """Tables (all, if none are named) as they are at one moment."""
        return self._at_one_moment(lambda manifest: self._tables(manifest, _chosen(names)))

    def rows(self, names: Iterable[str] | None = None) -> Rows:
        """Rows of tables (all, if none are named) as plain dictionaries; `at` in seconds since the epoch.

        A column that a row has no value for is None or, in rows not yet sealed, may be absent.
        """
        return self._at_one_moment(lambda manifest: self._rows(manifest, dict.fromkeys(_chosen(names), 0))[0])

    def history(self, names: Iterable[str] | None = None) -> list[Entry]:
        """Rows of tables (all, if none are named) as `(table, row)`, in the order in which they were written."""
        return _in_order(self.rows(names))

    def rows_after(self, seen: Mapping[str, int]) -> tuple[Rows, Position | None]:
        """Rows behind the first so many of each table, and up to where the write-ahead file was read, if there is one.

        Costs what is new and at most one part more for each table.
        """
        return self._at_one_moment(lambda manifest: self._rows(manifest, seen))

    def digest(self) -> str:
        """SHA-256 over the decision columns of all segments, ordered by (member, segment).

        Two runs with equal digests made the same decisions with the same hyperparameters in effect, whatever their
        hosts, timings and order of reports.
        """
        return digest(self.tables(("segments", "outcomes")))

    def check(self) -> Manifest:
        """Read everything, and give the manifest.

        Raises:
            LedgerError: Something is damaged; `pbt.record.salvage` reads the rest.
        """

        def verify(manifest: Manifest) -> Manifest:
            for part in manifest.parts:
                verified(self._archive, part)
            self._fresh(manifest)
            return manifest

        return self._at_one_moment(verify)

    def _manifest(self) -> Manifest:
        try:
            manifest = read_manifest(self._archive)
        except FileNotFoundError as error:
            if (self.run / "checkpoints").exists():
                problem = f"{self._folder} is missing, or has no manifest"
                raise RunNotFound(f"{problem}. Restore it from a backup.") from error
            if (self.run / "run.json").exists():  # its driver has just begun, or did not live to begin
                raise RunNotFound(f"{self.run}: nothing is recorded yet. `pbt resume {self.run}` begins it.") from error
            raise RunNotFound(f"no run at {self.run}. `pbt list` shows the runs there are.") from error
        if manifest.schema_version > schema.VERSION:
            raise LedgerError(
                f"{self.run} has ledger version {manifest.schema_version}; this pbt reads up to {schema.VERSION}. "
                "Upgrade pbt."
            )
        return manifest

    def _at_one_moment(self, read: Callable[[Manifest], T]) -> T:
        while True:
            manifest = self._manifest()
            try:
                return read(manifest)
            except FileNotFoundError as error:
                # Unless the writer sealed or merged between our reading the manifest and the file.
                if self._manifest() == manifest:
                    raise LedgerError(f"{error.filename} is missing. Restore it from a backup.") from error

    def _tables(self, manifest: Manifest, names: Iterable[str]) -> dict[str, pa.Table]:
        fresh, _ = self._fresh(manifest)
        return {
            name: pa.concat_tables([self._sealed(manifest, name), schema.to_arrow(name, fresh.get(name, []))])
            for name in names
        }

    def _rows(self, manifest: Manifest, seen: Mapping[str, int]) -> tuple[Rows, Position | None]:
        fresh, position = self._fresh(manifest)
        found = {}
        for name, skip in seen.items():
            num_sealed = sum(part.rows for part in manifest.of(name))
            sealed = schema.to_rows(self._sealed(manifest, name, skip))
            found[name] = sealed + fresh.get(name, [])[max(0, skip - num_sealed) :]
        return found, position

    def _sealed(self, manifest: Manifest, name: str, skip: int = 0) -> pa.Table:
        """Sealed rows of a table but the first so many; parts that hold no others are not read."""
        found = [schema.TABLES[name].empty_table()]
        for part in manifest.of(name):
            if skip < part.rows:
                found.append(read_part(self._archive, part).slice(skip))
            skip = max(0, skip - part.rows)
        return pa.concat_tables(found)

    def _fresh(self, manifest: Manifest) -> tuple[Rows, Position | None]:
        """Rows that are not sealed, by table."""
        if manifest.wal is None:
            return {}, None
        wal = wal_path(self._folder, manifest.wal)
        entries, offset = read_wal(wal)
        found: Rows = {}
        for table, row in entries:
            found.setdefault(table, []).append(row)
        return found, (wal, offset)


class Tail:
    """Follows a ledger: each `poll` returns the rows added since the last one, in the order they were written.

    Args:
        reader: The ledger to follow.
        seen: Rows already taken, by table, to go on from where another `Tail` stopped.
    """

    def __init__(self, reader: LedgerReader, seen: Mapping[str, int] | None = None) -> None:
        self._reader = reader
        self._position: Position | None = None
        self.seen: dict[str, int] = dict.fromkeys(schema.TABLES, 0) | dict(seen or {})

    def poll(self) -> list[Entry]:
        """New rows as `(table, row)`, in the order they were written. Costs what is new, not what is there."""
        fresh = self._poll_wal()
        if fresh is None:
            rows, self._position = self._reader.rows_after(self.seen)
            fresh = _in_order(rows)
        for table, _ in fresh:
            self.seen[table] += 1
        return fresh

    def _poll_wal(self) -> list[Entry] | None:
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


def _own_archive(run: Path, archive: str | Path | Archive | None) -> Archive:
    """The archive of a run that has one, which may be given, but not another one."""
    found = find_archive(run, archive)
    if found.uri != (known := address(run)):
        raise LedgerError(f"{run} keeps its parts in {known}, not in {found.uri}. Leave the archive out.")
    return found


def _has_manifest(archive: Archive) -> bool:
    try:
        read_manifest(archive)
    except FileNotFoundError:
        return False
    return True


def _chosen(names: Iterable[str] | None) -> list[str]:
    chosen = list(schema.TABLES if names is None else names)
    if unknown := set(chosen) - schema.TABLES.keys():
        raise KeyError(f"there is no table {sorted(unknown)}; there are {', '.join(schema.TABLES)}")
    return chosen


def _in_order(rows: Rows) -> list[Entry]:
    return sorted(((table, row) for table in rows for row in rows[table]), key=lambda entry: entry[1]["at"])


def _microseconds(rows: list[Entry], otherwise: int) -> int:
    """When the last row was written."""
    return schema.microseconds(rows[-1][1]["at"]) if rows else otherwise
