"""Under Ray, processes are killed in the middle of training: the sweep goes on, and ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pbt import PBT, Budget, Checkpoints, Hosts, Result, Sweep
from searchspaces import Float
from tests.integration.test_resume import meanwhile
from trainables import Quadratic

pytestmark = pytest.mark.ray

SPACE = {"h0": Float(0.0, 1.0), "h1": Float(0.0, 1.0), "lr": Float(1e-3, 1e-1, log=True)}
GENERATIONS = 24


@dataclass(frozen=True)
class Slow:
    """The paper's toy, of which a segment takes a while; stacks leave the number of their process in a folder."""

    folder: str
    seconds: float = 0.05

    def describe(self) -> Any:
        return Quadratic().describe()

    def bucket(self, hparams: Mapping[str, Any]) -> str:
        return Quadratic().bucket(hparams)

    def build(self, bucket: str, capacity: int, place: Any) -> Any:
        (Path(self.folder) / str(os.getpid())).touch()
        return SlowStack(Quadratic().build(bucket, capacity, place), self)


class SlowStack:
    """Waits before it trains; and for ever, once somebody has left a file that says so."""

    def __init__(self, stack: Any, owner: Slow) -> None:
        self._stack, self._owner = stack, owner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stack, name)

    def run(self, until: Sequence[int]) -> Any:
        time.sleep(self._owner.seconds)
        hang = Path(self._owner.folder) / f"hang-{os.getpid()}"
        while hang.exists():
            time.sleep(0.1)
        return self._stack.run(until)


def sweep(storage: Path, kind: str, **hosts: Any) -> Sweep:
    """Seven members on two stacks: exploits cross stacks."""
    folder = storage / "processes"
    folder.mkdir(parents=True)
    return Sweep(
        name="toy",
        trainable=Slow(str(folder), 0.0 if kind == "local" else 0.05),
        space=SPACE,
        objective="Q",
        strategy=PBT(quantile=0.3),
        budget=Budget(members=7, generations=GENERATIONS, steps=10),
        checkpoints=Checkpoints(every_steps=30),
        hosts=Hosts(kind=kind, stacks=2, **hosts),  # type: ignore[arg-type]
        storage=storage,
        tracking=False,
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The sweep in this process."""
    return sweep(tmp_path_factory.mktemp("undisturbed"), "local").run(progress=False)


def hosts_of(storage: Path) -> list[int]:
    """Processes that have built a stack, and are alive."""
    known = sorted(int(path.name) for path in (storage / "processes").iterdir() if path.name.isdigit())
    return [number for number in known if is_alive(number)]


def is_alive(number: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


def kinds(result: Result) -> list[str]:
    """Of what went wrong."""
    return [row["kind"] for row in result.rows["incidents"]]


def test_a_host_is_killed(ray_cluster: None, tmp_path: Path, undisturbed: Result) -> None:
    """Tune starts it anew; what it held is brought back."""
    with meanwhile(tmp_path, 8, lambda run: os.kill(hosts_of(tmp_path)[0], signal.SIGKILL)):
        result = sweep(tmp_path, "ray").run(progress=False)
    assert result.finished
    assert undisturbed.digest() == result.digest()
    assert "host_lost" in kinds(result)
    assert "recovered" in kinds(result)
    assert "differs" not in kinds(result)


@pytest.mark.full
def test_all_hosts_are_killed_at_once(ray_cluster: None, tmp_path: Path, undisturbed: Result) -> None:
    """The brain is all that is left, and it is enough."""

    def kill(run: Path) -> None:
        for number in hosts_of(tmp_path):
            os.kill(number, signal.SIGKILL)

    with meanwhile(tmp_path, 8, kill):
        result = sweep(tmp_path, "ray").run(progress=False)
    assert undisturbed.digest() == result.digest()
    assert 2 == kinds(result).count("host_lost")


@pytest.mark.full
def test_a_host_hangs(ray_cluster: None, tmp_path: Path, undisturbed: Result) -> None:
    """After the limit it is ended, and replaced."""

    def hang(run: Path) -> None:
        (tmp_path / "processes" / f"hang-{hosts_of(tmp_path)[0]}").touch()

    with meanwhile(tmp_path, 8, hang):
        result = sweep(tmp_path, "ray", hang_minutes=0.05).run(progress=False)
    assert undisturbed.digest() == result.digest()
    (lost,) = [row for row in result.rows["incidents"] if row["kind"] == "host_lost"]
    assert "one order took it more than" in lost["message"]
