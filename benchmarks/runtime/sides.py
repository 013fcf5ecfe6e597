"""A population of eight with nothing to train, under our runtime and under Ray Tune's own population-based training."""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ray import tune
from ray.tune.schedulers import PopulationBasedTraining

from benchmarks.processes import cpu_s
from benchmarks.runtime.block import Block
from benchmarks.runtime.member import Member
from pbt import PBT, Budget, Checkpoints, Hosts, Sweep
from searchspaces import Float

MEMBERS = 8
#: Share that is replaced in a generation: of eight, two.
_QUANTILE = 0.25
_CORES = 2
#: Generations that are not counted: actors come up, stacks are built.
_WARM = 3


@dataclass(frozen=True, kw_only=True)
class Case:
    """One side of the comparison.

    Attributes:
        impl: `ours`, `ray`, or `ray-reuse`: with `reuse_actors=True`.
        where: What an exploit goes through: the `stack`, the object store (`across`), or the `disk`.
        synchronous: Whether a generation ends for all at once.
        state_mb: Megabytes of a member's state.
        segment_s: Seconds of training in a generation.
        generations: How many.
        at_once: How many of Ray's trials run at once.
    """

    impl: str
    where: str
    synchronous: bool
    state_mb: float
    segment_s: float
    generations: int
    at_once: int = MEMBERS


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was measured.

    Attributes:
        generation_overhead_s: Seconds of a generation in which nobody trains: per member, the mean from one segment's
            end to the next one's, less the segment; the median over members.
        overhead_share: The same over the time spent training; None where nothing is trained.
        exploit_ms: From when the donor was asked for its state to when the receiver had it; within a stack, the copy.
            The median.
        exploits: How many.
        driver_cpu_ms: CPU time of driver and brain per segment, from beginning to end, start included.
        object_store_mb: Megabytes put into the object store in a generation: states published.
        shared_memory_mb: The most shared memory in use meanwhile, beyond what was in use before.
        durability: What would survive the death of everything.
    """

    generation_overhead_s: float
    overhead_share: float | None
    exploit_ms: float | None
    exploits: int
    driver_cpu_ms: float
    object_store_mb: float | None
    shared_memory_mb: float
    durability: str


def measure(case: Case) -> dict[str, Any]:
    """Run a population under one of the runtimes; Ray is up. Returns case and finding as JSON-able data."""
    with tempfile.TemporaryDirectory() as folder, _watched() as watched:
        run = _ours if case.impl == "ours" else _rays
        segments, durability = run(case, Path(folder))
    overhead = statistics.median(_between(times) - case.segment_s for times in segments.ended.values())
    published = segments.published_mb
    finding = Finding(
        generation_overhead_s=overhead,
        overhead_share=overhead / case.segment_s if case.segment_s else None,
        exploit_ms=statistics.median(segments.exploit_ms) if segments.exploit_ms else None,
        exploits=len(segments.exploit_ms),
        driver_cpu_ms=1e3 * watched["cpu_s"] / max(1, sum(map(len, segments.ended.values()))),
        object_store_mb=None if published is None else published / case.generations,
        shared_memory_mb=watched["shared_mb"],
        durability=durability,
    )
    return asdict(case) | asdict(finding)


@dataclass
class _Segments:
    """When each member's segments ended, in order; how long each exploit took; what was published in all."""

    ended: Mapping[int, Sequence[float]]
    exploit_ms: Sequence[float]
    published_mb: float | None = None


def _between(ended: Sequence[float]) -> float:
    counted = ended[_WARM:]
    return (counted[-1] - counted[0]) / (len(counted) - 1)


# ---------------------------------------------------------------------------------------------------------------- ours


