"""One writer at a time: a lock on a run, held by a process and given up by its death."""

from __future__ import annotations

import fcntl
import os
import socket
import weakref
from pathlib import Path
from typing import IO

from pbt.errors import LedgerError, StorageError

#: How often taking the lock is tried while others only look whether it is held.
_TRIES = 1000


class WriterLock:
    """An exclusive lock on `RUN/ledger/lock`, which says who holds it. It lasts until `release`, or the process dies.

    Args:
        run: The run's folder, with a folder `ledger` in it.

    Raises:
        LedgerError: Another writer holds it.
        StorageError: The folder cannot be written, or knows no locks.
    """

    def __init__(self, run: Path) -> None:
        path = _path(run)
        try:
            self._file = open(path, "a+b", buffering=0)  # noqa: SIM115  (held as long as the lock)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}. Choose another storage folder.") from error
        try:
            if not _take(self._file):
                raise LedgerError(
                    f"{run} is being written by {_holder(self._file)}. Stop it first with `pbt stop {run}`."
                )
            self._file.truncate(0)
            self._file.write(f"{os.getpid()} {socket.gethostname()}\n".encode())
        except OSError as error:
            self._file.close()
            raise StorageError(f"cannot lock {path}: {error.strerror}. Choose another storage folder.") from error
        except LedgerError:
            self._file.close()
            raise
        _HELD.add(self)

    @property
    def released(self) -> bool:
        """Whether it was given up."""
        return self._file.closed

    def release(self) -> None:
        """Let another writer have it."""
        self._file.close()


#: Locks of this process. A forked child gets copies of their files, which would hold them when this process dies.
_HELD: weakref.WeakSet[WriterLock] = weakref.WeakSet()


def _let_go() -> None:
    for lock in list(_HELD):
        lock.release()


os.register_at_fork(after_in_child=_let_go)


def is_written(run: Path) -> bool:
    """Whether a living process holds the lock of a run. Looking does not disturb it.

    Raises:
        StorageError: The lock cannot be looked at.
    """
    return writer_pid(run) is not None


def writer_pid(run: Path) -> int | None:
    """Id of the process that writes a run, 0 where it has not said so yet; None if there is no such process.

    Raises:
        StorageError: The lock cannot be looked at.
    """
    path = _path(run)
    try:
        with open(path, "rb", buffering=0) as file:
            return None if _try(file, fcntl.LOCK_SH) else _pid(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}. Check who may read the run's folder.") from error


def _path(run: Path) -> Path:
    return run / "ledger" / "lock"


def _take(file: IO[bytes]) -> bool:
    """Take the lock; False where a writer has it.

    Whoever only looks (`writer_pid`) shares the lock for a moment; that must not look like a writer.
    """
    for _ in range(_TRIES):
        if _try(file, fcntl.LOCK_EX):
            return True
        if not _try(file, fcntl.LOCK_SH):
            return False
        fcntl.flock(file, fcntl.LOCK_UN)
    return False


def _try(file: IO[bytes], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _pid(file: IO[bytes]) -> int:
    pid = "".join(_said(file)[:1])
    return int(pid) if pid.isdecimal() else 0


def _holder(file: IO[bytes]) -> str:
    pid, host = [*_said(file), "", ""][:2]
    place = f" on {host}" if host and host != socket.gethostname() else ""
    return f"process {pid}{place}" if pid else "another process"


def _said(file: IO[bytes]) -> list[str]:
    file.seek(0)
    return file.read().decode(errors="replace").split()
