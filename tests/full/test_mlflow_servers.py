"""The mirror against real MLflow: a server on SQLite, and PostgreSQL, which are killed while it writes."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
from mlflow import MlflowClient

from benchmarks.postgres import Postgres, lacking
from benchmarks.postgres import postgres as running_postgres
from pbt.record.mlflow import Mirror
from pbt.record.mlflow_address import connect, quiet
from tests import mirrors
from tests.fake_mlflow import FakeMlflow
from tests.full.servers import Server
from tests.mirrors import WINNER, Store

pytestmark = pytest.mark.full

#: Calls of the mirror, counted from 0, in the midst of which MLflow dies: making runs, making models, ending.
DEATHS = (5, 12, 30, 47, 60, 72)


class Backend(Protocol):
    """Something that keeps runs and can be killed."""

    uri: str

    def start(self) -> None: ...

    def kill(self) -> None: ...


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(tmp_path)
    found.start()
    yield found
    found.kill()


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    if why := lacking():
        pytest.skip(why)
    with running_postgres() as found:
        yield found


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
