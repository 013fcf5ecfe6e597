"""The contract between whoever trains a population and what is trained.

A :class:`Trainable` describes itself and builds :class:`Stack` objects. A stack trains up to `capacity` members of
one bucket together, on one device, each member in its own slot with its own hyperparameters. Everything above this
line (strategies, hosts, ledger) knows only this module; everything below it (layers, optimizers, data) is free to be
as fast as it can, so long as `tests/contracts/stack_contract.py` passes.

Two counters run in every slot and must not be confused:

* `age`: training steps in the ancestry of the weights. A copy takes over the donor's age. Learning-rate schedules
  and equal-age comparison use it.
* `consumed`: training steps this member ran itself. Monotone; a copy leaves the receiver's alone. Every
  random draw is a function of (seed, consumed). So is a member's place in its data, and it never sees the same batch
  twice; or the feed keeps the place as a buffer, which belongs to the weights, and these do not see it twice.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias, get_args, runtime_checkable

import numpy as np
import torch

from trainables.errors import DataError as DataError
from trainables.errors import TrainableError as TrainableError

#: Proportions are a weight for each of their parts.
HparamValue: TypeAlias = float | int | str | bool | Mapping[str, float]
Hparams: TypeAlias = Mapping[str, HparamValue]
Precision: TypeAlias = Literal["fp32", "tf32", "bf16"]
Split: TypeAlias = Literal["train", "validation", "test"]
#: Metric name -> float64 array `(capacity,)`; NaN in the slots that were not asked for.
Metrics: TypeAlias = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class HparamSpec:
    """One hyperparameter a trainable understands.

    Attributes:
        kind: `live` is changed in place between two steps, `bucket` moves the member to another stack, `structural`
            needs a fresh or grown member.
        default: Used where a sweep's space does not vary this hyperparameter.
        low: Smallest value with a meaning (inclusive), or None.
        high: Largest value with a meaning (inclusive), or None.
        parts: Names of the parts, where the value is proportions: a weight of at least 0 for each, which sum to 1 (to
            1e-9). Empty for all other values.
        doc: One line for people.
    """

    kind: Literal["live", "bucket", "structural"]
    default: HparamValue
    low: float | None = None
    high: float | None = None
    parts: tuple[str, ...] = ()
    doc: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec:
    """A metric that `evaluate` reports: the direction that is better, and its unit."""

    mode: Literal["min", "max"]
    unit: str = ""
    doc: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a trainable says of itself before anything is built.

    Attributes:
        metrics: What `evaluate` reports, by name. An objective must be one of these.
        hparams: Every hyperparameter the trainable understands, by name.
        splits: The splits `evaluate` knows.
        progress_unit: What `age` and `consumed` count.
        tokens_per_step: Tokens (or examples) one member consumes in one step.
        per_example: The hyperparameter that tokens and FLOPs of a step are proportional to, from its default on; empty
            where a step takes as much for every member.
        flops_per_step: Multiplications and additions of one member's forward and backward pass in one step, by
            formula: what the model asks for, whatever kernels do; None where nobody has counted.
        rng: What turns (seed, consumed) into random numbers: as long as the name stays, so do the numbers. Empty
            where nothing is drawn.
        data: Provenance of the data: names, sizes and hashes, recorded with every sweep.
        max_capacity: Most members that a stack takes; None for any number.
    """

    metrics: Mapping[str, MetricSpec]
    hparams: Mapping[str, HparamSpec]
    splits: tuple[Split, ...] = ("train", "validation", "test")
    progress_unit: str = "step"
    tokens_per_step: int = 1
    per_example: str = ""
    flops_per_step: float | None = None
    rng: str = ""
    data: Mapping[str, str | int | float] = field(default_factory=dict)
    max_capacity: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a stack runs on its device: what is measured once, recorded, and kept to when a sweep goes on.

    Attributes:
        chunk: Slots trained together. A stack trains its slots chunk after chunk, each for all of its steps: what fits
            the cache of a CPU is faster than one large stack.
        compiled: Whether the step is one compiled graph, and on CUDA one CUDA graph.
        accumulate: Micro-batches that every (micro-)batch is split into to save memory, where one member does not fit.
        rates: Member-steps per second of everything that was measured, by names such as `4 eager`; for people.
    """

    chunk: int
    compiled: bool
    accumulate: int = 1
    rates: Mapping[str, float] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        """Refuse numbers that make no plan."""
        for name in ("chunk", "accumulate"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise TrainableError(f"plan {name} is {value!r}; give a whole number >= 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a stack is built.

    Attributes:
        device: A torch device string.
        dtype: Of parameters and optimizer: `float32`, or `float64` for exact comparisons.
        precision: Of the model's arithmetic where `dtype` is `float32`: `fp32`; `tf32`, whose products on an NVIDIA GPU
            keep 10 bits of the inputs' mantissas; or `bf16`, which computes with bfloat16 copies of the parameters, and
            updates these in float32.
        compile: `auto` compiles where that pays and a compiler is found, `never` stays eager.
        plan: How the stack runs, as it was measured or recorded before; None runs all slots together.
        fixed: Hyperparameters that keep their defaults in every member, always. A compiled step leaves out what they
            would switch on, and a stack refuses other values.
        rank: This process's rank in a gang of `world_size` processes that share one member.
        world_size: 1 unless a member spans several processes.
    """

    device: str = "cpu"
    dtype: Literal["float32", "float64"] = "float32"
    precision: Precision = "fp32"
    compile: Literal["auto", "never", "always"] = "auto"
    plan: Plan | None = None
    fixed: frozenset[str] = frozenset()
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if self.precision not in get_args(Precision):
            raise TrainableError(f"precision is {self.precision!r}; give one of {', '.join(get_args(Precision))}")
        if self.precision != "fp32" and self.dtype != "float32":
            raise TrainableError(
                f"precision is {self.precision!r} with dtype {self.dtype}; give fp32, or dtype float32"
            )


