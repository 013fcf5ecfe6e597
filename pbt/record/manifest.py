"""What a ledger consists of: the manifest, which is replaced whole whenever that changes, and the way to it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pbt.errors import LedgerError, PbtError, StorageError
from pbt.record import schema
from pbt.record.archive import Archive, Data, LocalArchive, open_archive, write_atomically

MANIFEST = "manifest.json"
#: A copy, written after it; nobody reads it while the manifest is good.
COPY = "manifest-copy.json"
#: In the ledger's folder, where the parts are kept elsewhere.
POINTER = "archive.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A sealed part.

    Attributes:
        table: The table its rows belong to.
        file: Its name in the archive.
        rows: How many it has.
        sha256: Of the file.
        groups: SHA-256 of each of its row groups, where it was merged from others.
        footer: Its Parquet footer, compressed, in base 64, where it was merged from others. With the two, damage to a
            merged part costs no more than the row groups it touches.
    """

    table: str
    file: str
    rows: int
    sha256: str
    groups: tuple[str, ...] = ()
    footer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a ledger consists of.

    Attributes:
        schema_version: Of the tables.
        parts: Sealed parts, in the order in which their rows were written.
        wal: Number of the write-ahead file; None where the ledger was closed.
        finished: Whether the sweep came to its end.
        last: The highest number that a write-ahead file or part ever had.
        at_us: When the last sealed row was written, microseconds since the epoch.
    """

    schema_version: int
    parts: tuple[Part, ...] = ()
    wal: int | None = None
    finished: bool = False
    last: int = 1
    at_us: int = 0

    def of(self, table: str) -> list[Part]:
        """The parts of a table."""
        return [part for part in self.parts if part.table == table]


def read_manifest(archive: Archive, name: str = MANIFEST) -> Manifest:
    """The manifest of an archive; of a later version than this program knows, the version only.

    Raises:
        FileNotFoundError: There is none.
        LedgerError: It is damaged.
        StorageError: It cannot be read.
    """
    try:
        found = unsigned(archive.read(name))
    except ValueError as error:
        raise LedgerError(f"{archive.where(name)} is damaged: {error}. {_mend(archive, name)}") from error
    if found["schema_version"] > schema.VERSION:  # of which nothing else is known
        return Manifest(schema_version=found["schema_version"])
    parts = tuple(Part(**(_known(Part, part) | {"groups": tuple(part.get("groups", ()))})) for part in found["parts"])
    return Manifest(**(_known(Manifest, found) | {"parts": parts}))


def write_manifest(archive: Archive, manifest: Manifest) -> None:
    """Replace the manifest, and then its copy.

    Raises:
        StorageError: It could not be replaced, and is as it was.
    """
    data = signed({**asdict(manifest), "parts": [_brief(part) for part in manifest.parts]})
    archive.write(MANIFEST, data)
    with suppress(StorageError):  # what counts is there; the copy follows with the next manifest
        archive.write(COPY, data)


def address(run: Path) -> str:
    """Where the parts of a run's ledger are.

    Raises:
        LedgerError: The file that says so is damaged.
        StorageError: It cannot be read.
    """
    path = run / "ledger" / POINTER
    try:
        return str(unsigned(path.read_bytes())["uri"])
    except (FileNotFoundError, NotADirectoryError):
        return LocalArchive(run / "ledger").uri
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}. Check who may read it.") from error
    except ValueError as error:
        raise LedgerError(
            f"{path} is damaged: {error}. Restore it from a backup, or name the archive when reading the ledger."
        ) from error


def find_archive(run: Path, archive: str | Path | Archive | None = None) -> Archive:
    """The archive of a run's ledger: the given one, or the one it points to.

    Raises:
        LedgerError: The file that points to it is damaged.
        StorageError: It cannot be used.
    """
    if archive is not None:
        return open_archive(archive)
    own = LocalArchive(run / "ledger")
    uri = address(run)
    return own if uri == own.uri else open_archive(uri)


def point_to(run: Path, archive: Archive) -> None:
    """Remember where the parts of a run's ledger are, if not in its own folder.

    Raises:
        StorageError: The folder cannot be written.
    """
    if archive.uri != LocalArchive(run / "ledger").uri:
        write_atomically(run / "ledger" / POINTER, signed({"uri": archive.uri}))


def signed(data: Mapping[str, Any]) -> bytes:
    """JSON text with its own checksum in it."""
    return json.dumps({**data, "sha256": _checksum(data)}, indent=1).encode()


def unsigned(text: Data) -> dict[str, Any]:
    """What was signed.

    Raises:
        ValueError: The text is damaged.
    """
    data = json.loads(bytes(text))
    if not isinstance(data, dict) or data.pop("sha256", None) != _checksum(data):
        raise ValueError("its contents do not match its checksum")
    return data


def _checksum(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(schema.canonical(data).encode(errors="replace")).hexdigest()


def _mend(archive: Archive, name: str) -> str:
    if name == MANIFEST:
        with suppress(PbtError, OSError):
            read_manifest(archive, COPY)
            return f"Copy {archive.where(COPY)} over it."
    return "Restore it from a backup."


def _known(kind: type, data: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in data.items() if name in names}


def _brief(part: Part) -> dict[str, Any]:
    return {name: value for name, value in asdict(part).items() if value not in ((), "")}
