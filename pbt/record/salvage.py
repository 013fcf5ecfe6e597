"""What is good of a damaged ledger, and what is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from pbt.errors import LedgerError, RunNotFound, StorageError
from pbt.record import schema
from pbt.record.archive import Archive, LocalArchive
from pbt.record.manifest import COPY, MANIFEST, Manifest, Part, find_archive, read_manifest
from pbt.record.parts import PART_NAME, read_part, read_unverified, salvage_part
from pbt.record.wal import Entry, salvage_wal, wal_path


@dataclass(frozen=True, slots=True)
class Salvage:
    """What could be read of a ledger.

    Attributes:
        tables: All tables, with the rows that are certainly good, in the order in which they were written.
        damaged: What is damaged, a line for each file; empty where nothing is.
    """

    tables: Mapping[str, pa.Table]
    damaged: tuple[str, ...]


def salvage(run: Path, *, archive: str | Path | Archive | None = None) -> Salvage:
    """Read a ledger that nobody writes, whatever is damaged.

    Args:
        run: The run's folder.
        archive: Where its parts are, if not where the run's folder says or if the file that says so is damaged.

    Raises:
        RunNotFound: There is no ledger in the folder.
        LedgerError: It is of a version this program does not know.
    """
    damaged: list[str] = []
    place = _place(run, archive, damaged)
    manifest = _manifest(run, place, damaged)
    parts = _lying_there(place, damaged) if manifest is None else manifest.parts
    entries = _entries(run / "ledger", damaged)
    if manifest and manifest.wal is not None and not (path := wal_path(run / "ledger", manifest.wal)).exists():
        damaged.append(f"{path} is missing. Restore it from a backup.")
    tables = {}
    for table in schema.TABLES:
        sealed = [_read(place, part, damaged) for part in parts if part.table == table]
        fresh = schema.to_arrow(table, [row for name, row in entries if name == table])
        tables[table] = _once(pa.concat_tables([*sealed, fresh]))
    return Salvage(tables, tuple(damaged))


def _place(run: Path, archive: str | Path | Archive | None, damaged: list[str]) -> Archive:
    try:
        return find_archive(run, archive)
    except (LedgerError, StorageError) as error:
        damaged.append(str(error))
        return LocalArchive(run / "ledger")


def _manifest(run: Path, archive: Archive, damaged: list[str]) -> Manifest | None:
    """The manifest or its copy; None where both are damaged."""
    for name in (MANIFEST, COPY):
        try:
            manifest = read_manifest(archive, name)
        except FileNotFoundError:
            continue
        except (LedgerError, StorageError) as error:
            damaged.append(str(error))
            continue
        if manifest.schema_version > schema.VERSION:
            raise LedgerError(f"{run} has ledger version {manifest.schema_version}. Upgrade pbt.")
        return manifest
    if not damaged:
        raise RunNotFound(f"no run at {run}. `pbt list` shows the runs there are.")
    return None


def _lying_there(archive: Archive, damaged: list[str]) -> list[Part]:
    """The parts that are there, where no manifest says which those are."""
    try:
        names = [name for name in archive.names() if PART_NAME.fullmatch(name)]
    except StorageError as error:
        damaged.append(str(error))
        return []
    return [Part(table=name.split("/")[0], file=name, rows=0, sha256="") for name in names]


def _read(archive: Archive, part: Part, damaged: list[str]) -> pa.Table:
    nothing = schema.TABLES[part.table].empty_table()
    try:
        return read_part(archive, part) if part.sha256 else read_unverified(archive, part)
    except FileNotFoundError:
        damaged.append(f"{archive.where(part.file)} is missing. Restore it from a backup.")
        return nothing
    except StorageError as error:
        damaged.append(str(error))
        return nothing
    except LedgerError as error:
        damaged.append(str(error))
        return salvage_part(archive, part)


def _entries(folder: Path, damaged: list[str]) -> list[Entry]:
    """Rows of all write-ahead files, sealed or not."""
    found: list[Entry] = []
    for path in sorted(folder.glob("wal-*.jsonl")):
        entries, whole = salvage_wal(path)
        found += entries
        if not whole:
            damaged.append(f"{path} is damaged. The commits in it that are good were read.")
    return found


def _once(rows: pa.Table) -> pa.Table:
    """Rows in order, each once: no two were written at the same time, so those that were are the same row."""
    rows = rows.sort_by("at")
    times = rows["at"].cast(pa.int64()).to_numpy()
    return rows.filter(pa.array(np.diff(times, prepend=-1) != 0))
