"""One run in a process of its own: whose method it is, where its files are, how long it takes."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.population_quality import ours
from benchmarks.population_quality.outcome import Outcome
from benchmarks.population_quality.tasks import task

#: Methods of Ray Tune. Their module imports Ray, which processes that need none do without.
RAYS = ("ray_pbt", "ray_pb2")


@dataclass(frozen=True, slots=True)
class Run:
    """A method on a task with a seed, quick or not."""

    task: str
    method: str
    seed: int
    quick: bool


#: This process's lane, and Ray's address.
_own: dict[str, Any] = {"lane": 0, "address": None}


def prepare(lanes: Any, address: str | None) -> None:
    """Called once in each process.

    Args:
        lanes: A queue of numbers, one for each process: a process's trials under Ray have resources of their own.
        address: Of a Ray that is up; None if none is needed.
    """
    import torch

    torch.set_num_threads(1)
    _own.update(lane=lanes.get(), address=address)


def carry_out(run: Run) -> Outcome:
    """Train; what goes wrong is told, and others go on."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="quality-") as folder:
        try:
            found = _trained(run, Path(folder))
        except Exception as error:
            found = Outcome(error=f"{type(error).__name__}: {error}")
    return replace(found, seconds=time.monotonic() - began)


def _trained(run: Run, folder: Path) -> Outcome:
    of = task(run.task, run.quick)
    if run.method not in RAYS:
        return ours.train(of, run.method, run.seed, folder)
    from benchmarks.population_quality import rays

    with rays.joined(_own["address"]):
        return rays.train(of, run.method, run.seed, run.quick, folder, _own["lane"])
