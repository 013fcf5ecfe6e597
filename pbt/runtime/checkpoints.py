"""The checkpoint store: content-addressed safetensors with a JSON file beside each. Nothing is ever unpickled.

    checkpoints/
      <sha256>.safetensors   tensors by plain name; age, consumed and seed in the header
      <sha256>.json          the same counters and what the caller wants to remember, for people; with a checksum

A checkpoint is complete before it is visible: tensors first, then the JSON file, each renamed into place; without the
JSON file a checkpoint does not exist, and it is the first to go when one is removed. A checkpoint's name is the hash
of its tensors' file, and reading verifies it. Nothing that training goes on from stands in the JSON file: a damaged
one hides no good checkpoint from `load`, but `verify` names it.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch

from pbt.errors import PbtError, StorageError, first_line
from pbt.record.ledger import write_atomically
from trainables import Shard, State, TrainableError
from trainables.core.shards import whole

#: Key of the counters in the safetensors header.
_FACTS = "pbt.state"

_DIGEST = re.compile(r"[0-9a-f]{64}")

#: Keys of a JSON file of before there were checksums.
_UNSIGNED = {"age", "consumed", "seed", "order", "about"}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint in the store: the hash that names it, its size, and its file."""

    digest: str
    size_bytes: int
    path: Path


class CheckpointStore:
    """The checkpoints of one run. Safe to use from several threads of the run's one writer.

    Args:
        folder: Created when the first checkpoint is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()  # what one thread writes is not half removed by another

    def save(self, state: State, about: Mapping[str, Any]) -> Checkpoint:
        """Write a state, with JSON-able facts about it. One that is there already is written again, which mends it.

        Tensors of which several ranks gave a part each are written in one piece: a checkpoint does not tell how many
        there were.

        Raises:
            StorageError: The folder cannot be written, or a part of the state is missing.
        """
        try:
            state = whole(state)
        except TrainableError as error:
            raise StorageError(f"cannot save a state: {error}.") from error
        facts = _facts_of(state)
        tensors = {shard.name: shard.tensor.detach().cpu().contiguous() for shard in state.shards}
        data = safetensors.torch.save(tensors, {_FACTS: json.dumps(facts)})
        digest = hashlib.sha256(data).hexdigest()
        path, text = self._path(digest), _signed({**facts, "about": dict(about)})
        with self._lock:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StorageError(
                    f"cannot write {self._folder}: {error.strerror}. Free some space, or mend its rights."
                ) from error
            write_atomically(path, data)
            write_atomically(path.with_suffix(".json"), text)
        return Checkpoint(digest, len(data), path)

    def load(self, digest: str) -> State:
        """Read a checkpoint and verify it.

        Raises:
            StorageError: It is not there, or its tensors are damaged.
        """
        path = self._path(digest)
        try:
            path.with_suffix(".json").stat()
            data = path.read_bytes()
        except OSError as error:
            raise _unreadable(path, error) from error
        _must_match(path, hashlib.sha256(data).hexdigest())
        try:
            return _state(data)
        except (ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            raise StorageError(f"{path} is no checkpoint of pbt's: {first_line(error)}.") from error

    def verify(self, digest: str) -> None:
        """Read both files of a checkpoint, without taking up memory for it.

        Raises:
            StorageError: One of them is not there, or damaged. The message names it.
        """
        path = self._path(digest)
        beside = path.with_suffix(".json")
        try:
            text = beside.read_bytes()
            with open(path, "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise _unreadable(path, error) from error
        _must_match(path, found)
        if not _is_signed(text):
            raise StorageError(f"{beside} is damaged: its contents do not match its checksum. {path.name} is good.")

    def digests(self) -> set[str]:
        """All complete checkpoints, damaged ones among them."""
        names = {path.name for path in self._folder.glob("*")}
        stems = {name.removesuffix(".json") for name in names if name.endswith(".json")}
        return {stem for stem in stems if _DIGEST.fullmatch(stem) and f"{stem}.safetensors" in names}

    def remove(self, digest: str) -> None:
        """Delete a checkpoint. One that is not there, or half there, is as good as deleted.

        Raises:
            StorageError: It cannot be deleted.
        """
        path = self._path(digest)
        with self._lock:
            _unlink(path.with_suffix(".json"))  # from here on it is not visible
            _unlink(path)

    def keep(self, digests: Set[str]) -> None:
        """Delete every checkpoint but these. What cannot be deleted is left for the next time."""
        for digest in self.digests() - digests:
            with suppress(StorageError):
                self.remove(digest)

    def sweep_leftovers(self) -> list[Path]:
        """Delete what a process that died left half-written or half-removed, and say what that was.

        For when a run is taken up again: nobody may be writing.

        Raises:
            StorageError: Something cannot be deleted.
        """
        with self._lock:
            found = sorted(path for path in self._folder.glob("*") if _is_leftover(path))
            for path in found:
                _unlink(path)
        return found

    def _path(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise StorageError(f"{digest!r} names no checkpoint: names are 64 hexadecimal digits.")
        return self._folder / f"{digest}.safetensors"


@dataclass(frozen=True, slots=True)
class _Job:
    fetch: Callable[[], State]
    about: Mapping[str, Any]


class Saver:
    """Writes checkpoints in a thread of its own, one after another, so that training need not wait for the disk.

    Whatever goes wrong is told to `on_failed`, and the next job is taken. Both callbacks are called from the saver's
    thread, while the job is still pending: they should do no more than pass the news on, and must not wait for
    anything held by whoever calls `flush` or `close`.

    Args:
        store: Where to.
        on_saved: Told the token and the checkpoint.
        on_failed: Told the token and, in a line, what went wrong.
    """

    def __init__(
        self,
        store: CheckpointStore,
        on_saved: Callable[[str, Checkpoint], None],
        on_failed: Callable[[str, str], None],
    ) -> None:
        self._store, self._on_saved, self._on_failed = store, on_saved, on_failed
        self._jobs: dict[str, _Job | None] = {}  # in order; the first is being done, None once it is done and told
        self._changed = threading.Condition()
        self._closed = False
        self._broken: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="saver", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> frozenset[str]:
        """Tokens of the states that are still to be saved, or being saved."""
        with self._changed:
            return frozenset(self._jobs)

    def save(self, token: str, fetch: Callable[[], State], about: Mapping[str, Any]) -> None:
        """Begin to save a state. Returns at once; does nothing if the token is pending.

        Args:
            token: Names the state.
            fetch: Called in the saver's thread, which waits for it: it must return or raise, or nothing more is saved.
            about: What to remember of it.

        Raises:
            RuntimeError: The saver is closed.
        """
        with self._changed:
            if self._closed:
                raise RuntimeError(f"cannot save {token}: the saver is closed")
            if self._jobs.get(token) is None:  # also one that is told of just now: it may be asked for again
                self._jobs[token] = _Job(fetch, dict(about))
            self._changed.notify_all()

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until nothing is pending.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether nothing is pending.

        Raises:
            BaseException: What a callback raised, if one did.
        """
        with self._changed:
            done = self._changed.wait_for(lambda: not self._jobs, timeout)
            broken, self._broken = self._broken, None
        if broken is not None:
            raise broken
        return done

    def close(self, timeout: float | None = None) -> bool:
        """Take no more jobs, and wait until those there are have been done. Closing again waits again.

        Args:
            timeout: Seconds to wait at most. What is pending then is still saved if the process lives long enough.

        Returns:
            Whether nothing is pending.

        Raises:
            BaseException: What a callback raised, if one did.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        done = self.flush(timeout)
        if done and threading.current_thread() is not self._thread:
            self._thread.join()
        return done

    def _work(self) -> None:
        while (token := self._next()) is not None:
            try:
                self._do(token)
            except BaseException as error:  # a callback's: whoever flushes hears of it, the other jobs go on
                self._broken = error
            with self._changed:
                if self._jobs[token] is None:
                    del self._jobs[token]
                self._changed.notify_all()

    def _next(self) -> str | None:
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            return next(iter(self._jobs), None)

    def _do(self, token: str) -> None:
        job = self._jobs[token]
        assert job is not None
        try:
            saved = self._store.save(job.fetch(), job.about)
        except BaseException as error:  # of whatever kind: the thread goes on
            self._jobs[token] = None
            self._on_failed(token, str(error) if isinstance(error, PbtError) else first_line(error))
        else:
            self._jobs[token] = None
            self._on_saved(token, saved)


def _facts_of(state: State) -> dict[str, Any]:
    """The counters, and the order of the tensors, which safetensors does not keep."""
    order = [shard.name for shard in state.shards]
    return {"age": state.age, "consumed": state.consumed, "seed": state.seed, "order": order}


def _state(data: bytes) -> State:
    """The state in a tensors' file, whose header is its length in 8 bytes, then JSON."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    facts = json.loads(header["__metadata__"][_FACTS])
    tensors = safetensors.torch.load(data)
    shards = tuple(Shard.whole(name, tensors[name]) for name in facts["order"])
    return State(shards, facts["age"], facts["consumed"], facts["seed"])