def _ours(case: Case, folder: Path) -> tuple[_Segments, str]:
    stacks = 1 if case.where == "stack" else 2
    result = Sweep(
        name="runtime",
        trainable=Block(case.state_mb, case.segment_s),
        space={"lr": Float(1e-4, 1e-1, log=True)},
        objective="score",
        strategy=PBT(quantile=_QUANTILE, synchronous=case.synchronous),
        budget=Budget(members=MEMBERS, generations=case.generations, steps=1),
        # Saved at the end: a checkpoint in between is what `benchmarks.faults` is about.
        checkpoints=Checkpoints(every_minutes=None),
        hosts=Hosts(kind="ray", stacks=stacks, plan="off"),
        storage=folder,
        tracking=False,
    ).run(progress=False)
    found: dict[str, dict[int, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in result.rows["metrics"]:
        if row["split"] == "validation" and not np.isnan(row["value"]):
            found[row["name"]][row["member"]].append((row["segment"], row["value"]))
    name = "copy_ms" if case.where == "stack" else "fetch_ms"
    fetched = [value for values in found["fetch_ms"].values() for _, value in values]
    exploits = [value for values in found[name].values() for _, value in values]
    ended = {member: [value for _, value in sorted(values)] for member, values in found["ended_at"].items()}
    durability = "every decision on disk before it is acted on, at most 100 ms of a node's; no checkpoints meanwhile"
    return _Segments(ended, exploits, len(fetched) * case.state_mb), durability


# --------------------------------------------------------------------------------------------------------------- Ray's


class _Listener(tune.Callback):
    """Takes down what every trial reports."""

    def __init__(self) -> None:
        self.ended: dict[int, list[float]] = defaultdict(list)
        self.took_ms: list[float] = []
        self._numbers: dict[str, int] = {}

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """One more."""
        number = self._numbers.setdefault(trial.trial_id, len(self._numbers))
        self.ended[number].append(result["ended_at"])
        if result.get("took_ms") is not None:
            self.took_ms.append(result["took_ms"])


def _rays(case: Case, folder: Path) -> tuple[_Segments, str]:
    listener = _Listener()
    scheduler = PopulationBasedTraining(
        time_attr="training_iteration",
        metric="score",
        mode="max",
        perturbation_interval=1,
        hyperparam_mutations={"lr": tune.loguniform(1e-4, 1e-1)},
        quantile_fraction=_QUANTILE,
        synch=case.synchronous,
        log_config=False,
    )
    tuner = tune.Tuner(
        tune.with_resources(Member, {"CPU": _CORES / case.at_once}),
        param_space={"lr": tune.loguniform(1e-4, 1e-1), "state_mb": case.state_mb, "segment_s": case.segment_s},
        tune_config=tune.TuneConfig(scheduler=scheduler, num_samples=MEMBERS, reuse_actors=case.impl == "ray-reuse"),
        run_config=tune.RunConfig(
            storage_path=str(folder),
            stop={"training_iteration": case.generations},
            verbose=0,
            callbacks=[listener],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    results = tuner.fit()
    if results.errors:
        raise SystemExit(f"Ray's population failed: {results.errors[0]}")
    durability = "checkpoints of donors on disk, not synced; trials and scheduler in a snapshot now and then"
    return _Segments(listener.ended, listener.took_ms), durability


# ------------------------------------------------------------------------------------------------------- the machine


@contextmanager
def _watched() -> Iterator[dict[str, float]]:
    """CPU time of this process and of the brain's; shared memory in use, looked at every while."""
    found = {"cpu_s": 0.0, "shared_mb": 0.0}
    before_s, before_mb, over = time.process_time(), _shared_mb(), threading.Event()
    brain_s = 0.0

    def look() -> None:
        nonlocal brain_s
        while not over.wait(0.25):
            brain_s = max(brain_s, cpu_s("BrainActor"))
            found["shared_mb"] = max(found["shared_mb"], _shared_mb() - before_mb)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        over.set()
        watcher.join()
        found["cpu_s"] = time.process_time() - before_s + brain_s


def _shared_mb() -> float:
    stat = os.statvfs("/dev/shm")
    return (stat.f_blocks - stat.f_bfree) * stat.f_frsize / 1e6
