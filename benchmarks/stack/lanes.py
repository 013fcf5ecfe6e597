"""Processes that train: each holds one side of the comparison, on one thread, and trains when it is told to.

A side runs in one or several lanes, each a process. Lanes of a side train at the same time; sides take turns.
"""

from __future__ import annotations

import gc
import math
import multiprocessing
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import torch
from torch import nn

from benchmarks.stack import plain
from benchmarks.stack.tasks import TASKS, Task
from trainables.base import Place, Plan, Precision
from trainables.core.plan import measured
from trainables.core.stack import CoreStack

Kind: TypeAlias = Literal["eager", "fused", "compiled", "stacked"]

#: Ways to train one member in plain torch.
_MEMBERS: Mapping[Kind, Callable[[nn.Module, plain.Source, Precision], plain.Member]] = {
    "eager": plain.Eager,
    "fused": partial(plain.Eager, fused=True),
    "compiled": plain.Compiled,
}
#: Seconds that a lane may be silent, planning and compiling included.
_PATIENCE_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a lane trains, and where.

    Attributes:
        task: A name in `TASKS`.
        kind: `eager`, `fused` and `compiled` are one member in plain torch, `stacked` is ours.
        device: A torch device string.
        precision: As in `trainables.Place`.
    """

    task: str
    kind: Kind
    device: str = "cpu"
    precision: Precision = "fp32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What a lane says when it is ready.

    Attributes:
        members: Members it trains at a time.
        seconds: What it took to get ready: planning, compiling and the first steps.
        steps: Steps that take about as long as was asked for.
        bytes_per_member: Of parameters, optimizer state and buffers; None where we did not count them.
        peak_bytes: The most memory the process ever had: on a GPU there, otherwise resident.
        plan: How ours runs.
    """

    members: int
    seconds: float
    steps: int
    bytes_per_member: int | None
    peak_bytes: int
    plan: Plan | None


class Subject(Protocol):
    """What is timed."""

    members: int

    def train(self, steps: int) -> None:
        """Train all members by so many steps, to the end."""


class Single:
    """One member in plain torch. A lane with several would train them one after the other, at this rate."""

    members = 1

    def __init__(self, task: Task, job: Job) -> None:
        self._device = torch.device(job.device)
        self._source = task.source(self._device, torch.float32)
        module = task.module().to(self._device, torch.float32)
        self._member = _MEMBERS[job.kind](module, self._source, job.precision)

    def train(self, steps: int) -> None:
        """Draw the steps' batches, train, and read the loss, as the end of a segment does."""
        shape = (steps, self._source.batch_size)
        self._member.train(torch.randint(self._source.num, shape, device=self._device)).item()


class Stacked:
    """Members in a stack of ours, by the given plan or by the planner's."""

    def __init__(self, task: Task, job: Job, members: int, plan: Plan | None) -> None:
        trainable = task.trainable()
        # As in a sweep over the recipe's hyperparameters; the twins have no others either.
        fixed = frozenset(trainable.describe().hparams) - plain.HPARAMS.keys()
        place = Place(device=job.device, precision=job.precision, compile="always", fixed=fixed)
        bucket = trainable.bucket({})
        plan = plan or measured(trainable, bucket, members, place)
        stack = trainable.build(bucket, members, replace(place, plan=plan))
        assert isinstance(stack, CoreStack)
        self.stack, self.members = stack, members
        # The stack's own plan is what it holds to; the planner's rates come along.
        self.plan = replace(stack.plan, rates=plan.rates if plan else {})
        for slot in range(members):
            stack.admit(slot, plain.HPARAMS, seed=slot)
        self._done = 0

    def train(self, steps: int) -> None:
        """One segment of all members."""
        self._done += steps
        self.stack.run([self._done] * self.members)

    def bytes_per_member(self) -> int:
        """Bytes of one member's state."""
        return sum(shard.tensor.nbytes for shard in self.stack.state(0).shards)


