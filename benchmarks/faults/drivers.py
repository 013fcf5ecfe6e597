"""Drivers killed and resumed, without Ray."""

from __future__ import annotations

import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

import pbt
from pbt import PBT, Budget, Checkpoints, Hosts, Result, Sweep
from pbt.errors import PbtError
from pbt.record.ledger import LedgerReader
from pbt.record.validity import violations
from pbt.runtime.checkpoints import CheckpointStore
from searchspaces import Float
from trainables import Quadratic

#: Seconds in which a life ends at random, after the first segment it recorded or, for some, after it began.
_LIFE_S, _EARLY_S = 1.0, 0.15
#: Share of lives that end while the sweep is still being taken up.
_EARLY = 0.2

_DRIVER = """
import sys, time
from pathlib import Path
from benchmarks.faults import drivers
print(time.time(), flush=True)
drivers.drive(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
"""


def sweep(storage: Path, seed: int, generations: int, hosts: Hosts | None = None) -> Sweep:
    """The sweep that is killed: in one process, unless there are other hosts."""
    space = {"h0": Float(0.0, 1.0), "h1": Float(0.0, 1.0), "lr": Float(1e-3, 1e-1, log=True)}
    return Sweep(
        name="faults",
        trainable=Quadratic(),
        space=space,
        objective="Q",
        strategy=PBT(quantile=0.3),
        budget=Budget(members=7, generations=generations, steps=10),
        seed=seed,
        hosts=hosts or Hosts(kind="local", stacks=2),
        storage=storage,
        tracking=False,
        checkpoints=Checkpoints(every_steps=100),
    )


def drive(storage: Path, seed: int, generations: int, hosts: Hosts | None = None) -> None:
    """One life: begin the sweep, or go on with it."""
    if (run := run_in(storage)) is not None:
        pbt.resume(run, progress=False)
    else:
        sweep(storage, seed, generations, hosts).run(progress=False)


def run_in(storage: Path) -> Path | None:
    """The folder of the sweep there, once there is one."""
    return next((path.parent.parent for path in storage.glob("faults-*/ledger/manifest.json")), None)


def num_recorded(storage: Path) -> int:
    """How many segments have ended."""
    run = run_in(storage)
    if run is None:
        return 0
    try:
        return LedgerReader(run).table("outcomes").num_rows
    except PbtError:  # being sealed
        return 0


class Victim:
    """One sweep, and what its lives were like."""

    def __init__(self, storage: Path, seed: int, generations: int) -> None:
        self.storage, self.seed, self.generations = storage, seed, generations
        self.kills = 0
        self.seconds: list[float] = []  # from the start of a process to its first new segment
        self.seconds_without_start: list[float] = []  # the same, without starting Python and importing

    @property
    def run(self) -> Path | None:
        """Its folder, once there is one."""
        return run_in(self.storage)

    def live(self, rng: random.Random) -> bool:
        """One life, killed or not; returns whether the sweep has come to its end."""
        resumed, known = self.run is not None, num_recorded(self.storage)
        began = time.time()
        process = subprocess.Popen(
            [sys.executable, "-c", _DRIVER, str(self.storage), str(self.seed), str(self.generations)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        ready = float(process.stdout.readline() or "nan")
        if rng.random() < _EARLY:
            time.sleep(rng.uniform(0, _EARLY_S))
        else:
            self._wait_for_more(process, known)
            time.sleep(rng.uniform(0, _LIFE_S))
        killed = process.poll() is None
        process.send_signal(signal.SIGKILL)
        _, said = process.communicate()
        if not killed and process.returncode != 0:
            raise SystemExit(f"a driver failed: {said}")
        self.kills += killed
        if resumed:
            self._time(began, ready, known)
        return self.run is not None and pbt.load(self.run).finished

    def _wait_for_more(self, process: subprocess.Popen[str], known: int) -> None:
        while process.poll() is None and num_recorded(self.storage) <= known:
            time.sleep(0.02)

    def _time(self, began: float, ready: float, known: int) -> None:
        assert self.run is not None
        outcomes = LedgerReader(self.run).rows(("outcomes",))["outcomes"]
        if len(outcomes) > known:
            self.seconds.append(outcomes[known]["at"] - began)
            self.seconds_without_start.append(outcomes[known]["at"] - ready)

    def verdict(self, alone: Result) -> dict[str, Any]:
        """Compared with the same sweep left alone."""
        assert self.run is not None
        return {"seed": self.seed, "kills": self.kills, **verdict(self.run, alone)}


def verdict(run: Path, alone: Result) -> dict[str, Any]:
    """A sweep that was disturbed, compared with the same left alone."""
    result, store = pbt.load(run), CheckpointStore(run / "checkpoints")
    recorded = [(row["member"], row["segment"]) for row in result.rows["outcomes"]]
    wanted = {(row["member"], row["segment"]) for row in alone.rows["outcomes"]}
    return {
        "same_digest": result.digest() == alone.digest(),
        "segments_lost": len(wanted - set(recorded)),
        "segments_doubled": len(recorded) - len(set(recorded)),
        "violations": violations(result.rows, lambda digest: _reads(store, digest), budget_of(alone)),
        "segments": len(recorded),
        "incidents": [row["message"].split("\n")[0] for row in result.rows["incidents"]],
    }


def is_unharmed(said: dict[str, Any]) -> bool:
    """Whether a verdict finds nothing wrong."""
    return said["same_digest"] and not (said["segments_lost"] or said["segments_doubled"] or said["violations"])


def budget_of(alone: Result) -> Budget:
    """The budget both sweeps have."""
    return Budget(**alone.run.info["spec"]["budget"])


def _reads(store: CheckpointStore, digest: str) -> bool:
    try:
        store.load(digest)
    except PbtError:
        return False
    return True


def measure(kills: int, generations: int, seed: int = 0) -> dict[str, Any]:
    """Kill until there have been enough kills."""
    rng, victims, verdicts = random.Random(seed), [], []
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        while (done := sum(victim.kills for victim in victims)) < kills:
            number = len(victims)
            alone = sweep(Path(folder) / f"alone-{number}", number, generations).run(progress=False)
            victims.append(Victim(Path(folder) / f"killed-{number}", number, generations))
            victims[-1].storage.mkdir()
            while not victims[-1].live(rng):
                click.echo(f"\r{done + victims[-1].kills} kills", nl=False, err=True)
            verdicts.append(victims[-1].verdict(alone))
    click.echo(err=True)
    seconds = [value for victim in victims for value in victim.seconds]
    bare = [value for victim in victims for value in victim.seconds_without_start]
    return {
        "kills": sum(v["kills"] for v in verdicts),
        "recovered": sum(v["kills"] for v in verdicts if is_unharmed(v)),
        "segments_lost": sum(v["segments_lost"] for v in verdicts),
        "segments_doubled": sum(v["segments_doubled"] for v in verdicts),
        "seconds_to_recover": spread(seconds),
        "seconds_to_recover_without_starting_python": spread(bare),
        "wall_s": time.monotonic() - began,
        "sweeps": verdicts,
    }


def spread(seconds: list[float]) -> dict[str, float]:
    """Median and maximum, if there are any."""
    return {"median": statistics.median(seconds), "max": max(seconds), "times": len(seconds)} if seconds else {}
