"""Hosts, brains and drivers killed under Ray."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
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
#: Generations of a sweep for each kill: as many as are trained in that while, and some more.
_GENERATIONS_A_KILL = 200

_DRIVER = """
import sys
from pathlib import Path
from benchmarks.faults import under_ray
under_ray.drive(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
"""


def measure(kills: int) -> dict[str, Any]:
    """Kill so many of each kind, each kind in a sweep of its own; the same sweep is left alone in this process."""
    generations = _GENERATIONS_A_KILL * kills
    with tempfile.TemporaryDirectory() as folder, cluster(None):
        alone = sweep(Path(folder) / "alone", 0, generations).run(progress=False)
        found = {}
        for what, disturb in _KILLED.items():
            click.echo(f"killing: {what}", err=True)
            storage = Path(folder) / what
            storage.mkdir()
            moments = disturb(storage, kills, generations)
            run = drivers.run_in(storage)
            assert run is not None
            found[what] = _record(run, moments, drivers.verdict(run, alone))
        return found


def _record(run: Path, moments: list[float], said: dict[str, Any]) -> dict[str, Any]:
    return {
        "kills": len(moments),
        "recovered": len(moments) if drivers.is_unharmed(said) else 0,
        "segments_lost": said["segments_lost"],
        "segments_doubled": said["segments_doubled"],
        "seconds_to_recover": drivers.spread(_seconds_to_recover(run, moments)),
        "sweeps": [said],
    }


def _seconds_to_recover(run: Path, moments: list[float]) -> list[float]:
    """From each kill until every stack has trained again: since the loss, or the next session, is on record."""
    rows = LedgerReader(run).rows(("segments", "outcomes", "sessions", "incidents"))
    noticed = [row["at"] for row in (*rows["sessions"], *rows["incidents"])]
    stack_of = {(row["member"], row["segment"]): row["stack"] for row in rows["segments"]}
    ended = defaultdict(list)
    for row in rows["outcomes"]:
        ended[stack_of[row["member"], row["segment"]]].append(row["at"])
    found = []
    for moment in moments:
        since = _first(noticed, moment)
        again = [_first(times, since) for times in ended.values()]
        if max(again) < math.inf:  # the last one may have come too late
            found.append(max(again) - moment)
    return found


def _first(times: Sequence[float], after: float) -> float:
    return min((at for at in times if at > after), default=math.inf)


def _while_it_runs(kind: str, storage: Path, kills: int, generations: int) -> list[float]:
    """Kill actors of a class, of a sweep that goes on by itself; returns when."""
    rng, moments, over = random.Random(0), [], threading.Event()

    def kill() -> None:
        while len(moments) < kills and not over.is_set():
            _train_on(storage, over)
            over.wait(rng.uniform(0.0, _BETWEEN_S))
            with suppress(IndexError, ProcessLookupError):  # it is coming up again just now
                os.kill(rng.choice(of_actors(kind)), signal.SIGKILL)
                moments.append(time.time())

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    try:
        sweep(storage, 0, generations, Hosts(kind="ray", stacks=2)).run(progress=False)
    finally:
        over.set()
        killer.join()
    return moments


def _drivers(storage: Path, kills: int, generations: int) -> list[float]:
    """Kill the driver, and let another resume the sweep; returns when."""
    rng, moments = random.Random(0), []
    address = ray.get_runtime_context().gcs_address
    while True:
        driver = subprocess.Popen([sys.executable, "-c", _DRIVER, str(storage), str(generations), address])
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


def drive(storage: Path, generations: int, address: str) -> None:
    """One life of a driver: begin the sweep, or go on with it."""
    drivers.drive(storage, 0, generations, Hosts(kind="ray", stacks=2, address=address))


_KILLED: dict[str, Callable[[Path, int, int], list[float]]] = {
    "host": partial(_while_it_runs, "ResourceTrainable"),
    "brain": partial(_while_it_runs, "BrainActor"),
    "driver": _drivers,
}


def _train_on(storage: Path, over: threading.Event) -> None:
    """Wait until more has been trained than now."""
    known = drivers.num_recorded(storage)
    while drivers.num_recorded(storage) <= known and not over.wait(0.05):
        pass
