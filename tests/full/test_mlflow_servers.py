"""The mirror against real MLflow: a server on SQLite, and PostgreSQL, which are killed while it writes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import pytest
from mlflow import MlflowClient

from pbt.record.mlflow import Mirror
from pbt.record.mlflow_address import connect, quiet
from tests import mirrors
from tests.fake_mlflow import FakeMlflow
from tests.mirrors import WINNER, Store

pytestmark = pytest.mark.full

#: Calls of the mirror, counted from 0, in the midst of which MLflow dies: making runs, making models, ending.
DEATHS = (5, 12, 30, 47, 60, 72)


class Backend(Protocol):
    """Something that keeps runs and can be killed."""

    uri: str

    def start(self) -> None: ...

    def kill(self) -> None: ...


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """`mlflow server` on a SQLite file."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        options = {
            "backend-store-uri": f"sqlite:///{self.folder / 'mlflow.db'}",
            "artifacts-destination": self.folder / "artifacts",
            "host": "127.0.0.1",
            "port": self.port,
            "workers": 1,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        manners = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *words],
                env=os.environ | manners,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait()

    def _wait(self) -> None:
        for _ in range(600):
            assert self.process is not None
            assert self.process.poll() is None, (self.folder / "server.log").read_text()
            with suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return
            time.sleep(0.1)
        raise TimeoutError((self.folder / "server.log").read_text())

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@dataclass
class Postgres:
    """PostgreSQL in a folder of its own, as a user of its own: it refuses to be run by root."""

    programs: Path
    folder: Path
    user: str | None
    port: int = field(default_factory=free_port)

    @property
    def uri(self) -> str:
        return f"postgresql://mlflow@127.0.0.1:{self.port}/postgres"

    def make(self) -> None:
        if self.user is not None:
            shutil.chown(self.folder, self.user)
        self._run("initdb", "--username=mlflow", "--auth=trust", "--no-sync")

    def start(self) -> None:
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1"
        self._run("pg_ctl", "start", "--wait", f"--options={options}", f"--log={self.folder / 'log'}")

    def kill(self) -> None:
        self._run("pg_ctl", "stop", "--mode=immediate")

    def _run(self, program: str, *arguments: str) -> None:
        data = f"--pgdata={self.folder / 'data'}"
        subprocess.run(
            [self.programs / program, *arguments, data],
            check=True,
            user=self.user,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=120,
        )


def programs_of_postgres() -> Path | None:
    """Where `initdb` and `pg_ctl` are: on the path, or where Debian puts them."""
    found = shutil.which("initdb")
    beside = [Path(found).resolve().parent] if found else []
    folders = [*beside, *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    return next((folder for folder in folders if (folder / "pg_ctl").exists()), None)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(tmp_path)
    found.start()
    yield found
    found.kill()


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    programs = programs_of_postgres()
    if programs is None:
        pytest.skip("PostgreSQL is not installed")
    if find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed")
    user = ("postgres" if "postgres" in Path("/etc/passwd").read_text() else "nobody") if os.geteuid() == 0 else None
    # Not below pytest's folder, which only its owner may enter.
    with tempfile.TemporaryDirectory(prefix="pbt-postgres-", ignore_cleanup_errors=True) as folder:
        found = Postgres(programs, Path(folder), user)
        found.make()
        found.start()
        yield found
        with suppress(subprocess.CalledProcessError):
            found.kill()


@dataclass
class Mortal:
    """A client in the midst of whose calls the backend dies, a moment after they are made."""

    client: MlflowClient
    backend: Backend
    deaths: Sequence[int]
    number: int = 0

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            number, self.number = self.number, self.number + 1
            if number not in self.deaths:
                return getattr(self.client, name)(*args, **options)
            death = threading.Thread(target=self.backend.kill)
            death.start()
            try:
                return getattr(self.client, name)(*args, **options)
            finally:
                death.join()

        return call


def mirror_through_deaths(backend: Backend, run: Path, deaths: Sequence[int]) -> tuple[Store, int]:
    """Mirror a sweep; whenever the backend dies, it is started again, and so is the mirror. Returns how often."""
    with quiet():
        client = connect(backend.uri)
    mortal, died = Mortal(client, backend, deaths), 0
    store = Store(backend.uri, client)
    for _ in range(3 * len(deaths) + 3):
        mirror = store.mirror(run, "e", segment_runs=200, connect=lambda uri: mortal)
        before = mortal.number
        if mirror.finish("finished", WINNER):
            return store, died
        if any(before <= death < mortal.number for death in deaths):
            died += 1
            backend.start()
    raise AssertionError(f"it never came to an end: {mirror.last_error}")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return mirrors.tell_eventful(tmp_path / "told" / "made-up-1")


@pytest.fixture
def wanted(run: Path) -> dict[str, Any]:
    """What an undisturbed mirror leaves."""
    store = Store("sqlite:////nowhere/mlflow.db", FakeMlflow())  # type: ignore[arg-type]
    assert store.mirror(run, "e", segment_runs=200).finish("finished", WINNER)
    return store.everything("e")


@pytest.mark.parametrize("kind", ["server", "postgres"])
def test_mlflow_that_is_killed_while_it_writes_has_everything_once(
    request: pytest.FixtureRequest, run: Path, wanted: dict[str, Any], kind: str
) -> None:
    """Runs, tags, metrics, models, inputs and outputs are those of a mirror that nothing befell."""
    backend: Backend = request.getfixturevalue(kind)
    store, died = mirror_through_deaths(backend, run, DEATHS)
    assert len(DEATHS) == died
    assert wanted == store.everything("e")


def test_a_server_that_dies_while_a_sweep_is_followed_is_caught_up_with(server: Server, tmp_path: Path) -> None:
    """By the same mirror, which goes on asking; what it keeps meanwhile is the rows."""
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 100.0
        return now

    run, behind = tmp_path / "told" / "made-up-1", []
    with quiet():
        store = Store(server.uri, connect(server.uri))
    mirror: Mirror | None = None
    for number, _ in enumerate(mirrors.eventful(run)):
        mirror = mirror or store.mirror(run, "e", segment_runs=200, clock=clock)
        if number == 3:
            server.kill()
        if number == 6:
            server.start()
        mirror.sync()
        behind.append(mirror.behind > 0)
    assert mirror is not None
    assert [False] * 3 + [True] * 3 + [False] * 4 == behind
    assert mirror.finish("finished", WINNER)
    fake = Store("sqlite:////nowhere/mlflow.db", FakeMlflow())  # type: ignore[arg-type]
    assert fake.mirror(run, "e", segment_runs=200).finish("finished", WINNER)
    assert fake.everything("e") == store.everything("e")
