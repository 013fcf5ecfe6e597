"""Sweeps as jobs of a cluster of two nodes, each a process here; the client may go away."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import pbt

pytestmark = [pytest.mark.full, pytest.mark.ray]

BIN = Path(sys.executable).parent
PATIENCE_S = 180.0

SWEEP = """
trainable: {name: "mine:Toy"}
space:
  h0: {type: float, low: 0.0, high: 1.0}
  h1: {type: float, low: 0.0, high: 1.0}
objective: {metric: Q}
budget: {members: 4, generations: GENERATIONS, steps: 5}
hosts: {stacks: 2}
tracking: {enabled: false}
strategy: {name: pbt}
name: NAME
"""
MINE = "from trainables import Quadratic\n\n\nclass Toy(Quadratic):\n    pass\n"


@dataclass(frozen=True)
class Cluster:
    """A running cluster: where its dashboard is, and the environment that has its token."""

    address: str
    environment: dict[str, str]

    def pbt(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(BIN / "pbt"), *arguments, "--address", self.address],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment | more,
            start_new_session=True,
        )


def free_ports(number: int) -> list[str]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [str(it.getsockname()[1]) for it in sockets]
    for it in sockets:
        it.close()
    return ports


def start(environment: dict[str, str], *options: str) -> subprocess.Popen[bytes]:
    command = [str(BIN / "ray"), "start", "--block", "--num-cpus=1", "--disable-usage-stats", *options]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet, start_new_session=True)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A head and a second node; no `ray stop`, which would end the clusters of others too."""
    folder = tmp_path_factory.mktemp("ray")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHONPATH"))}
    environment = plain | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    gcs, dashboard, client, agent, other = free_ports(5)
    head = ("--head", f"--port={gcs}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}")
    nodes = [start(environment, *head, f"--dashboard-agent-listen-port={agent}", f"--temp-dir={folder}")]
    address = f"http://127.0.0.1:{dashboard}"
    try:
        wait_for_port(int(dashboard))
        nodes.append(start(environment, f"--address=127.0.0.1:{gcs}", f"--dashboard-agent-listen-port={other}"))
        yield Cluster(address, environment)
    finally:
        for node in reversed(nodes):
            os.killpg(node.pid, signal.SIGTERM)
        for node in nodes:
            try:
                node.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(node.pid, signal.SIGKILL)
                node.wait()


def wait_for_port(port: int) -> None:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise TimeoutError


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A sweep whose trainable is a module beside it; long enough to be left and found again."""
    return write(tmp_path, "toy", generations=60)


def write(folder: Path, name: str, generations: int) -> Path:
    (folder / "mine.py").write_text(MINE)
    file = folder / f"{name}.yaml"
    file.write_text(SWEEP.replace("GENERATIONS", str(generations)).replace("NAME", name))
    return file


def lines_until(process: subprocess.Popen[str], pattern: str) -> list[str]:
    """What it prints up to a line with the pattern."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if re.search(pattern, line):
            return seen
    raise AssertionError(f"no line with {pattern!r} in\n{''.join(seen)}")


def job_of(lines: list[str]) -> str:
    """The first that is said: which job it is, and how to find it again."""
    found = re.match(r"(\S+) was given to the cluster. `pbt watch (\S+) --address", lines[0])
    assert found, lines[0]
    assert found[1] == found[2]
    return found[1]


def test_a_job_outlives_who_submitted_it_and_is_watched_again(cluster: Cluster, sweep: Path, tmp_path: Path) -> None:
    """The client is killed in the middle; another sees all of it from the beginning, and the results are there."""
    storage = tmp_path / "runs"
    client = cluster.pbt("submit", str(sweep), "--storage", str(storage))
    job = job_of(lines_until(client, r"generation +2/60"))
    os.killpg(client.pid, signal.SIGKILL)
    client.communicate()
    watcher = cluster.pbt("watch", job)
    told, _ = watcher.communicate(timeout=PATIENCE_S)
    assert watcher.returncode == 0, told
    assert len(re.findall(r"generation +2/60", told)) == 1
    assert "finished after" in told
    (run,) = storage.glob("toy-*")
    assert pbt.load(run).finished


def test_a_job_is_stopped_and_its_run_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    """Its members are saved first: Ray's three seconds would not do."""
    storage = tmp_path / "runs"
    sweep = write(tmp_path, "long", generations=2000)
    client = cluster.pbt("submit", str(sweep), "--storage", str(storage))
    job = job_of(lines_until(client, r"generation +2/2000"))
    stopper = cluster.pbt("stop", job)
    told, _ = stopper.communicate(timeout=PATIENCE_S)
    assert (stopper.returncode, told) == (0, f"{job} has stopped.\n")
    client.communicate(timeout=PATIENCE_S)
    assert client.returncode == 130
    (run,) = storage.glob("long-*")
    result = pbt.load(run)
    assert result.status == "stopped"
    last = max(row["segment"] for row in result.rows["outcomes"])
    assert {(row["member"], row["segment"]) for row in result.rows["checkpoints"]} >= {(it, last) for it in range(4)}


def test_without_its_token_the_cluster_takes_no_job(cluster: Cluster, sweep: Path) -> None:
    """One line, exit code 2, and where the token belongs."""
    client = cluster.pbt("submit", str(sweep), "--storage", "/tmp/pbt", RAY_AUTH_TOKEN=secrets.token_hex(32))
    told, _ = client.communicate(timeout=PATIENCE_S)
    assert client.returncode == 2, told
    assert told.startswith("pbt: --address: no cluster takes jobs at")
    assert "RAY_AUTH_TOKEN" in told
    assert len(told.splitlines()) == 1


def test_a_job_that_is_not_there_is_told_with_those_that_are(cluster: Cluster) -> None:
    """Watched or stopped."""
    for verb in ("watch", "stop"):
        asked = cluster.pbt(verb, "no-such-job")
        told, _ = asked.communicate(timeout=PATIENCE_S)
        assert (asked.returncode, told.startswith("pbt: job: the cluster has no 'no-such-job'")) == (2, True), told
