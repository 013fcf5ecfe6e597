"""Members that are nothing but a block of memory and a while: what is left of a generation is the runtime's own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from trainables.base import (
    Capabilities,
    Hparams,
    HparamSpec,
    HparamValue,
    Metrics,
    MetricSpec,
    Place,
    Shard,
    Split,
    Stack,
    State,
)
from trainables.core.arena import Arena, copy_slots
from trainables.core.shards import copied

_FLOATS_PER_MB = 10**6 // 4


@dataclass(frozen=True)
class Block:
    """Members whose scores are drawn anew after every segment, so that there is always somebody to exploit.

    Attributes:
        state_mb: Megabytes (10^6 bytes) of a member's state.
        segment_s: Seconds that a segment takes, whoever is trained together.
    """

    state_mb: float
    segment_s: float = 0.0

    def describe(self) -> Capabilities:
        """A score; when a segment began and ended; how long the copy before it took, in the stack and from another."""
        return Capabilities(
            metrics={
                "score": MetricSpec(mode="max"),
                "began_at": MetricSpec(mode="min", unit="s"),
                "ended_at": MetricSpec(mode="min", unit="s"),
                "copy_ms": MetricSpec(mode="min", unit="ms"),
                "fetch_ms": MetricSpec(mode="min", unit="ms"),
            },
            hparams={"lr": HparamSpec(kind="live", default=1.0)},
        )

    def bucket(self, hparams: Hparams) -> str:
        """All share one."""
        return "block"

    def build(self, bucket: str, capacity: int, place: Place) -> Stack:
        """Build an empty stack."""
        return BlockStack(self, capacity)


@dataclass(slots=True)
class _Slot:
    lr: float = 1.0
    seed: int = 0
    age: int = 0
    consumed: int = 0
    times: dict[str, float] = field(default_factory=dict)


class BlockStack:
    """The training core's arena, and its copies, with nothing that trains."""

    def __init__(self, owner: Block, capacity: int) -> None:
        self.capacity = capacity
        self._owner = owner
        shapes = {"weights": (int(owner.state_mb * _FLOATS_PER_MB),)}
        self._arena = Arena(shapes, capacity, torch.float32, torch.device("cpu"))
        self._weights = self._arena.tensors["weights"]
        self._slots = [_Slot() for _ in range(capacity)]

    def admit(
        self, slot: int, hparams: Hparams, seed: int, state: State | None = None, consumed: int | None = None
    ) -> None:
        """Put a member into a slot."""
        own = _Slot(float(hparams.get("lr", 1.0)), seed, 0, consumed or 0)  # type: ignore[arg-type]
        self._slots[slot] = own
        if state is None:
            self._weights[slot] = seed % 1000
            return
        weights, given = (shard.tensor for shard in state.shards)
        self._weights[slot].copy_(weights)
        own.age, own.consumed = state.age, state.consumed if consumed is None else consumed
        own.times["fetch_ms"] = 1e3 * (time.time() - float(given))

    def evict(self, slot: int) -> State:
        """A member's state, given away."""
        return self.state(slot)

    def run(self, until: Sequence[int]) -> Metrics:
        """Wait."""
        began = time.time()
        time.sleep(self._owner.segment_s)
        for own, goal in zip(self._slots, until, strict=True):
            if goal > own.consumed:
                own.times |= {"began_at": began, "ended_at": time.time()}
                own.age, own.consumed = own.age + goal - own.consumed, goal
        return {}

    def evaluate(self, split: Split, slots: Sequence[int]) -> Metrics:
        """A score, and what has been timed since the last time."""
        names = ("score", "began_at", "ended_at", "copy_ms", "fetch_ms")
        found = {name: np.full(self.capacity, np.nan) for name in names}
        for slot in slots:
            own = self._slots[slot]
            found["score"][slot] = np.random.default_rng((own.seed, own.consumed)).random()
            for name in list(own.times):
                found[name][slot] = own.times.pop(name)
        return found

    def hparams(self, slot: int) -> dict[str, HparamValue]:
        """What is in effect."""
        return {"lr": self._slots[slot].lr}

    def set_hparams(self, slots: Sequence[int], **values: Sequence[HparamValue]) -> None:
        """Change it."""
        for slot, value in zip(slots, values.get("lr", ()), strict=True):
            self._slots[slot].lr = float(value)  # type: ignore[arg-type]

    def copy(self, src: Sequence[int], dst: Sequence[int]) -> None:
        """Timed."""
        began = time.perf_counter()
        copy_slots([self._arena], src, dst)
        took = 1e3 * (time.perf_counter() - began)
        ages = [self._slots[slot].age for slot in src]
        for slot, age in zip(dst, ages, strict=True):
            self._slots[slot].age = age
            self._slots[slot].times["copy_ms"] = took

    def state(self, slot: int) -> State:
        """A member's state."""
        return copied(self.lend(slot))

    def lend(self, slot: int) -> State:
        """A member's state where it lies, with the moment it was asked for in it."""
        own, now = self._slots[slot], torch.tensor([time.time()], dtype=torch.float64)
        shards = (Shard.whole("weights", self._weights[slot]), Shard.whole("given_at", now))
        return State(shards, own.age, own.consumed, own.seed)

    def progress(self, slot: int) -> tuple[int, int]:
        """Age and consumed."""
        return self._slots[slot].age, self._slots[slot].consumed