@dataclass(frozen=True, slots=True)
class Shard:
    """One tensor of a member's state, or this rank's part of it.

    Attributes:
        name: Plain dotted name, such as `params.blocks.0.attention.qkv` or `adamw.exp_avg.embedding`. Parameters' names
            begin with `params.`, those of buffers with `buffers.` or `counters.`; whole numbers in these are places in
            the data, as they are in what begins with `place.` and is no part of a model.
        tensor: The values, without a capacity dimension.
        global_shape: Shape of the whole tensor across ranks.
        offset: Where `tensor` begins in it, per dimension.
    """

    name: str
    tensor: torch.Tensor
    global_shape: tuple[int, ...]
    offset: tuple[int, ...]

    @classmethod
    def whole(cls, name: str, tensor: torch.Tensor) -> Shard:
        """All of a tensor."""
        return cls(name, tensor, tuple(tensor.shape), (0,) * tensor.ndim)


@dataclass(frozen=True, slots=True)
class State:
    """Everything needed to go on training a member elsewhere, exactly.

    Attributes:
        shards: Parameters and optimizer state, in a fixed order, named plainly; ready for safetensors.
        age: Steps in the ancestry of the weights.
        consumed: Steps the member ran itself.
        seed: The member's seed.
    """

    shards: tuple[Shard, ...]
    age: int
    consumed: int
    seed: int


@runtime_checkable
class Stack(Protocol):
    """Up to `capacity` members of one bucket, trained together in one process on one device.

    Kept by every implementation: a slot's result does not depend on its slot; one member's NaN never touches
    another; evict/admit and copy-then-continue are bit-exact at fixed capacity, backend and device; for every live
    hyperparameter, changing it in slot i changes slot i's next step exactly as a fresh slot with that value would
    and leaves the others bit-equal.
    """

    capacity: int

    def admit(
        self,
        slot: int,
        hparams: Hparams,
        seed: int,
        state: State | None = None,
        consumed: int | None = None,
    ) -> None:
        """Put a member into a free or occupied slot.

        Args:
            slot: Index in `[0, capacity)`.
            hparams: Values by name; those left out take their defaults.
            seed: Source of the initial weights (when `state` is None), the data order and every random draw.
            state: Weights, optimizer state and age to start from; None initialises fresh ones from `seed`.
            consumed: Overrides the state's own counter: a receiver of a donor's state keeps its own.
        """

    def evict(self, slot: int) -> State:
        """Return the member's state and free the slot."""

    def run(self, until: Sequence[int]) -> Metrics:
        """Train each slot until its `consumed` reaches its entry of `until`; finished slots stay frozen.

        Args:
            until: `(capacity,)` target values of `consumed`; an entry at or below the present value trains nothing.

        Returns:
            Means over the steps just run, `(capacity,)` each, NaN where nothing ran. One host synchronisation.
        """

    def evaluate(self, split: Split, slots: Sequence[int]) -> Metrics:
        """Evaluate slots without touching their training state, on the same data whatever the slot."""

    def hparams(self, slot: int) -> dict[str, HparamValue]:
        """Read back the values the device holds: what is in effect, not what was asked for."""

    def set_hparams(self, slots: Sequence[int], **values: Sequence[HparamValue]) -> None:
        """Change live hyperparameters in place, without recompilation; `values[name][i]` goes to `slots[i]`."""

    def copy(self, src: Sequence[int], dst: Sequence[int]) -> None:
        """Exploit on the device: weights, optimizer state and age of `src[i]` into `dst[i]`.

        All reads happen before all writes. The receiver keeps its seed, `consumed` and hyperparameters.
        """

    def state(self, slot: int) -> State:
        """Copy out the member's state, leaving it in place."""

    def progress(self, slot: int) -> tuple[int, int]:
        """`(age, consumed)` of the member in the slot."""


@runtime_checkable
class Sized(Protocol):
    """A stack that knows what a member weighs. Optional: of others, no figure is recorded."""

    def member_bytes(self) -> int:
        """Bytes of one member's own state on the device: all that `State` holds, wherever it sits."""


@runtime_checkable
class Lending(Protocol):
    """A stack that shows a member's state where it lies. Optional: states of others are copied out first."""

    def lend(self, slot: int) -> State:
        """As `Stack.state`, but without a copy: to be read before the stack is used again, and not to be written."""


@runtime_checkable
class Asking(Protocol):
    """A stack whose members ask for their hyperparameters. Optional: of others, all that is held is in effect."""

    def asked(self, slot: int) -> Collection[str]:
        """Names of those that the member in the slot has asked for since any of its own changed."""


@runtime_checkable
class Trainable(Protocol):
    """What is trained. Implementations are frozen dataclasses: their fields are their options."""

    def describe(self) -> Capabilities:
        """Say what can be varied and what will be reported; cheap, and raises DataError on bad data."""

    def bucket(self, hparams: Hparams) -> str:
        """Name of the bucket a member with these hyperparameters belongs to; equal names may share a stack."""

    def build(self, bucket: str, capacity: int, place: Place) -> Stack:
        """Build an empty stack for one bucket."""