class Lane:
    """A process, and the line to it. Close it, or use it in a `with`."""

    def __init__(self, job: Job) -> None:
        context = multiprocessing.get_context("spawn")
        self._line, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(job, there), daemon=False)
        self._process.start()
        there.close()

    def ask(self, what: str, *args: Any) -> None:
        """Tell it to do something; `answer` waits for the end."""
        self._line.send((what, args))

    def answer(self) -> Any:
        """What it says.

        Raises:
            RuntimeError: It failed, with its traceback; it died, or is silent for an hour.
        """
        if not self._line.poll(_PATIENCE_S):
            raise RuntimeError(f"a process of the benchmark has been silent for {_PATIENCE_S:.0f} s")
        try:
            found, failure = self._line.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(f"a process of the benchmark died with code {self._process.exitcode}") from None
        if failure:
            raise RuntimeError(f"a process of the benchmark failed:\n{failure}")
        return found

    def close(self) -> None:
        """End the process."""
        with suppress(OSError):
            self._line.send(("end", ()))
        self._process.join(10.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


class Side:
    """Lanes of one kind.

    Args:
        job: What each trains.
        lanes: How many there are at most; `prepare` says how many take part.
    """

    def __init__(self, job: Job, lanes: int) -> None:
        self._lanes = [Lane(job) for _ in range(lanes)]
        self._active: Sequence[Lane] = ()
        self._steps = 1
        self._members = 0

    def prepare(self, lanes: int, members: int, seconds: float) -> list[Prepared]:
        """Make some lanes ready, one after the other; the others follow the first one's plan and number of steps.

        Args:
            lanes: How many take part.
            members: Members in each of them; only ours heeds it.
            seconds: How long they train at a time.
        """
        self._active = self._lanes[:lanes]
        found: list[Prepared] = []
        for lane in self._active:
            lane.ask("prepare", members, seconds, found[0].plan if found else None)
            found.append(lane.answer())
        self._steps, self._members = found[0].steps, found[0].members
        return found

    def rate(self) -> float:
        """Member-steps per second of all lanes together, training at the same time."""
        for lane in self._active:
            lane.ask("train", self._steps)
        return sum(self._members * self._steps / lane.answer() for lane in self._active)

    def close(self) -> None:
        """End the processes."""
        for lane in self._lanes:
            lane.close()


# ----------------------------------------------------------------------------------------------------- in the process


def _serve(job: Job, line: Connection) -> None:
    """A lane's life."""
    torch.set_num_threads(1)
    if job.precision == "tf32":
        torch.set_float32_matmul_precision("high")
    subject: Subject | None = None
    found: Prepared | None = None
    with suppress(EOFError, KeyboardInterrupt):  # whoever asked is gone
        while (order := line.recv())[0] != "end":
            what, args = order
            try:
                if what == "prepare":
                    if found is None or job.kind == "stacked":  # the others are the same for every K
                        subject = None  # the old one's memory goes first
                        gc.collect()
                        subject, found = _prepared(job, *args)
                    line.send((found, ""))
                else:
                    assert subject is not None
                    line.send((_timed(subject, *args), ""))
            except Exception:
                line.send((None, traceback.format_exc()))


def _prepared(job: Job, members: int, seconds: float, plan: Plan | None) -> tuple[Subject, Prepared]:
    began = time.perf_counter()
    task = TASKS[job.task]
    subject: Subject = Stacked(task, job, members, plan) if job.kind == "stacked" else Single(task, job)
    subject.train(4)
    took = time.perf_counter() - began
    stacked = subject if isinstance(subject, Stacked) else None
    steps = _steps(subject, seconds)
    found = Prepared(
        members=subject.members,
        seconds=took,
        steps=steps,
        bytes_per_member=stacked.bytes_per_member() if stacked else None,
        peak_bytes=_peak_bytes(job.device),
        plan=stacked.plan if stacked else None,
    )
    return subject, found


def _steps(subject: Subject, seconds: float) -> int:
    """Steps that take about so many seconds, found by doubling."""
    steps = 1
    while (took := _timed(subject, steps)) < seconds / 4:
        steps *= 2
    return max(1, math.ceil(steps * seconds / took))


def _timed(subject: Subject, steps: int) -> float:
    """Seconds of some steps. Both kinds of subject end by reading a number from the device."""
    began = time.perf_counter()
    subject.train(steps)
    return time.perf_counter() - began


def _peak_bytes(device: str) -> int:
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024
