"""Ray, up and down, and what it has room for."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray._private import worker
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pbt.errors import SpecError, first_line
from pbt.runtime.session import processes_of_their_own, session_folder
from trainables import Place

#: Nodes that are asked whether they see the storage folder.
_MOST_ASKED = 8
#: What Ray is started with.
ENVIRONMENT = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths of a user's trainable keep their meaning
    "RAY_free_objects_batch_size": "1",  # a state's memory is free at once: to fill fresh memory takes far longer
    "RAY_worker_niceness": "0",  # hosts are the work, not the background
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the ledger is the record
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is for the brain, which finishes and saves what is under way
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # they are raised, in one line, by `run_tune`
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def check_shared(folder: Path) -> None:
    """Refuse a folder that only this node has, where the cluster has others: what is in it is lost with the node.

    Raises:
        SpecError: Another node does not see it.
    """
    here = ray.get_runtime_context().get_node_id()
    others = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here][:_MOST_ASKED]
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-") as probe:
        path = str(Path(probe.name).absolute())
        looking = {node["NodeManagerAddress"]: _look.options(**_only_on(node)).remote(path) for node in others}
        for address, seen in looking.items():
            with suppress(ray.exceptions.RayError):  # the node is gone, or cannot run anything: others are asked, too
                if not ray.get(seen):
                    problem = f"node {address} does not see {folder.absolute()}, which would be lost with this node"
                    mend = "Name a folder that all nodes share, or write hosts.local_storage: accept"
                    raise SpecError("storage", problem, mend)


@ray.remote(num_cpus=0)
def _look(path: str) -> bool:
    return Path(path).exists()


def _only_on(node: dict[str, Any]) -> dict[str, Any]:
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)}


def default_device() -> str:
    """`cuda` if the cluster has GPUs, else `cpu`."""
    return "cuda" if ray.cluster_resources().get("GPU", 0) >= 1 else "cpu"


def room() -> str:
    """What the cluster has, in words: `1 node with 8 cores and 2 GPUs`."""
    there, nodes = ray.cluster_resources(), sum(node["Alive"] for node in ray.nodes())
    words = [f"{there.get(name, 0):g} {what}" for name, what in (("CPU", "cores"), ("GPU", "GPUs")) if name in there]
    return f"{nodes} node{'s' if nodes != 1 else ''} with {' and '.join(words) or 'nothing to train on'}"


def num_devices(place: Place, gpus: float = 1.0) -> int:
    """How many hosts the cluster has room for: one for each core, or for each GPU or part of one.

    Args:
        place: Device of the hosts.
        gpus: Of a host; see `spec.Hosts`.

    Raises:
        SpecError: There is room for none.
    """
    wanted = resources(place, gpus)
    there = ray.cluster_resources()
    # A tenth of a GPU fits ten times, though 1 // 0.1 is 9.
    ranks = place.world_size
    room = min(int(there.get(name, 0) / amount / ranks + 1e-9) for name, amount in wanted.items())
    if room == 0:
        needed = " and ".join(f"{amount * ranks:g} {name}" for name, amount in wanted.items())
        has = " and ".join(f"{there.get(name, 0):g} {name}" for name in wanted)
        problem = f"the Ray cluster has no room for a host: each needs {needed}, and there are {has}"
        mend = "Set fewer hosts.ranks, or add a node" if ranks > 1 else "Add a node, or set hosts.device"
        raise SpecError("hosts", problem, mend)
    return room


def resources(place: Place, gpus: float = 1.0) -> dict[str, float]:
    """What a host takes: a core, and a GPU or a part of one if it trains there."""
    return {"CPU": 1.0, "GPU": gpus} if place.device.startswith("cuda") else {"CPU": 1.0}


@contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """Ray, up: the one this process is connected to already, the one at `address`, or one started for the occasion.

    Args:
        address: Address of a running cluster, `auto`, or None: inside a Ray job (or with `RAY_ADDRESS` set) that
            cluster is joined, elsewhere Ray is started here, and its session files are removed at the end.

    Raises:
        SpecError: There is no cluster at the address.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    with session_folder() as folder:
        try:
            _connect(address or os.environ.get("RAY_ADDRESS"), folder)
            with _terminating_like_an_interrupt(), _without_its_messages():
                yield
        finally:
            ray.shutdown()


def _connect(address: str | None, folder: Path) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is not None:
            ray.init(address=address, runtime_env={"env_vars": ENVIRONMENT}, **quiet)
            return
        # A token of this process's own: Ray would write one to the home folder.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        with processes_of_their_own():
            ray.init(address="local", include_dashboard=False, _temp_dir=str(folder), **quiet)
    except SystemExit as error:  # Ray's answer to SIGTERM
        raise KeyboardInterrupt from error
    except (ConnectionError, ValueError, RuntimeError) as error:
        problem = f"Ray cannot be reached at {address!r}" if address else "Ray cannot be started here"
        mend = "Start it with `ray start --head`, or leave the address out" if address else "Try hosts.kind: local"
        raise SpecError("hosts.address", f"{problem} ({first_line(error)})", mend) from error


@contextmanager
def _without_its_messages() -> Iterator[None]:
    """Ray prints paragraphs about every process that dies, even where `log_to_driver` is off; the ledger says it."""
    worker._worker_logs_enabled = False  # what Ray's own debugger does
    try:
        yield
    finally:
        worker._worker_logs_enabled = True


@contextmanager
def _terminating_like_an_interrupt() -> Iterator[None]:
    """SIGTERM (a batch system, `docker stop`) ends a sweep as Ctrl-C does; Ray's own handler would abort it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
