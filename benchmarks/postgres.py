"""A PostgreSQL server of one's own on loopback, for as long as it is needed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

#: The server refuses to run as root; Debian's packages make this user.
_USER = "postgres"


@dataclass(frozen=True, slots=True)
class Server:
    """A running server.

    Attributes:
        port: On loopback.
    """

    port: int

    def create(self, name: str) -> str:
        """Make a database; returns its address."""
        self._run("postgres", f"create database {name}")
        return f"postgresql://{_USER}@127.0.0.1:{self.port}/{name}"

    def count(self, database: str, table: str) -> int:
        """Rows of a table."""
        return int(self._run(database, f"select count(*) from {table}")[0])

    def _run(self, database: str, command: str) -> tuple[int, ...]:
        import psycopg

        address = f"postgresql://{_USER}@127.0.0.1:{self.port}/{database}"
        with psycopg.connect(address, autocommit=True) as connection:
            cursor = connection.execute(command)
            return tuple(cursor.fetchone() or ()) if cursor.description else ()


@contextmanager
def postgres() -> Iterator[Server | None]:
    """Start one, and stop it; None where its programs, its user or the driver are not there."""
    programs = _programs()
    if programs is None or find_spec("psycopg") is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="postgres-", dir="/tmp") as folder:
        data, port = Path(folder) / "data", _free_port()
        if os.getuid() == 0:
            shutil.chown(folder, _USER)
        _call(programs / "initdb", "--auth=trust", f"--username={_USER}", "--no-sync", "-D", str(data))
        options = f"-c listen_addresses=127.0.0.1 -p {port} -k {folder}"
        _call(programs / "pg_ctl", "-D", str(data), "-w", "-l", f"{folder}/log", "-o", options, "start")
        try:
            yield Server(port)
        finally:
            _call(programs / "pg_ctl", "-D", str(data), "-m", "immediate", "stop")


def _programs() -> Path | None:
    found = [Path(path).parent for path in (shutil.which("initdb"),) if path]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in found if (folder / "initdb").exists() and (folder / "pg_ctl").exists()), None)


def _call(program: Path, *arguments: str) -> None:
    command = [str(program), *arguments]
    if os.getuid() == 0:
        command = ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups", "--", *command]
    subprocess.run(command, check=True, capture_output=True, cwd="/tmp")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
