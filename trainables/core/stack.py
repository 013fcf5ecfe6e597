"""The engine: a `Stack` that trains any `Program`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from trainables.arguments import check_pairs, check_slots, check_until
from trainables.base import (
    Hparams,
    HparamValue,
    Metrics,
    Place,
    Plan,
    Shard,
    Split,
    State,
    TrainableError,
)
from trainables.core import noise
from trainables.core.arena import Arena, copy_slots
from trainables.core.batch_size import BATCH_SIZE
from trainables.core.graphs import Recorded
from trainables.core.hparams import HparamTable
from trainables.core.model import Parameter, Program, initial_values, num_examples
from trainables.core.optim import MEMBER, UNIT, Buffer
from trainables.core.precision import arithmetic, compute_dtype
from trainables.core.rng import Draws, seed_word
from trainables.core.shards import copied
from trainables.core.step import StepFunction, Tensors, step_function, structure, train_step, wants_compiling

_SPLITS = ("train", "validation", "test")

#: Name of the noise scale's averages among a stack's arenas, and in a state.
_NOISE = "noise"
#: The same of what belongs to a model or a feed: floating numbers, in the stack's dtype, and whole ones.
_BUFFERS, _COUNTERS = "buffers", "counters"

#: Tensors by arena and name, without the capacity dimension.
_Values: TypeAlias = dict[str, dict[str, Tensor]]


@dataclass(slots=True)
class _Member:
    """The host's copy of one slot's counters: they are known without asking the device."""

    seed: int
    age: int
    consumed: int


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Slots `[first, last)`, which train together: views of every arena, and the step on them."""

    first: int
    last: int
    tensors: Tensors
    step: StepFunction


