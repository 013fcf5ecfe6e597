"""The planner: how a stack runs fastest on its device, found by measuring.

One stack of all slots is not always best. On a CPU, what fits the cache is: one large stack can take twice the time of
chunks of four. On a GPU, small members need all the company they can get, and large ones none. And a compiled step may
or may not repay its compiling. So the candidates are run for a moment each, in turns, and the fastest is taken. A
single compiled member is always among the last, where compiling is an option, and taken unless it is clearly slower.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch

from trainables.base import Place, Plan, Stack, Trainable, TrainableError
from trainables.core.stack import CoreStack
from trainables.core.step import compiler, wants_compiling

#: Seconds that each candidate is run for in a round, at least one step.
_ROUND_S = 0.1
#: Rounds, each of all candidates, so that a busy moment of the machine strikes them alike.
_ROUNDS = 5
#: The fastest are measured again, against each other.
_FINALISTS = 3
#: Candidates this close to the fastest are as fast: then eager steps are taken, and larger chunks.
_TIE = 0.02
#: How much faster than the single compiled member larger chunks must be on a CPU. They are measured while other cores
#: may be idle; in company, which shares caches and memory, they lose more. On two cores of a shared EPYC, 32 members of
#: the task `lm-b1` were more than a tenth faster when measured, and 8 % slower when both cores trained.
_ALONE = 0.2
#: Seconds of training from which measuring is worth its own.
_PLANNING_PAYS_S = 60.0
#: Seconds of eager training from which on `auto` tries compiling on a CPU. A graph takes some 30 to 80 s to compile
#: there, three or four are tried, and what they gain is tens of percent at best.
_COMPILING_PAYS_S = 3600.0

#: Slots that train together, and whether compiled.
_Candidate: TypeAlias = tuple[int, bool]
_SINGLE: _Candidate = (1, True)


@dataclass(frozen=True, slots=True)
class Ahead:
    """What there is to train.

    Attributes:
        steps: Of each member.
        limit_s: Seconds after which training ends, whatever was done.
    """

    steps: int
    limit_s: float = math.inf

    def seconds(self, capacity: int, rate: float) -> float:
        """How long so many members train, at so many member-steps a second."""
        return min(self.steps * capacity / rate, self.limit_s)


def ladder(capacity: int) -> list[int]:
    """The sizes a chunk may have: 1, 2, 4, 8, ... below the capacity, and the capacity itself."""
    return [*(1 << i for i in range((capacity - 1).bit_length())), capacity]


def measured(trainable: Trainable, bucket: str, capacity: int, place: Place, ahead: Ahead | None = None) -> Plan | None:
    """Find the fastest plan for the stacks of a bucket at a place; nothing that exists already is touched.

    Eager candidates are all chunk sizes; compiled ones are the single member and what neighbours the fastest, on as
    long as it gets faster, because compiling takes long. Compiled ones are tried where the place wants them (`always`,
    and `auto` on CUDA), and for `auto` on a CPU where there is more than an hour to train. A candidate that does not
    fit the device's memory is out; where not even a single member does, it is split into micro-batches.

    Where there is less than a minute to train, nothing is compared: all slots run together, eagerly.

    Args:
        trainable: What is trained.
        bucket: Its bucket.
        capacity: Slots of the stack that is planned for.
        place: Where; a plan that it has already is not looked at.
        ahead: What there is to train, where that is known.

    Returns:
        The plan; None for stacks that are not of this core, and run as they run.

    Raises:
        TrainableError: Not even a single member fits the device's memory, or the trainable refuses to be built.
    """
    single = trainable.build(bucket, 1, replace(place, plan=Plan(chunk=1, compiled=False)))
    if not isinstance(single, CoreStack):
        return None
    search = _Search(trainable, bucket, capacity, place, can_compile=not single.program.uncompiled)
    del single  # it would take room from the candidates
    return search.best(ahead)


@dataclass
class _Search:
    """One search: what is planned for, what was tried, and how fast it was."""

    trainable: Trainable
    bucket: str
    capacity: int
    place: Place
    can_compile: bool
    accumulate: int = 1
    rates: dict[_Candidate, float] = field(default_factory=dict)

    def best(self, ahead: Ahead | None) -> Plan:
        sizes = ladder(self.capacity)
        if ahead is not None and not wants_compiling(self.place):
            self._try([(self.capacity, False)], rounds=1)
            if self.rates and ahead.seconds(self.capacity, max(self.rates.values())) < _PLANNING_PAYS_S:
                return self._plan()
            self.rates.clear()
        while not self.rates:
            self._try([(size, False) for size in sizes])
            if not self.rates:
                self._split()
        if self._compiles(ahead):
            self._climb(sizes)
            # What was not measured at the same time is not compared.
            last = {*sorted(self.rates, key=self.rates.__getitem__)[-_FINALISTS:], _SINGLE}
            self._try(sorted(last & self.rates.keys()))
        return self._plan()

    def _climb(self, sizes: Sequence[int]) -> None:
        """Compile the single member, the fastest eager size, and its neighbours for as long as that helps."""
        at = sizes.index(max(self.rates, key=self.rates.__getitem__)[0])
        self._try([(size, True) for size in sorted({1, sizes[at]})])
        for way in (1, -1):
            place = at
            while 0 <= place + way < len(sizes):
                here, new = (sizes[place], True), (sizes[place + way], True)
                self._try([here, new])
                if self.rates.get(new, 0.0) <= self.rates.get(here, 0.0):
                    break
                place += way

    def _compiles(self, ahead: Ahead | None) -> bool:
        if not self.can_compile or compiler() is None or self.place.compile == "never":
            return False
        seconds = 0.0 if ahead is None else ahead.seconds(self.capacity, max(self.rates.values()))
        return wants_compiling(self.place) or seconds > _COMPILING_PAYS_S

    def _try(self, candidates: Sequence[_Candidate], rounds: int = _ROUNDS) -> None:
        """Time some candidates against each other, new ones and known ones."""
        found = self._together(candidates, rounds)
        for candidate in candidates:
            if candidate not in found:  # no room beside the others: it may have the device to itself
                found |= self._together([candidate], rounds)
        self.rates |= {candidate: statistics.median(rates) for candidate, rates in found.items()}

    def _together(self, candidates: Sequence[_Candidate], rounds: int) -> dict[_Candidate, list[float]]:
        """Rates of those candidates that find room on the device at the same time."""
        runners = {c: stack for c in candidates if (stack := self._warmed(c)) is not None}
        found: dict[_Candidate, list[float]] = {c: [] for c in runners}
        for _ in range(rounds):
            for candidate, stack in runners.items():
                found[candidate].append(self._rate(stack))
        return found

    def _warmed(self, candidate: _Candidate) -> Stack | None:
        """One chunk with members, after some steps, which compile and allocate; None if memory does not suffice."""
        try:
            stack = self._stack(candidate)
            hparams = _of_bucket(stack)
            for slot in range(stack.capacity):
                stack.admit(slot, hparams, seed=slot)
            stack.run([4] * stack.capacity)
        except torch.OutOfMemoryError:
            gc.collect()
            torch.cuda.empty_cache()
            return None
        return stack

    def _stack(self, candidate: _Candidate) -> Stack:
        """One chunk: they run one after the other, each for all of its steps, so one tells how fast all are."""
        size, compiled = candidate
        plan = Plan(chunk=size, compiled=compiled, accumulate=self.accumulate)
        return self.trainable.build(self.bucket, size, replace(self.place, plan=plan))

    def _rate(self, stack: Stack) -> float:
        """Member-steps per second of the whole stack, whose last chunk may have slots that nobody uses."""
        count, done, began = 1, 0, time.perf_counter()
        while (spent := time.perf_counter() - began) < _ROUND_S:
            stack.run([stack.progress(0)[1] + count] * stack.capacity)
            done += count
            count = min(2 * count, 64)
        chunks = -(-self.capacity // stack.capacity)
        return done / spent * self.capacity / chunks

    @property
    def _is_on_cpu(self) -> bool:
        return torch.device(self.place.device).type == "cpu"

    def _split(self) -> None:
        """Not even one member fits: halve the micro-batches."""
        self.accumulate *= 2
        try:
            self._stack((1, False))
        except TrainableError:
            raise TrainableError(
                f"a single member does not fit the memory of {self.place.device}, however small its micro-batches; "
                "give a smaller model"
            ) from None

    def _plan(self) -> Plan:
        fastest = max(self.rates.values())
        near = [candidate for candidate, rate in self.rates.items() if rate >= (1.0 - _TIE) * fastest]
        chunk, compiled = max(near, key=lambda c: (not c[1], c[0]))
        if compiled and self._is_on_cpu and self.rates.get(_SINGLE, 0.0) >= (1.0 - _ALONE) * fastest:
            chunk = 1
        rates = {f"{size} {'compiled' if is_ else 'eager'}": rate for (size, is_), rate in sorted(self.rates.items())}
        return Plan(chunk=chunk, compiled=compiled, accumulate=self.accumulate, rates=rates)


def _of_bucket(stack: Stack) -> dict[str, float]:
    """Hyperparameters that a member must have to be in this bucket, such as a batch size: the most that it allows."""
    specs = stack.program.hparams if isinstance(stack, CoreStack) else {}
    return {name: spec.high for name, spec in specs.items() if spec.kind == "bucket" and spec.high is not None}
