"""The write-ahead file: one line per commit, checked by a CRC, written at once and synced soon.

A line is there whole or not at all. What was written outlives the process at once, and the machine once it is synced:
at most `SYNC_S` later, by one thread, many lines together.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from pbt.errors import LedgerError
from pbt.record.schema import canonical

Row: TypeAlias = Mapping[str, Any]
#: A row and the table it stands in.
Entry: TypeAlias = tuple[str, dict[str, Any]]

#: Seconds of commits that the death of the machine may cost. The thread begins to sync after half of them.
SYNC_S = 0.1

#: The thread ends when there was nothing to sync for so many seconds.
IDLE_S = 1.0

#: A line begins with the CRC-32 of the rest, in hexadecimal, and a space.
_HEADER_BYTES = 9


class WriteAhead:
    """A write-ahead file that is open for writing. One thread writes; another syncs.

    Args:
        path: The file, made if it is not there.
        size: Bytes of it that are good; what stands behind them is dropped.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, path: Path, size: int = 0) -> None:
        self.path = path
        self._file = open(path, "r+b" if size else "wb", buffering=0)  # noqa: SIM115
        self._file.truncate(size)
        self._unwritten = b""
        self._changed = threading.Condition()  # guards what follows
        self._syncing = threading.Lock()  # held while the disk works
        self._size = self._synced = size
        self._unsynced = bytearray()  # what stands between the two
        self._since: float | None = None  # when the first unsynced line was written
        self._failed = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def append(self, line: bytes) -> None:
        """Write a line, so that it outlives this process. Where that fails, the next call tries again.

        Raises:
            OSError: The disk did not take it, or would not sync what it took before.
        """
        self._unwritten += line
        if self._failed or self._is_late():
            self.sync()
        if self._unwritten:
            self._write()
            self._wake()

    def sync(self) -> None:
        """Make what was written outlive the machine, now.

        Raises:
            OSError: The disk did not take it. Nothing is lost while the process lives; the next call tries again.
        """
        with self._syncing:
            with self._changed:
                size, rest, again, now = self._size, bytes(self._unsynced), self._failed, time.monotonic()
            if size == self._synced:
                return
            try:
                if again:  # the system may have forgotten what it could not sync, and call the next attempt a success
                    _write_all(self._file, rest, self._synced)
                os.fsync(self._file.fileno())
            except OSError:
                with self._changed:
                    self._failed, self._since = True, None
                raise
            with self._changed:
                del self._unsynced[: size - self._synced]
                self._synced, self._failed = size, False
                self._since = now if self._unsynced else None

    def close(self) -> None:
        """Let go of the file, synced or not."""
        with self._changed:
            self._closed, self._since = True, None
            self._changed.notify()
        with self._syncing:
            self._synced = self._size
            self._file.close()

    def _is_late(self) -> bool:
        """Whether the disk is too slow for the thread, so that the writer must wait for it."""
        since = self._since
        return since is not None and time.monotonic() - since >= SYNC_S

    def _write(self) -> None:
        try:
            _write_all(self._file, self._unwritten, self._size)
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(self._size)
            raise
        with self._changed:
            self._size += len(self._unwritten)
            self._unsynced += self._unwritten
        self._unwritten = b""

    def _wake(self) -> None:
        with self._changed:
            if self._since is None:
                self._since = time.monotonic()
                self._changed.notify()
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._keep_synced, name="ledger-sync", daemon=True)
            self._thread = thread
        try:
            thread.start()
        except RuntimeError:  # no more threads, or the interpreter is about to end
            self._thread = None
            self.sync()

    def _keep_synced(self) -> None:
        while self._wait():
            with contextlib.suppress(OSError):  # the next `append` or `sync` meets it again
                self.sync()

    def _wait(self) -> bool:
        """Wait until it is time to sync; False when there was nothing to sync for a while."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._since is not None, IDLE_S)
            if self._closed or self._since is None:
                self._thread = None
                return False
            self._changed.wait_for(lambda: self._closed, self._since + SYNC_S / 2 - time.monotonic())
            return True


def _write_all(file: io.FileIO, data: bytes, offset: int) -> None:
    """Write at a place in a file, which may take less than all at once."""
    while data:
        written = os.pwrite(file.fileno(), data, offset)
        data, offset = data[written:], offset + written


def wal_path(folder: Path, number: int) -> Path:
    """Where the write-ahead file of a number is."""
    return folder / f"wal-{number:06d}.jsonl"


def frame(rows: Sequence[tuple[str, Row]]) -> bytes:
    """The line of a commit."""
    text = canonical(rows).encode(errors="replace")  # half a surrogate in a message is no reason to stop
    return b"%08x %s\n" % (zlib.crc32(text), text)


def read_wal(path: Path, start: int = 0) -> tuple[list[Entry], int]:
    """Rows of a write-ahead file, and the offset of the end of its last whole commit.

    A torn last line, which has no line end because the writer died before it, is dropped: nobody acted on it.

    Args:
        path: The file.
        start: Offset to begin at, the end of an earlier commit.

    Raises:
        LedgerError: A whole line is damaged.
    """
    rows, end = [], start
    for offset, line in _lines(path, start):
        if not _is_whole(line):
            raise LedgerError(f"{path} is damaged after byte {offset}. What stands before it is good.")
        rows += entries(line)
        end = offset + len(line) + 1
    return rows, end


def salvage_wal(path: Path) -> tuple[list[Entry], bool]:
    """Rows of all lines of a write-ahead file that are good, and whether all are."""
    lines = [line for _, line in _lines(path)]
    good = [line for line in lines if _is_whole(line)]
    return [entry for line in good for entry in entries(line)], len(good) == len(lines)


def _lines(path: Path, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Lines that were written whole, damaged or not, with their offsets."""
    with open(path, "rb") as file:
        file.seek(start)
        data = file.read()
    *lines, rest = data.split(b"\n")
    for line in lines:
        yield start, line
        start += len(line) + 1
    if _is_whole(rest[:-1]):  # a whole commit whose line end has become something else
        yield start, rest


def _is_whole(line: bytes) -> bool:
    text = line[_HEADER_BYTES:]
    return line[:_HEADER_BYTES] == b"%08x " % zlib.crc32(text) and len(text) > 0


def entries(line: bytes) -> list[Entry]:
    """Rows of a line."""
    return [(table, row) for table, row in json.loads(line[_HEADER_BYTES:])]
