"""A PostgreSQL server of one's own, on loopback and in a folder of its own, for as long as it is needed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path


@dataclass
class Postgres:
    """A server and its folder.

    Attributes:
        programs: Where `initdb` and `pg_ctl` are.
        folder: For its data.
        user: Who runs it: it refuses to be run by root. None for whoever this is.
        port: On loopback.
    """

    programs: Path
    folder: Path
    user: str | None
    port: int = field(default_factory=lambda: free_port())

    @property
    def uri(self) -> str:
        """Of the database that every server has."""
        return self.uri_of("postgres")

    def uri_of(self, database: str) -> str:
        """Of a database."""
        return f"postgresql://mlflow@127.0.0.1:{self.port}/{database}"

    def make(self) -> None:
        """Make its folder a database's."""
        if self.user is not None:
            shutil.chown(self.folder, self.user)
        self._run("initdb", "--username=mlflow", "--auth=trust", "--no-sync")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1"
        self._run("pg_ctl", "start", "--wait", f"--options={options}", f"--log={self.folder / 'log'}")

    def kill(self) -> None:
        """Stop it as a power failure would."""
        self._run("pg_ctl", "stop", "--mode=immediate")

    def ask(self, database: str, command: str) -> int:
        """Carry out a command; the number it answers with, 0 if with nothing."""
        import psycopg

        with psycopg.connect(self.uri_of(database), autocommit=True) as connection:
            cursor = connection.execute(command)  # type: ignore[arg-type]
            row = cursor.fetchone() if cursor.description else None
            return int(row[0]) if row else 0

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self.programs / program, *arguments, f"--pgdata={self.folder / 'data'}"],
            check=True,
            user=self.user,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=120,
        )


def lacking() -> str | None:
    """Why there can be none here, in words; None if there can."""
    if _programs() is None:
        return "PostgreSQL is not installed"
    return "psycopg is not installed" if find_spec("psycopg") is None else None


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A running one, which is stopped and removed afterwards."""
    programs = _programs()
    assert programs is not None, lacking()
    is_known = any(line.startswith("postgres:") for line in Path("/etc/passwd").read_text().splitlines())
    user = ("postgres" if is_known else "nobody") if os.geteuid() == 0 else None
    # Not below pytest's folder, which only its owner may enter.
    with tempfile.TemporaryDirectory(prefix="pbt-postgres-", ignore_cleanup_errors=True) as folder:
        found = Postgres(programs, Path(folder), user)
        found.make()
        found.start()
        try:
            yield found
        finally:
            with suppress(subprocess.CalledProcessError):  # it may have been killed
                found.kill()


def _programs() -> Path | None:
    """Where `initdb` and `pg_ctl` are: on the path, or where Debian puts them."""
    found = shutil.which("initdb")
    beside = [Path(found).resolve().parent] if found else []
    folders = [*beside, *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    return next((folder for folder in folders if (folder / "pg_ctl").exists()), None)


def free_port() -> int:
    """A port of loopback that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
