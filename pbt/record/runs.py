"""Run folders: made, found and listed. A run is a folder in a storage folder, with `run.json` and a ledger in it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pbt.errors import LedgerError, RunNotFound, StorageError, nearest
from pbt.record.ledger import write_atomically


@dataclass(frozen=True, slots=True)
class Run:
    """A run's folder, and what its `run.json` says.

    Attributes:
        path: The folder.
        info: `run_id`, `spec`, `objective`, `created`, `versions`, `data`, `metrics`, `hparams`, `fixed`,
            `tokens_per_step`.
    """

    path: Path
    info: Mapping[str, Any]

    @property
    def id(self) -> str:
        """Name of the folder."""
        return self.path.name


def remember_end(run: Run, status: str, reason: str) -> None:
    """Keep with a run that it `failed` or was `stopped`, and why; a full disk is no reason to raise once more."""
    with suppress(StorageError):
        write_atomically(run.path / "end.json", json.dumps({"status": status, "reason": reason}).encode())


def forget_end(run: Run) -> None:
    """The run is taken up: how it ended before, and that somebody asked it to stop, is past."""
    for name in ("end.json", "stop"):
        (run.path / name).unlink(missing_ok=True)


def ask_to_stop(run: Run) -> None:
    """Ask whoever trains the run to stop: a file in its folder, so that it works from any process."""
    with suppress(OSError):  # a full disk: the next Ctrl-C stops at once
        (run.path / "stop").touch()


def is_asked_to_stop(run: Run) -> bool:
    """Whether somebody wants the run to stop."""
    return (run.path / "stop").exists()


def prepare_storage(storage: Path, option: str = "--storage") -> Path:
    """Make the storage folder and see that it can be written, before anything is started.

    Args:
        storage: The folder.
        option: How the person names another one.

    Raises:
        StorageError: It cannot.
    """
    try:
        storage.mkdir(parents=True, exist_ok=True)
        probe = storage / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StorageError(
            f"storage: cannot write {storage} ({error.strerror}). Name a folder you may write with {option}."
        ) from error
    return storage


def make_run(storage: Path, name: str, info: Mapping[str, Any], clock: Callable[[], float] = time.time) -> Run:
    """Make a new run folder, named after the sweep and the present time (UTC).

    Raises:
        StorageError: The storage folder cannot be written.
    """
    now = clock()
    path = _fresh(storage, f"{name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}")
    info = {"run_id": path.name, "created": now, **info}
    write_atomically(path / "run.json", json.dumps(info, indent=1).encode())
    return Run(path, info)


def rewrite_run(run: Run, info: Mapping[str, Any]) -> Run:
    """Replace what `run.json` says.

    Raises:
        StorageError: The folder cannot be written.
    """
    write_atomically(run.path / "run.json", json.dumps(info, indent=1).encode())
    return Run(run.path, info)


def _fresh(storage: Path, stem: str) -> Path:
    number = 1
    while True:
        path = storage / (stem if number == 1 else f"{stem}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
        except OSError as error:
            raise StorageError(
                f"storage: cannot write {storage} ({error.strerror}). Name another with --storage."
            ) from error
        else:
            return path


def open_run(path: Path) -> Run:
    """A run folder by its path.

    Raises:
        RunNotFound: It is not a run folder.
        LedgerError: Its `run.json` is damaged.
    """
    try:
        info = json.loads((path / "run.json").read_bytes())
        if not isinstance(info, dict) or "created" not in info:
            raise ValueError("it does not describe a run")
    except OSError as error:
        raise RunNotFound(f"no run at {path} ({error.strerror}). `pbt list` shows the runs there are.") from error
    except ValueError as error:
        raise LedgerError(f"{path / 'run.json'} is damaged: {error}. Restore it from a backup.") from error
    return Run(path, info)


def list_runs(storage: Path) -> list[Run]:
    """The runs of a storage folder that can be read, newest first; empty if there is no such folder."""
    runs = [run for run in _open_all(storage) if isinstance(run, Run)]
    return sorted(runs, key=lambda run: (run.info["created"], run.id), reverse=True)


def list_damaged(storage: Path) -> list[LedgerError]:
    """What is wrong with the runs of a storage folder that cannot be read."""
    return [error for error in _open_all(storage) if isinstance(error, LedgerError)]


def _open_all(storage: Path) -> Iterator[Run | LedgerError]:
    for file in sorted(storage.glob("*/run.json")):
        try:
            yield open_run(file.parent)
        except LedgerError as error:
            yield error


def find_run(reference: str, storage: Path) -> Run:
    """A run by path, by name, by the beginning of its name, or `latest`.

    Raises:
        RunNotFound: None fits, or several do.
    """
    if not reference:
        raise RunNotFound("RUN: is empty. Write its name, the beginning of it, its folder, or latest.")
    for path in (Path(reference), storage / reference):
        if (path / "run.json").exists():
            return open_run(path)
        if (path / "ledger").exists():
            raise RunNotFound(f"RUN: {path / 'run.json'} is missing. Restore it from a backup.")
    runs = list_runs(storage)
    if not runs:
        raise RunNotFound(f"RUN: there is no run in {storage}. Start one with `pbt demo`, or name its --storage.")
    if reference == "latest":
        return runs[0]
    fitting = [run for run in runs if run.id.startswith(reference)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        some = ", ".join(run.id for run in fitting[:5]) + (", ..." if len(fitting) > 5 else "")
        raise RunNotFound(f"RUN: {reference!r} fits {len(fitting)} runs in {storage}: {some}. Write more of its name.")
    raise RunNotFound(f"RUN: no run {reference!r} in {storage}. {nearest(reference, (run.id for run in runs))}")