def _signed(facts: Mapping[str, Any]) -> bytes:
    """JSON text with its checksum as the last entry."""
    plain = json.loads(json.dumps(facts))  # as it will be read back: without tuples, or keys that are numbers
    return json.dumps({**plain, "sha256": _checksum(plain)}, indent=1).encode()


def _is_signed(text: bytes) -> bool:
    try:
        found = json.loads(text)
    except ValueError:
        return False
    if not isinstance(found, dict):
        return False
    return found.keys() == _UNSIGNED or found.pop("sha256", None) == _checksum(found)


def _checksum(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _must_match(path: Path, found: str) -> None:
    if found != path.stem:
        raise StorageError(f"checkpoint {path} is damaged: its contents do not match its name.")


def _unreadable(path: Path, error: OSError) -> StorageError:
    return StorageError(f"cannot read checkpoint {error.filename or path}: {error.strerror}.")


def _is_leftover(path: Path) -> bool:
    """Whether a file was being written, or is the tensors of a checkpoint that was never whole or is half removed."""
    if path.name.startswith(".") and path.suffix == ".tmp":
        return True
    known = path.suffix == ".safetensors" and _DIGEST.fullmatch(path.stem)
    return bool(known) and not path.with_suffix(".json").exists()


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot delete {path}: {error.strerror}. Mend the rights of its folder, or delete it by hand."
        ) from error
