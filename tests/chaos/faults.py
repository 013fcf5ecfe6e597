"""Deaths at chosen moments: before, in the midst of, or after the n-th operation of a kind on a run's files.

Inside `Life`, a death is an exception that no code of ours catches on purpose; from then on every operation on the
run's files raises again, in every thread of that life and for ever, because the dead do not write. A process of its
own may be killed in earnest instead (`kill=`).
"""

from __future__ import annotations

import os
import re
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

#: How a process dies: before the operation, with half of it done, after it; or with the machine, which forgets what
#: was not synced.
How = Literal["before", "torn", "after", "power"]


class Killed(BaseException):
    """The process has died."""


@dataclass(frozen=True)
class Kill:
    """A death.

    Attributes:
        what: The operation: `write wal`, `replace manifest`, `delete json`, ...; `sync part`, the last of writing one.
        number: Which operation of that name, from 1.
        how: When exactly.
    """

    what: str
    number: int
    how: How = "before"

    def __str__(self) -> str:
        return f"{self.how} {self.what} {self.number}"


class Life:
    """Counts the operations on a run's files, and ends at one of them. A context manager.

    Args:
        run: The run's folder, or one that holds it.
        kill: When it ends; None lets it live.
        die: What dying is.

    Attributes:
        log: Names of all operations so far.
        is_dead: Whether it has ended.
    """

    def __init__(self, run: Path, kill: Kill | None = None, die: Callable[[], None] | None = None) -> None:
        self.log: list[str] = []
        self.is_dead = False
        self._folder = str(run.absolute()) + os.sep
        self._kill, self._die = kill, die
        self._counts: Counter[str] = Counter()
        self._synced: dict[str, int] = {}  # size of each write-ahead file that a power failure leaves
        self._lock = threading.RLock()

    def __enter__(self) -> Life:
        global _life
        assert _life is None, "one life at a time"
        _life, self._before = self, set(threading.enumerate())
        return self

    def __exit__(self, *_: object) -> None:
        global _life
        _life = None
        for thread in set(threading.enumerate()) - self._before:
            _GHOSTS[thread] = self
        self.is_dead = True

    def meets(self, verb: str, path: str, do: Callable[[], Any], tear: Callable[[], Any]) -> Any:
        """An operation on a file, carried out unless the process is dead or dies."""
        if not path.startswith(self._folder):
            return do()
        name = _kind(path.removeprefix(self._folder))
        if threading.current_thread().name == "ledger-sync":  # comes when it likes
            return None if self.is_dead else self._do(verb, path, do)
        with self._lock:
            if self.is_dead:
                raise Killed
            self.log.append(what := f"{verb} {name}")
            self._counts[what] += 1
            if self._kill is None or (self._kill.what, self._kill.number) != (what, self._counts[what]):
                return self._do(verb, path, do)
            {"before": int, "power": int, "torn": tear, "after": do}[self._kill.how]()
            if self._kill.how == "power":
                self._forget()
            self.is_dead = True
            if self._die is not None:
                self._die()
            raise Killed(str(self._kill))

    def _do(self, verb: str, path: str, do: Callable[[], Any]) -> Any:
        done = do()
        if verb == "sync" and _kind(path.removeprefix(self._folder)) == "wal":
            self._synced[path] = os.stat(path).st_size
        return done

    def _forget(self) -> None:
        """What was written and not synced is gone, but for a few bytes that happened to reach the disk."""
        for path in Path(self._folder).rglob("wal-*.jsonl"):
            size = self._synced.get(str(path), 0)
            os.truncate(path, min(path.stat().st_size, size + 5))


_life: Life | None = None
#: Threads of lives that are over.
_GHOSTS: weakref.WeakKeyDictionary[threading.Thread, Life] = weakref.WeakKeyDictionary()


@contextmanager
def watched() -> Iterator[None]:
    """Have all file operations of this process pass by the life being lived, if any. Nothing is really synced."""
    real = {name: getattr(os, name) for name in ("pwrite", "fsync", "replace", "unlink")}

    def pwrite(fd: int, data: Any, offset: int) -> int:
        half = bytes(data)[: len(data) // 2]
        do, tear = (lambda: real["pwrite"](fd, data, offset)), (lambda: real["pwrite"](fd, half, offset))
        return _meets("write", _path(fd), do, tear)

    def fsync(fd: int) -> None:
        def tear() -> None:
            if not os.path.isdir(_path(fd)):
                os.truncate(_path(fd), os.fstat(fd).st_size // 2)

        _meets("sync", _path(fd), lambda: None, tear)

    def replace(source: Any, target: Any) -> None:
        _meets("replace", os.fspath(target), lambda: real["replace"](source, target), lambda: None)

    def unlink(path: Any, **options: Any) -> None:
        _meets("delete", os.fspath(path), lambda: real["unlink"](path, **options), lambda: None)

    for wrapper in (pwrite, fsync, replace, unlink):
        setattr(os, wrapper.__name__, wrapper)
    try:
        yield
    finally:
        for name, function in real.items():
            setattr(os, name, function)


def _meets(verb: str, path: str, do: Callable[[], Any], tear: Callable[[], Any]) -> Any:
    life = _GHOSTS.get(threading.current_thread(), _life)
    return do() if life is None else life.meets(verb, os.path.abspath(path), do, tear)


def _path(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")


def _kind(name: str) -> str:
    """What a file of a run is, by its name there; a temporary file is what it will be."""
    folder, _, file = name.rpartition("/")
    file = re.sub(r"^\.(.*)\.\d+\.tmp$", r"\1", file)
    if file.startswith("wal-"):
        return "wal"
    if file in ("manifest.json", "manifest-copy.json"):
        return file.removesuffix(".json")
    if file.endswith(".parquet"):
        return "part"
    if folder.endswith("checkpoints"):
        return {".safetensors": "tensors", ".json": "json"}.get(os.path.splitext(file)[1], "folder")
    return "folder" if "." not in file else "file"