class CoreStack:
    """Up to `capacity` members of one program on one device; implements `trainables.base.Stack`.

    Its slots train chunk after chunk. In a chunk, empty and finished slots are computed along with the rest and put
    back afterwards: nothing a slot does can reach another, so this is exact, and the step stays free of masks. A chunk
    without an active slot is left out.

    Chunks are equally large, as kernels may round differently for another number of members: where the capacity is no
    multiple of their size, slots that nobody can use fill the last one.
    """

    def __init__(self, program: Program, capacity: int, place: Place) -> None:
        self._parameters = dict(program.model.parameters())
        _check(program, self._parameters, capacity, place)
        self.capacity = capacity
        self._program, self._place = program, place
        self._device, self._dtype = torch.device(place.device), getattr(torch, place.dtype)
        plan = place.plan or Plan(chunk=capacity, compiled=wants_compiling(place))
        size = min(plan.chunk, capacity)
        slots = -(-capacity // size) * size
        self._table = HparamTable(program.hparams, slots, self._device, place.fixed)
        self._params = Arena({n: p.shape for n, p in self._parameters.items()}, slots, self._dtype, self._device)
        self._starts = _starts(program.buffers)
        #: All that belongs to the weights besides them: copied, frozen, saved and loaded alike, by its name in a state.
        self._buffers = self._kinds()
        self._arenas = {"params": self._params} | {
            kind: Arena(buffer.shapes, slots, buffer.dtype or self._dtype, self._device)
            for kind, buffer in self._buffers.items()
        }
        #: What the model and the feed renew, by name: of both their arenas together.
        self._renewed = {name: t for kind in self._starts for name, t in self._arenas[kind].tensors.items()}
        # The clocks are arenas too, so that copying and freezing a slot treats every tensor alike.
        self._lineage = self._clocks(slots, "age", "updates")
        self._own = self._clocks(slots, "seed", "consumed")
        self._members: list[_Member | None] = [None] * capacity
        self._totals = torch.zeros(slots, len(program.step_metrics), dtype=torch.float64, device=self._device)
        self._active = torch.zeros(slots, dtype=torch.bool, device=self._device)
        self._accumulate = self._micro_batches(plan)
        self._plan, self._chunks = self._divided(plan, size, slots)

    @property
    def program(self) -> Program:
        """What it trains."""
        return self._program

    @property
    def params(self) -> Mapping[str, Tensor]:
        """The parameters of all slots, `[capacity, *shape]` by name: views, to be read only."""
        return {name: tensor[: self.capacity] for name, tensor in self._params.tensors.items()}

    @property
    def buffers(self) -> dict[str, Tensor]:
        """The model's and the feed's buffers of all slots, `[capacity, *shape]` by name: views, to be read only."""
        return {name: tensor[: self.capacity] for name, tensor in self._renewed.items()}

    @property
    def plan(self) -> Plan:
        """How it runs: by the plan of its place as far as that can be kept to, or all slots together."""
        return self._plan

    def admit(
        self,
        slot: int,
        hparams: Hparams,
        seed: int,
        state: State | None = None,
        consumed: int | None = None,
    ) -> None:
        """Put a member into a slot; see `Stack.admit`.

        Raises:
            TrainableError: The slot, a hyperparameter or the state does not fit.
        """
        check_slots([slot], self.capacity)
        numbers = self._table.checked(hparams)
        values, updates = self._fresh(int(seed)) if state is None else self._loaded(state)
        own = state.consumed if state is not None else 0
        member = _Member(
            seed=int(seed),
            age=0 if state is None else state.age,
            consumed=own if consumed is None else int(consumed),
        )
        self._table.fill(slot, numbers)
        for kind, arena in self._arenas.items():
            arena.scatter(slot, values[kind])
        self._lineage.scatter(slot, {"age": torch.tensor(member.age), "updates": updates})
        clocks = {"seed": seed_word(member.seed), "consumed": member.consumed}
        self._own.scatter(slot, {name: torch.tensor(value) for name, value in clocks.items()})
        self._members[slot] = member

    def evict(self, slot: int) -> State:
        """Return the member's state and free the slot; what it leaves behind is never read again."""
        state = self.state(slot)
        self._members[slot] = None
        return state

    def run(self, until: Sequence[int]) -> Metrics:
        """Train each slot until its `consumed` reaches its entry of `until`; see `Stack.run`."""
        check_until(until, self.capacity)
        steps = [
            0 if member is None else max(0, int(target) - member.consumed)
            for member, target in zip(self._members, until, strict=True)
        ]
        self._totals.zero_()
        with arithmetic(self._place):
            for chunk in self._chunks:
                own, done = steps[chunk.first : chunk.last], 0
                for stop in sorted(set(own) - {0}):
                    self._train(chunk, [count >= stop for count in own], stop - done)
                    done = stop
        for member, count in zip(self._members, steps, strict=True):
            if member is not None:
                member.age += count
                member.consumed += count
        return self._means(steps)

    @torch.no_grad()
    def evaluate(self, split: Split, slots: Sequence[int]) -> Metrics:
        """Evaluate slots on the split's fixed batches; see `Stack.evaluate`."""
        if split not in _SPLITS:
            raise TrainableError(f"split is {split!r}; give one of {', '.join(_SPLITS)}")
        self._check_members(slots)
        if not slots:
            return {}
        metrics: Metrics = {}
        size = self._chunks[0].last
        with arithmetic(self._place):
            for group in (list(slots[first : first + size]) for first in range(0, len(slots), size)):
                # Groups are equally large, as chunks are, and for the same reason.
                padded = group + group[-1:] * (size - len(group)) if len(slots) > size else group
                for name, row in self._evaluated(split, self._index(padded)).items():
                    metrics.setdefault(name, np.full(self.capacity, np.nan))[group] = row[: len(group)]
        return metrics

    def hparams(self, slot: int) -> dict[str, HparamValue]:
        """Read back the values the device holds."""
        self._check_members([slot])
        return self._table.get(slot)

    def set_hparams(self, slots: Sequence[int], **values: Sequence[HparamValue]) -> None:
        """Change live hyperparameters in place; see `Stack.set_hparams`.

        Raises:
            TrainableError: A name is unknown or not live, or a value is out of its bounds; nothing has changed.
        """
        self._check_members(slots)
        self._table.change(slots, values)

    @torch.no_grad()
    def copy(self, src: Sequence[int], dst: Sequence[int]) -> None:
        """Weights, optimizer state and age of `src[i]` into `dst[i]`; see `Stack.copy`.

        Raises:
            TrainableError: A slot is empty or out of range, or `dst` names a slot twice.
        """
        check_pairs(src, dst)
        self._check_members([*src, *dst])
        if not src:
            return
        copy_slots((*self._arenas.values(), self._lineage), src, dst)
        ages = [self._member(slot).age for slot in src]
        for slot, age in zip(dst, ages, strict=True):
            self._member(slot).age = age

    def state(self, slot: int) -> State:
        """Copy out the member's state, leaving it in place."""
        return copied(self.lend(slot))

    def lend(self, slot: int) -> State:
        """The member's state where it lies; see `Lending`."""
        self._check_members([slot])
        member = self._member(slot)
        tensors = {
            _label(kind, name): tensor
            for kind, arena in self._arenas.items()
            for name, tensor in arena.lend(slot).items()
        }
        tensors[self._of_optimizer("step")] = self._lineage.lend(slot)["updates"]
        shards = tuple(Shard.whole(name, tensor) for name, tensor in tensors.items())
        return State(shards, member.age, member.consumed, member.seed)

    def progress(self, slot: int) -> tuple[int, int]:
        """`(age, consumed)` of the member in the slot."""
        self._check_members([slot])
        member = self._member(slot)
        return member.age, member.consumed

    def member_bytes(self) -> int:
        """Bytes of one member on the device: parameters, moments, buffers and counters; see `Sized`."""
        return sum(arena.slot_bytes for arena in (*self._arenas.values(), self._lineage, self._own))

    def _kinds(self) -> dict[str, Buffer]:
        """What is kept of a member besides its parameters, by the name of its arena."""
        optimizer, shapes = self._program.optimizer, {name: p.shape for name, p in self._parameters.items()}
        found = {
            **{kind: _buffer(values) for kind, values in self._starts.items()},
            **{self._of_optimizer(moment): Buffer(shapes=shapes) for moment in optimizer.moments},
            **{self._of_optimizer(k): b for k, b in optimizer.buffers(self._params.tensors).items()},
        }
        if self._program.accumulate > 1:
            found[_NOISE] = Buffer(shapes=dict.fromkeys(noise.AVERAGES, ()), dtype=torch.float64)
        return found

    def _micro_batches(self, plan: Plan) -> int:
        """Micro-batches of a step: the program's, times those of the plan."""
        count = self._program.accumulate * plan.accumulate
        if count > 1 and (size := self._num_examples()) % count:
            raise TrainableError(f"accumulate is {count}; give a number that divides the batch, {size}")
        return count

    def _divided(self, plan: Plan, size: int, slots: int) -> tuple[Plan, list[_Chunk]]:
        """The slots in chunks, and the plan as it could be kept to."""
        bound = [(first, self._bind(first, first + size)) for first in range(0, slots, size)]
        step = step_function(
            replace(self._place, compile="always" if plan.compiled else "never"),
            uncompiled=self._program.uncompiled,
            key=structure(
                (self._program, bound[0][1], self._table.absent, self._place.precision, torch.get_num_threads())
            ),
        )
        plan = replace(plan, chunk=size, compiled=step is not train_step)
        # On CUDA, what is compiled becomes one CUDA graph for each chunk.
        is_recorded = plan.compiled and self._device.type == "cuda"
        pool = torch.cuda.graph_pool_handle() if is_recorded else None
        return plan, [
            _Chunk(first, first + size, tensors, Recorded(step, pool) if is_recorded else step)
            for first, tensors in bound
        ]

    def _clocks(self, slots: int, *names: str) -> Arena:
        return Arena(dict.fromkeys(names, ()), slots, torch.int64, self._device)

    def _evaluated(self, split: Split, slots: Tensor) -> Metrics:
        """Means over a split's batches, `(len(slots),)` by metric."""
        model, compute = self._program.model, compute_dtype(self._place)
        params = {name: t.index_select(0, slots).to(compute) for name, t in self._params.tensors.items()}
        buffers = {name: t.index_select(0, slots) for name, t in self._renewed.items()}
        sums: dict[str, Tensor] = {}
        total = 0
        for batch, weight in self._program.feed.evaluation(split):
            for name, value in model.evaluate(params, batch, buffers).items():
                sums[name] = sums.get(name, 0.0) + value.double() * weight
            total += weight
        means = (torch.stack(list(sums.values())) / total).cpu().numpy()
        return dict(zip(sums, means, strict=True))

    def _bind(self, first: int, last: int) -> Tensors:
        """The arenas' views of slots `[first, last)`, named as the step wants them."""

        def own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor[first:last] for name, tensor in tensors.items()}

        others = {_NOISE, *self._starts}
        return Tensors(
            params=own(self._params.tensors),
            moments={
                kind.removeprefix(self._of_optimizer("")): own(self._arenas[kind].tensors)
                for kind in self._buffers
                if kind not in others
            },
            hparams=own(self._table.rows),
            seed=self._own.tensors["seed"][first:last],
            consumed=self._own.tensors["consumed"][first:last],
            age=self._lineage.tensors["age"][first:last],
            updates=self._lineage.tensors["updates"][first:last],
            active=self._active[first:last],
            decayed=frozenset(name for name, p in self._parameters.items() if p.decay),
            scales={name: p.scale for name, p in self._parameters.items() if p.scale != UNIT},
            noise=own(self._arenas[_NOISE].tensors) if _NOISE in self._arenas else {},
            buffers=own(self._renewed),
            compute=compute_dtype(self._place),
            accumulate=self._accumulate,
            totals=self._totals[first:last],
        )

    def _of_optimizer(self, kind: str) -> str:
        return f"{self._program.optimizer.name}.{kind}"

    @torch.no_grad()
    def _train(self, chunk: _Chunk, active: list[bool], num_steps: int) -> None:
        """Run steps in which the active slots train; the others come out bit for bit as they went in."""
        chunk.tensors.active.zero_()
        chunk.tensors.active[: len(active)] = torch.tensor(active)
        # Where nobody can be, there is nothing to keep.
        frozen = self._index([slot for slot, is_active in enumerate(active, chunk.first) if not is_active])
        kept = [arena.read(frozen) for arena in self._arenas.values()]
        off = self._off(chunk)
        for _ in range(num_steps):
            chunk.step(self._program, chunk.tensors, off)
        for arena, rows in zip(self._arenas.values(), kept, strict=True):
            arena.write(frozen, rows)

    def _off(self, chunk: _Chunk) -> frozenset[str]:
        """Hyperparameters without effect in a chunk: 0 in every slot, or a batch size of all rows for everybody."""
        if self._plan.compiled:
            # A graph is not made again when a hyperparameter is switched on: it leaves out only what never is.
            return self._table.absent
        off = self._table.off(chunk.first, chunk.last)
        slots = range(chunk.first, min(chunk.last, self.capacity))
        taken = (slot for slot in slots if self._members[slot] is not None)
        if BATCH_SIZE in self._table.rows and self._table.are_highest(BATCH_SIZE, taken):
            return off | {BATCH_SIZE}
        return off

    def _means(self, steps: Sequence[int]) -> Metrics:
        totals = self._totals[: self.capacity].cpu().numpy()  # the run's one synchronisation
        counts = np.array([count or np.nan for count in steps], dtype=np.float64)
        means = {name: totals[:, i] / counts for i, name in enumerate(self._program.step_metrics)}
        if _NOISE in self._arenas:
            # The ratio of the means: a mean of ratios would be that of the step whose denominator is nearest to 0.
            parts = (torch.from_numpy(means[name]) for name in ("grad_sq_norm", "grad_noise_trace"))
            means["noise_scale"] = noise.noise_scale(noise.Estimate(*parts)).numpy()
        return means

    def _fresh(self, seed: int) -> tuple[_Values, Tensor]:
        """Initial values, drawn on the CPU so that they are the same on every device, and no updates."""
        fresh = None if self._program.fresh is None else self._program.fresh(seed)
        own = initial_values(self._parameters, seed) if fresh is None else fresh
        values = {"params": {name: own[name] for name in self._parameters}}
        for kind, buffer in self._buffers.items():
            if kind in self._starts:
                starts = self._starts[kind]
                values[kind] = starts if fresh is None else {name: fresh.get(name, starts[name]) for name in starts}
                continue
            # float64 holds any start exactly; the arena casts it.
            values[kind] = {
                name: torch.full(shape, buffer.start, dtype=torch.float64) for name, shape in buffer.shapes.items()
            }
        return values, torch.tensor(0)

    def _loaded(self, state: State) -> tuple[_Values, Tensor]:
        """The state's tensors by kind and name, checked against this stack's, and its number of updates."""
        given = {shard.name: shard for shard in state.shards}
        wanted = {
            _label(kind, name): tuple(tensor.shape[1:])
            for kind, arena in self._arenas.items()
            for name, tensor in arena.tensors.items()
        }
        _check_shards(given, {**wanted, self._of_optimizer("step"): ()})
        values = {
            kind: {name: given[_label(kind, name)].tensor for name in arena.tensors}
            for kind, arena in self._arenas.items()
        }
        return values, given[self._of_optimizer("step")].tensor

    def _num_examples(self) -> int:
        """Examples of one member's training batch."""
        draws = Draws(self._own.tensors["seed"][:1], self._own.tensors["consumed"][:1])
        hparams = {name: row[:1] for name, row in self._table.rows.items()}
        buffers = {name: tensor[:1] for name, tensor in self._renewed.items()}
        return num_examples(self._program.feed.batch(draws, hparams, buffers))

    def _index(self, slots: Sequence[int]) -> Tensor:
        return torch.tensor(list(slots), dtype=torch.int64, device=self._device)

    def _member(self, slot: int) -> _Member:
        member = self._members[slot]
        if member is None:
            raise TrainableError(f"slot {slot} is empty; admit a member first")
        return member

    def _check_members(self, slots: Sequence[int]) -> None:
        check_slots(slots, self.capacity)
        for slot in slots:
            self._member(slot)


