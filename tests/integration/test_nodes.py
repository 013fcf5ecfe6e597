"""A cluster whose nodes come and go, and are cut off: the sweep goes on, and ends as if nothing had happened."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import pbt
from pbt.runtime.cluster import ENVIRONMENT
from tests.integration.nodes import GENERATIONS
from tests.integration.test_resume import meanwhile, only_run
from tests.integration.toys import kinds, sweep

pytestmark = [pytest.mark.ray, pytest.mark.full]


def test_a_node_is_killed_and_another_added(tmp_path: Path) -> None:
    """What was on it is taken over by those that are left; the new one is given a part of that."""
    command = [sys.executable, "-m", "tests.integration.nodes", str(tmp_path)]
    subprocess.run(command, check=True, timeout=900)
    result = pbt.load(only_run(tmp_path))
    assert result.finished
    assert sweep(tmp_path / "alone", "local", GENERATIONS).run(progress=False).digest() == result.digest()
    # On a busy machine the host that is started in its place may be lost as well.
    assert ["host_lost", "moved"] == [it for it in dict.fromkeys(kinds(result)) if it in ("host_lost", "moved")]
    assert without_checkpoints(kinds(result))[-1] == "recovered"
    told = {row["node"] for row in result.rows["nodes"]}
    assert {0, 1} <= told <= {0, 1, 2}, "the first two; the one that was added, if there was time for it"


def without_checkpoints(told: list[str]) -> list[str]:
    """That a state was lost with its node, before it was saved, may be told at any time."""
    return [kind for kind in told if kind != "checkpoint_failed"]


# --- two nodes in network namespaces of their own, a cable between them


#: Ray looks after its nodes every three seconds, and takes five times of ten seconds without an answer for the end.
IMPATIENT = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "3",
}


class Network:
    """Two namespaces, `ours` with the address `head`, and another."""

    def __init__(self) -> None:
        self.ours, self.theirs = (f"pbt-{side}-{os.getpid()}" for side in "ab")
        self.head, self.other = "10.213.7.1", "10.213.7.2"

    def lay(self) -> None:
        for name in (self.ours, self.theirs):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        cable = ["type", "veth", "peer", "name", "cable", "netns", self.theirs]
        ip("-n", self.ours, "link", "add", "name", "cable", *cable)
        for name, address in ((self.ours, self.head), (self.theirs, self.other)):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")

    def cut(self) -> None:
        ip("-n", self.ours, "link", "set", "cable", "down")

    def begin(self, where: str, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["ip", "netns", "exec", where, *command], env=os.environ | environment)

    def clear(self) -> None:
        for name in (self.ours, self.theirs):
            listed = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
            for number in listed.stdout.split():
                with suppress(ProcessLookupError):
                    os.kill(int(number), signal.SIGKILL)
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def ip(*words: str) -> None:
    """The command of this name."""
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def network() -> Iterator[Network]:
    """Laid, if the test may."""
    found = Network()
    try:
        found.lay()
    except (OSError, subprocess.CalledProcessError) as error:
        found.clear()
        pytest.skip(f"no network namespaces can be made here: {error}")
    yield found
    found.clear()


@pytest.fixture
def nodes(network: Network) -> Iterator[Callable[[str], dict[str, str]]]:
    """Starts a node of Ray on each side, the other's after a command; returns the environment of clients."""
    folder = Path("/tmp") / network.ours  # near the root, as Ray's sockets need short paths
    environment = ENVIRONMENT | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment |= IMPATIENT | {"PYTHONPATH": os.getcwd()}

    def start(first: str = "true") -> dict[str, str]:
        ray = f"{Path(sys.executable).with_name('ray')} start --num-cpus=1 --object-store-memory=100000000"
        head = f"--head --node-ip-address={network.head} --port=6379 --include-dashboard=false --temp-dir={folder}"
        other = f"--node-ip-address={network.other} --address={network.head}:6379"
        assert 0 == network.begin(network.ours, "sh", "-c", f"{ray} {head}", **environment).wait(300)
        assert 0 == network.begin(network.theirs, "sh", "-c", f"{first} && {ray} {other}", **environment).wait(300)
        return environment

    yield start
    network.clear()
    shutil.rmtree(folder, ignore_errors=True)


def test_a_node_is_cut_off(tmp_path: Path, network: Network, nodes: Callable[..., dict[str, str]]) -> None:
    """Ray gives it up after a while, and what was on it is brought back on the other side."""
    environment = nodes()
    command = [sys.executable, "-m", "tests.integration.driver", str(tmp_path), f"{network.head}:6379"]
    driver = network.begin(network.ours, *command, **environment)
    with meanwhile(tmp_path, 8, lambda run: network.cut()):
        assert 0 == driver.wait(900)
    result = pbt.load(only_run(tmp_path))
    assert result.finished
    assert sweep(tmp_path / "alone", "local").run(progress=False).digest() == result.digest()
    assert "host_lost" in kinds(result)  # twice, where the machine is so busy that the other is given up for a while
    assert without_checkpoints(kinds(result))[-1] == "recovered"


def test_storage_that_another_node_does_not_see_is_refused(
    tmp_path: Path, network: Network, nodes: Callable[..., dict[str, str]], capfd: pytest.CaptureFixture[str]
) -> None:
    """Before anything is begun: it would be lost with its node."""
    environment = nodes(f"mount -t tmpfs none {tmp_path}")  # seen on that side only
    command = [sys.executable, "-m", "tests.integration.driver", str(tmp_path), f"{network.head}:6379"]
    assert 1 == network.begin(network.ours, *command, **environment).wait(300)
    said = f"storage: node {network.other} does not see {tmp_path}, which would be lost with this node. Name a folder"
    assert said in capfd.readouterr().err
    assert [] == list(tmp_path.glob("toy-*"))
