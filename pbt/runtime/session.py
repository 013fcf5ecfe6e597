"""A Ray that lives as long as this process: its processes, and the folder of its session files."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from ray._private import services

_PREFIX = "pbt-ray-"
#: A file in a session's folder, locked as long as the process that made it lives.
_OWNED = "owned"


@contextmanager
def processes_of_their_own() -> Iterator[None]:
    """The Ray processes started meanwhile are out of reach of signals to this process's group.

    `timeout`, `kill -- -GROUP` and batch systems tell a whole group to end. What is under way is to be saved then, and
    that takes Ray; this process ends it afterwards. They die with this process all the same: on Linux, Ray has the
    kernel see to that. Elsewhere Ray ends them through their group, which is therefore left as it is.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    known = services.ConsolePopen  # Ray has no option for it
    services.ConsolePopen = partial(known, start_new_session=True)
    try:
        yield
    finally:
        services.ConsolePopen = known


@contextmanager
def session_folder() -> Iterator[Path]:
    """A folder for Ray's session files that is removed at the end; near the root, as Ray's sockets need short paths.

    Those that killed processes have left behind are removed, too.
    """
    root = Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())
    _remove_leftovers(root)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
    with open(folder / f".{_OWNED}", "wb") as owned:
        fcntl.flock(owned, fcntl.LOCK_EX)
        os.replace(owned.name, folder / _OWNED)  # under its name only once it is locked
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_leftovers(root: Path) -> None:
    for path in root.glob(f"{_PREFIX}*/{_OWNED}"):
        with suppress(OSError), open(path, "rb") as owned:  # another user's, in use, or just removed
            fcntl.flock(owned, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path.parent, ignore_errors=True)
