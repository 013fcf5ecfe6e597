"""A mirror that is killed, or loses its server, in any call, before or after MLflow did its part, leaves no trace."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pbt.record.mlflow import Mirror
from pbt.record.mlflow_address import connect, quiet
from tests import mirrors
from tests.fake_mlflow import FakeMlflow
from tests.mirrors import WINNER, Flaky, Killed, Store

#: How a sweep comes to MLflow: followed commit by commit, or read once it is over.
FOLLOWED, LATE = "followed", "read at the end"


class Sweep:
    """The scripted sweep as it stood after each commit; `at` shows one of them, always at the same path."""

    def __init__(self, folder: Path) -> None:
        self.path, self._folder = folder / "made-up-1", folder
        run = folder / "told" / "made-up-1"
        self._num_commits = 0
        for _ in mirrors.eventful(run):
            self._keep(run)
        self._keep(run)  # closed, its parts sealed

    def _keep(self, run: Path) -> None:
        shutil.copytree(run, self._folder / str(self._num_commits) / run.name)
        self._num_commits += 1

    def at(self, commit: int) -> Path:
        aside = self._folder / "aside"
        aside.symlink_to(self._folder / str(commit) / "made-up-1")
        os.replace(aside, self.path)
        return self.path

    def commits(self, way: str) -> Iterator[Path]:
        """The run's folder after each commit, or after the last."""
        yield from map(self.at, range(self._num_commits) if way == FOLLOWED else [self._num_commits - 1])


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    return Sweep(tmp_path_factory.mktemp("sweep"))


def fake() -> Store:
    return Store("sqlite:////nowhere/mlflow.db", FakeMlflow())  # type: ignore[arg-type]


def told(store: Store, client: Any, sweep: Sweep, way: str, segment_runs: int, experiment: str = "e") -> dict[str, Any]:
    """Mirror the sweep to its end, with another mirror wherever one is killed; what MLflow has then."""

    def make() -> Mirror:
        patient = itertools.count(0, 100).__next__  # each look at the clock is later than the pause after an error
        options = {"segment_runs": segment_runs, "connect": lambda uri: client, "clock": patient}
        return store.mirror(sweep.path, experiment, **options)

    mirror = None
    for _ in sweep.commits(way):
        mirror = _insist(Mirror.sync, mirror, make)
    mirror = _insist(lambda known: known.finish("finished", WINNER), mirror, make)
    assert (mirror.behind, mirror.ended, mirror.last_error) == (0, True, None)
    return store.everything(experiment)


def _insist(act: Callable[[Mirror], Any], mirror: Mirror | None, make: Callable[[], Mirror]) -> Mirror:
    """Do it with the mirror, with a new one if it is killed, and once more if it loses its server."""
    try:
        mirror = mirror or make()
        act(mirror)
    except Killed:
        mirror = make()
        act(mirror)
    if mirror.last_error:
        act(mirror)
    return mirror


def _case(way: str, late: bool, error: type[BaseException], segment_runs: int) -> Any:
    """Every case in the long suite, the hardest in the short one."""
    short = way == FOLLOWED and error is Killed and late and segment_runs
    name = f"{way}, {error.__name__} {'after' if late else 'before'}, {'segments' if segment_runs else 'members'}"
    return pytest.param(way, late, error, segment_runs, id=name, marks=() if short else pytest.mark.full)


_CASES = itertools.product((FOLLOWED, LATE), (False, True), (Killed, ConnectionError), (200, 0))


@pytest.mark.parametrize(("way", "late", "error", "segment_runs"), [_case(*case) for case in _CASES])
def test_an_interruption_at_any_call_leaves_no_trace(
    sweep: Sweep, way: str, late: bool, error: type[BaseException], segment_runs: int
) -> None:
    """No run, tag, metric, model, input or output is doubled, missing or different; nothing is left running."""
    store = fake()
    undisturbed = Flaky(store.client)
    wanted = told(store, undisturbed, sweep, way, segment_runs)
    assert "RUNNING" not in {content["times"][2] for content in wanted.values() if "times" in content}
    for number in range(len(undisturbed.calls)):
        store = fake()
        disturbed = Flaky(store.client, {number}, late, error)
        found = told(store, disturbed, sweep, way, segment_runs)
        assert len(disturbed.calls) > number, "nothing was interrupted"
        assert wanted == found, f"interrupted in call {number}: {disturbed.calls[number]}"


# -------------------------------------------------------------------------------------------- MLflow in a database


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Store:
    uri = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
    with quiet():
        return Store(uri, connect(uri))


@pytest.fixture(scope="module")
def calls(real: Store, sweep: Sweep) -> list[str]:
    """Names of the calls that an undisturbed mirror makes, in order."""
    client = Flaky(real.client)
    told(real, client, sweep, FOLLOWED, 200, "undisturbed")
    return [name for name, _ in client.calls]


@pytest.mark.parametrize("segment_runs", [200, 0], ids=["segments", "members"])
def test_the_stand_in_for_mlflow_keeps_what_mlflow_keeps(real: Store, sweep: Sweep, segment_runs: int) -> None:
    """And a sweep that is followed comes to the same as one that is read at the end."""
    wanted = told(real, real.client, sweep, FOLLOWED, segment_runs, f"kept-{segment_runs}")
    for way in (FOLLOWED, LATE):
        store = fake()
        assert wanted == told(store, store.client, sweep, way, segment_runs)


_OFTEN = ("create_run", "log_outputs")
_AS_WELL = (
    "log_batch",
    "log_inputs",
    "create_logged_model",
    "finalize_logged_model",
    "delete_logged_model",
    "set_terminated",
)


@pytest.mark.parametrize("name", [*_OFTEN, *(pytest.param(it, marks=pytest.mark.full) for it in _AS_WELL)])
def test_mlflow_takes_again_what_it_did_without_saying_so(
    real: Store, sweep: Sweep, calls: list[str], name: str
) -> None:
    """What the stand-in shows of every call, the database shows of every kind of call."""
    number = len(calls) - 1 - calls[::-1].index(name)
    disturbed = Flaky(real.client, {number}, late=True, error=Killed)
    assert real.everything("undisturbed") == told(real, disturbed, sweep, FOLLOWED, 200, f"killed-{name}")
    assert disturbed.calls[number][0] == name
