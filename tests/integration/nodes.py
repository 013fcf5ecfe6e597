"""A sweep on three nodes of which one is killed and replaced, in a process of its own: these are another Ray's."""

from __future__ import annotations

import logging
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

import pbt
from pbt.errors import PbtError
from pbt.runtime.cluster import ENVIRONMENT
from tests.integration.toys import sweep

#: Generations at which a node is killed, and at which the sweep is over: long enough for another to come up.
KILLED, GENERATIONS = 8, 250


def wait(condition: Callable[[], bool], seconds: float = 180.0) -> None:
    """Until it holds."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError
        time.sleep(0.1)


def num_generations(storage: Path) -> int:
    """How many have been begun."""
    try:
        rows = [row for run in storage.glob("toy-*") for row in pbt.load(run).rows["segments"]]
    except PbtError:  # not there yet
        return 0
    return 1 + max((row["generation"] for row in rows), default=-1)


def main(storage: Path) -> None:
    """The head, where driver and brain are, trains nothing; two others have room for a host each."""
    os.environ.update(ENVIRONMENT, RAY_AUTH_TOKEN=secrets.token_hex(32), PYTHONPATH=os.getcwd())
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    doomed = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    sweeping = threading.Thread(target=lambda: sweep(storage, "ray", GENERATIONS).run(progress=False), daemon=True)
    sweeping.start()
    wait(lambda: num_generations(storage) > KILLED)
    cluster.remove_node(doomed, allow_graceful=False)
    # The host that is left takes both stacks once the other has had time to come up again.
    wait(lambda: num_generations(storage) > KILLED + 4)
    cluster.add_node(num_cpus=1)
    wait(lambda: not sweeping.is_alive())
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
