"""Hosts, brains and drivers killed under Ray."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import ray

from benchmarks.faults import drivers
from benchmarks.faults.drivers import sweep
from benchmarks.processes import of_actors
from pbt import Hosts
from pbt.record.ledger import LedgerReader
from pbt.runtime.cluster import cluster

#: Seconds of training between two kills, at random up to this.
_BETWEEN_S = 3.0
#: More than can be trained before the last kill.
_GENERATIONS = 3000

_DRIVER = """
import sys
from pathlib import Path
from benchmarks.faults import under_ray
under_ray.drive(Path(sys.argv[1]), sys.argv[2])
"""


def measure(kills: int) -> dict[str, Any]:
    """Kill so many of each kind, each kind in a sweep of its own; the same sweep is left alone in this process."""
    with tempfile.TemporaryDirectory() as folder, cluster(None):
        alone = sweep(Path(folder) / "alone", 0, _GENERATIONS).run(progress=False)
        found = {}
        for what, disturb in {"host": _hosts, "brain": _brains, "driver": _drivers}.items():
            click.echo(f"killing: {what}", err=True)
            storage = Path(folder) / what
            storage.mkdir()
            moments = disturb(storage, kills)
            run = drivers.run_in(storage)
            assert run is not None
            found[what] = _record(run, moments, drivers.verdict(run, alone))
        return found


def _record(run: Path, moments: list[float], said: dict[str, Any]) -> dict[str, Any]:
    at = sorted(row["at"] for row in LedgerReader(run).rows(("outcomes",))["outcomes"])
    following = [next((later for later in at if later > moment), None) for moment in moments]
    seconds = [later - moment for moment, later in zip(moments, following, strict=True) if later is not None]
    return {
        "kills": len(moments),
        "recovered": len(moments) if drivers.is_unharmed(said) else 0,
        "segments_lost": said["segments_lost"],
        "segments_doubled": said["segments_doubled"],
        "seconds_to_recover": drivers.spread(seconds),
        "sweeps": [said],
    }


def _hosts(storage: Path, kills: int) -> list[float]:
    return _while_it_runs(storage, kills, lambda rng: rng.choice(of_actors("ResourceTrainable")))


def _brains(storage: Path, kills: int) -> list[float]:
    return _while_it_runs(storage, kills, lambda rng: rng.choice(of_actors("BrainActor")))


def _while_it_runs(storage: Path, kills: int, victim: Callable[[random.Random], int]) -> list[float]:
    """Kill processes of a sweep that goes on by itself; returns when."""
    rng, moments, over = random.Random(0), [], threading.Event()

    def kill() -> None:
        while len(moments) < kills and not over.is_set():
            _train_on(storage, over)
            over.wait(rng.uniform(0.0, _BETWEEN_S))
            with suppress(IndexError, ProcessLookupError):  # it is coming up again just now
                os.kill(victim(rng), signal.SIGKILL)
                moments.append(time.time())

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    try:
        sweep(storage, 0, _GENERATIONS, Hosts(kind="ray", stacks=2)).run(progress=False)
    finally:
        over.set()
        killer.join()
    return moments


def _drivers(storage: Path, kills: int) -> list[float]:
    """Kill the driver, and let another resume the sweep; returns when."""
    rng, moments = random.Random(0), []
    address = ray.get_runtime_context().gcs_address
    while True:
        driver = subprocess.Popen([sys.executable, "-c", _DRIVER, str(storage), address])
        if len(moments) == kills:
            if driver.wait() != 0:
                raise SystemExit("a driver failed")
            return moments
        _train_on(storage, threading.Event())
        time.sleep(rng.uniform(0.0, _BETWEEN_S))
        if driver.poll() is not None:
            return moments
        driver.kill()
        moments.append(time.time())
        driver.wait()


def drive(storage: Path, address: str) -> None:
    """One life of a driver: begin the sweep, or go on with it."""
    drivers.drive(storage, 0, _GENERATIONS, Hosts(kind="ray", stacks=2, address=address))


def _train_on(storage: Path, over: threading.Event) -> None:
    """Wait until more has been trained than now."""
    known = drivers.num_recorded(storage)
    while drivers.num_recorded(storage) <= known and not over.wait(0.05):
        pass
