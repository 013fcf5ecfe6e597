"""Under Ray, processes are killed in the middle of training: the sweep goes on, and ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import pbt
from pbt import Result
from tests.integration.test_resume import meanwhile, only_run
from tests.integration.toys import hosts_of, kinds, sweep

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The sweep in this process."""
    return sweep(tmp_path_factory.mktemp("undisturbed"), "local").run(progress=False)


def test_a_host_is_killed(
    ray_cluster: None, tmp_path: Path, undisturbed: Result, capfd: pytest.CaptureFixture[str]
) -> None:
    """Tune starts it anew; what it held is brought back."""
    with meanwhile(tmp_path, 8, lambda run: os.kill(hosts_of(tmp_path)[0], signal.SIGKILL)):
        result = sweep(tmp_path, "ray").run(progress=False)
    assert "(raylet)" not in capfd.readouterr().out  # ours is told instead
    assert result.finished
    assert undisturbed.digest() == result.digest()
    lost = {row["message"].partition(": ")[2] for row in result.rows["incidents"] if row["kind"] == "host_lost"}
    assert {"its process was killed, or crashed; lost 1 of at most 5 times in a row"} == lost
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


@pytest.mark.full
def test_the_driver_is_killed(ray_cluster: None, tmp_path: Path, undisturbed: Result) -> None:
    """With it go brain and hosts; resumed by another, the sweep ends as if nothing had happened."""
    import ray

    address = ray.get_runtime_context().gcs_address
    driver = subprocess.Popen([sys.executable, "-m", "tests.integration.driver", str(tmp_path), address])
    with meanwhile(tmp_path, 8, lambda run: driver.kill()):
        assert driver.wait(timeout=300) == -signal.SIGKILL
    assert not pbt.load(only_run(tmp_path)).finished
    result = pbt.resume(only_run(tmp_path), progress=False)
    assert result.finished
    assert undisturbed.digest() == result.digest()


@pytest.mark.full
def test_a_host_is_told_to_end(ray_cluster: None, tmp_path: Path, undisturbed: Result) -> None:
    """It ends what it is doing, and its stacks are saved and moved, back perhaps: nothing is trained again."""
    with meanwhile(tmp_path, 8, lambda run: os.kill(hosts_of(tmp_path)[0], signal.SIGTERM)):
        result = sweep(tmp_path, "ray").run(progress=False)
    assert undisturbed.digest() == result.digest()
    assert ["moved", "recovered"] == kinds(result)[:2]
    assert {"moved", "recovered"} == set(kinds(result))
    stories = [row["message"] for row in result.rows["incidents"] if row["kind"] == "recovered"]
    assert not any("trained" in story for story in stories)