def _check(program: Program, parameters: Mapping[str, Parameter], capacity: int, place: Place) -> None:
    """Refuse what makes no stack."""
    if capacity < 1:
        raise TrainableError(f"capacity is {capacity}; give a whole number of at least 1")
    if place.world_size != 1:
        raise TrainableError(f"world_size is {place.world_size}; one process per member here")
    if not program.optimizer.family and any(p.scale != UNIT for p in parameters.values()):
        raise TrainableError(f"optimizer {program.optimizer.name} has no rule for the multipliers of a parametrization")


def _starts(buffers: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """What buffers begin with, by arena: an arena has one dtype."""
    floating = {name: value for name, value in buffers.items() if value.is_floating_point()}
    counting = {name: value for name, value in buffers.items() if name not in floating}
    return {kind: values for kind, values in ((_BUFFERS, floating), (_COUNTERS, counting)) if values}


def _buffer(values: Mapping[str, Tensor]) -> Buffer:
    is_floating = next(iter(values.values())).is_floating_point()
    shapes = {name: tuple(value.shape) for name, value in values.items()}
    return Buffer(shapes=shapes, dtype=None if is_floating else torch.int64)


def _label(prefix: str, name: str) -> str:
    """Name in a state; what belongs to the whole member has no parameter's name."""
    return prefix if name == MEMBER else f"{prefix}.{name}"


def _check_shards(given: dict[str, Shard], wanted: dict[str, tuple[int, ...]]) -> None:
    missing, extra = sorted(wanted.keys() - given), sorted(given.keys() - wanted.keys())
    if missing or extra:
        raise TrainableError(f"state does not fit: missing {missing[:3]}, unexpected {extra[:3]}")
    for name, shape in wanted.items():
        if tuple(given[name].tensor.shape) != shape:
            found = tuple(given[name].tensor.shape)
            raise TrainableError(f"state does not fit: {name} has shape {found}, not {shape}")
