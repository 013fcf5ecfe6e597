"""What else the core promises: copies without the disk, AdamW at the speed of memory, a cheap noise scale.

One process, one thread, on the CPU.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.rounds import Estimate, ratio, take_turns
from benchmarks.stack import plain
from benchmarks.stack.tasks import TASKS, Bytes, Task
from pbt.runtime.checkpoints import CheckpointStore
from trainables import Place
from trainables.core import noise
from trainables.core.model import Program
from trainables.core.optim import AdamW, gradient_norm
from trainables.core.stack import CoreStack
from trainables.core.step import COMPILER_OPTIONS

_MEMBERS = 16
#: Micro-batches of a step whose noise scale is measured; as few as there can be, so that its share is largest.
_ACCUMULATE = 2


@dataclass(frozen=True, kw_only=True)
class Promise:
    """One promise: what was aimed at, and the median it is judged by.

    Attributes:
        what: In words.
        aim: The bound.
        at_least: Whether it is a lower one.
        found: What was measured.
        seconds: Medians of what was timed, by name.
    """

    what: str
    aim: float
    at_least: bool
    found: Estimate
    seconds: Mapping[str, float]

    def record(self) -> dict[str, Any]:
        """As in the other aims."""
        met = self.found.median >= self.aim if self.at_least else self.found.median <= self.aim
        return {
            "what": self.what,
            "found": f"{self.found:.3g}",
            "aim": f"{'>=' if self.at_least else '<='} {self.aim}",
            "met": met,
            "verdict": "met" if met else "missed",
            "estimate": asdict(self.found),
            "seconds": dict(self.seconds),
        }


def measure(rounds: int) -> list[dict[str, Any]]:
    """Measure all of them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [promise(rounds).record() for promise in (copying, updating, measuring_noise)]
    finally:
        torch.set_num_threads(before)


def copying(rounds: int) -> Promise:
    """A member copied within its stack, against its state saved and loaded by the checkpoint store."""
    stack = _stack(TASKS["lm"], _MEMBERS)
    with tempfile.TemporaryDirectory() as folder:
        store = CheckpointStore(Path(folder))

        def round_trip() -> None:
            # Another member each time: what is there already need not be new to the disk.
            source[0] = (source[0] + 1) % _MEMBERS
            store.load(store.save(states[source[0]], {}).digest)

        source, states = [0], [stack.state(slot) for slot in range(_MEMBERS)]
        times = _times({"copy": lambda: stack.copy([0], [1]), "save and load": round_trip}, rounds)
    return Promise(
        what="a checkpoint's round trip over a copy in the stack (lm, 16 members)",
        aim=25.0,
        at_least=True,
        found=ratio(times["save and load"], times["copy"]),
        seconds=_medians(times),
    )


def updating(rounds: int) -> Promise:
    """The compiled AdamW update of many members, against moving as many bytes: four tensors read, three written."""
    stack = _stack(TASKS["lm"], 64)  # far beyond the caches
    optimizer = AdamW()
    params = {name: value.clone() for name, value in stack.params.items()}
    grads, *moments = ({name: torch.rand_like(value) for name, value in params.items()} for _ in range(3))
    hparams = {name: torch.full((64,), plain.HPARAMS[name], dtype=torch.float64) for name in optimizer.hparams}
    step, lr = torch.full((64,), 10), torch.full((64,), 1e-3, dtype=torch.float64)
    decayed = frozenset(name for name, spec in stack.program.model.parameters().items() if spec.decay)
    kinds = dict(zip(optimizer.moments, moments, strict=True))

    def update() -> None:
        optimizer.update(params, grads, kinds, step, lr, hparams, decayed)

    compiled = torch.compile(update, fullgraph=True, dynamic=False, options=COMPILER_OPTIONS)
    moved = 7 * sum(value.numel() for value in params.values())
    # A copy may be the slower one: it reads what it overwrites into the cache first, where an update has it already.
    source = torch.rand(moved // 2)
    target = torch.zeros_like(source)
    with torch.no_grad():
        times = _times({"update": compiled, "copy": lambda: target.copy_(source)}, rounds)
    return Promise(
        what="a compiled AdamW update over a copy that moves as many bytes (lm, 64 members)",
        aim=1.3,
        at_least=False,
        found=ratio(times["update"], times["copy"]),
        seconds=_medians(times),
    )


def measuring_noise(rounds: int) -> Promise:
    """What the gradient noise scale adds to an eager step in micro-batches, as a share of that step.

    Added are the norm of each micro-batch's gradient and the averages. The norm of the whole gradient is not: clipping
    needs it anyway.
    """
    task = TASKS["lm"]
    assert isinstance(task, Bytes)
    split = Bytes(language=replace(task.language, accumulate=_ACCUMULATE))
    stack = _stack(split, _MEMBERS)
    program: Program = stack.program
    grads = {name: torch.rand_like(value) for name, value in stack.params.items()}
    averages = {name: torch.ones(_MEMBERS, dtype=torch.float64) for name in noise.AVERAGES}
    done = [0]

    def step() -> None:
        done[0] += 1
        stack.run([done[0]] * _MEMBERS)

    def added() -> None:
        squares = [gradient_norm(grads).double().square() for _ in range(_ACCUMULATE)]
        small, batch = torch.stack(squares).mean(0), split.language.batch
        new = noise.estimate(small, squares[0], batch // _ACCUMULATE, batch)
        for name, value in noise.averaged(averages, new, program.noise_decay).items():
            averages[name].copy_(value)
        noise.corrected(averages, program.noise_decay)

    times = _times({"step": step, "added": added}, rounds)
    return Promise(
        what="the noise scale's share of an eager step (lm, 16 members, 2 micro-batches)",
        aim=0.05,
        at_least=False,
        found=ratio(times["added"], times["step"]),
        seconds=_medians(times),
    )


def _stack(task: Task, members: int) -> CoreStack:
    trainable = task.trainable()
    stack = trainable.build(trainable.bucket({}), members, Place(compile="never"))
    assert isinstance(stack, CoreStack)
    for slot in range(members):
        stack.admit(slot, plain.HPARAMS, seed=slot)
    return stack


def _times(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of one call, each measured once in a round over enough calls to be timed."""
    counts = {name: _count(call) for name, call in calls.items()}
    gc.collect()
    return take_turns({name: partial(_seconds, call, counts[name]) for name, call in calls.items()}, rounds)


def _count(call: Callable[[], object]) -> int:
    call()
    return max(1, round(0.2 / _seconds(call, 1)))


def _seconds(call: Callable[[], object], count: int) -> float:
    began = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - began) / count


def _medians(times: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(found) for name, found in times.items()}
