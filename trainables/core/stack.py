"""The engine: a `Stack` that trains any `Program`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from trainables.base import (
    Hparams,
    HparamValue,
    Metrics,
    Place,
    Shard,
    Split,
    State,
    TrainableError,
)
from trainables.core import noise
from trainables.core.arena import Arena, copy_slots
from trainables.core.hparams import HparamTable
from trainables.core.model import Program, initial_values
from trainables.core.optim import MEMBER, UNIT, Buffer
from trainables.core.rng import Draws, seed_word
from trainables.core.step import Tensors, step_function

_SPLITS = ("train", "validation", "test")

#: Name of the noise scale's averages among a stack's arenas, and in a state.
_NOISE = "noise"

#: Tensors by arena and name, without the capacity dimension.
_Values: TypeAlias = dict[str, dict[str, Tensor]]


@dataclass(slots=True)
class _Member:
    """The host's copy of one slot's counters: they are known without asking the device."""

    seed: int
    age: int
    consumed: int


class CoreStack:
    """Up to `capacity` members of one program on one device; implements `trainables.base.Stack`.

    Empty and finished slots are computed along with the rest and put back afterwards: nothing a slot does can reach
    another, so this is exact, and the step stays free of masks.
    """

    def __init__(self, program: Program, capacity: int, place: Place) -> None:
        if capacity < 1:
            raise TrainableError(f"capacity is {capacity}; give a whole number of at least 1")
        if place.world_size != 1:
            raise TrainableError(f"world_size is {place.world_size}; one process per member here")
        self.capacity = capacity
        self._program = program
        self._parameters = dict(program.model.parameters())
        if not program.optimizer.family and any(p.scale != UNIT for p in self._parameters.values()):
            raise TrainableError(
                f"optimizer {program.optimizer.name} has no rule for the multipliers of a parametrization"
            )
        self._device = torch.device(place.device)
        self._dtype = getattr(torch, place.dtype)
        self._table = HparamTable(program.hparams, capacity, self._device)
        shapes = {name: p.shape for name, p in self._parameters.items()}
        self._params = Arena(shapes, capacity, self._dtype, self._device)
        #: All that belongs to the weights besides them: copied, frozen, saved and loaded alike, by its name in a state.
        self._buffers = {
            **{self._of_optimizer(moment): Buffer(shapes=shapes) for moment in program.optimizer.moments},
            **{self._of_optimizer(k): b for k, b in program.optimizer.buffers(self._params.tensors).items()},
        }
        if program.accumulate > 1:
            self._buffers[_NOISE] = Buffer(shapes=dict.fromkeys(noise.AVERAGES, ()), dtype=torch.float64)
        self._arenas = {"params": self._params} | {
            kind: Arena(buffer.shapes, capacity, buffer.dtype or self._dtype, self._device)
            for kind, buffer in self._buffers.items()
        }
        # The clocks are arenas too, so that copying and freezing a slot treats every tensor alike.
        self._lineage = self._clocks("age", "updates")
        self._own = self._clocks("seed", "consumed")
        self._members: list[_Member | None] = [None] * capacity
        self._tensors = self._bind()
        self._step = step_function(place, compiles=program.optimizer.compiles)
        self._check_batch()

    @property
    def program(self) -> Program:
        """What it trains."""
        return self._program

    @property
    def params(self) -> Mapping[str, Tensor]:
        """The parameters of all slots, `[capacity, *shape]` by name: views, to be read only."""
        return self._params.tensors

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
        self._check_slots([slot])
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
        if len(until) != self.capacity:
            raise TrainableError(f"until has {len(until)} entries; give {self.capacity}, one a slot")
        steps = [
            0 if member is None else max(0, int(target) - member.consumed)
            for member, target in zip(self._members, until, strict=True)
        ]
        self._tensors.totals.zero_()
        done = 0
        for stop in sorted(set(steps) - {0}):
            self._train([count >= stop for count in steps], stop - done)
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
        params = self._params.read(self._index(slots))
        sums: dict[str, Tensor] = {}
        total = 0
        for batch, weight in self._program.feed.evaluation(split):
            for name, value in self._program.model.evaluate(params, batch).items():
                sums[name] = sums.get(name, 0.0) + value.double() * weight
            total += weight
        means = (torch.stack(list(sums.values())) / total).cpu().numpy()
        metrics = {name: np.full(self.capacity, np.nan) for name in sums}
        for name, row in zip(sums, means, strict=True):
            metrics[name][list(slots)] = row
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
        if len(src) != len(dst) or len(set(dst)) != len(dst):
            raise TrainableError(f"copy from {list(src)} to {list(dst)}; give each target one source")
        self._check_members([*src, *dst])
        if not src:
            return
        copy_slots((*self._arenas.values(), self._lineage), self._index(src), self._index(dst))
        ages = [self._member(slot).age for slot in src]
        for slot, age in zip(dst, ages, strict=True):
            self._member(slot).age = age

    def state(self, slot: int) -> State:
        """Copy out the member's state, leaving it in place."""
        self._check_members([slot])
        member = self._member(slot)
        tensors = {
            _label(kind, name): tensor
            for kind, arena in self._arenas.items()
            for name, tensor in arena.gather(slot).items()
        }
        tensors[self._of_optimizer("step")] = self._lineage.gather(slot)["updates"]
        shards = tuple(Shard(name, tensor, tuple(tensor.shape), (0,) * tensor.ndim) for name, tensor in tensors.items())
        return State(shards, member.age, member.consumed, member.seed)

    def progress(self, slot: int) -> tuple[int, int]:
        """`(age, consumed)` of the member in the slot."""
        self._check_members([slot])
        member = self._member(slot)
        return member.age, member.consumed

    def _clocks(self, *names: str) -> Arena:
        return Arena(dict.fromkeys(names, ()), self.capacity, torch.int64, self._device)

    def _bind(self) -> Tensors:
        """Name the arenas' views as the step wants them."""
        return Tensors(
            params=self._params.tensors,
            moments={
                kind.removeprefix(self._of_optimizer("")): self._arenas[kind].tensors
                for kind in self._buffers
                if kind != _NOISE
            },
            hparams=self._table.rows,
            seed=self._own.tensors["seed"],
            consumed=self._own.tensors["consumed"],
            age=self._lineage.tensors["age"],
            updates=self._lineage.tensors["updates"],
            active=torch.zeros(self.capacity, dtype=torch.bool, device=self._device),
            decayed=frozenset(name for name, p in self._parameters.items() if p.decay),
            scales={name: p.scale for name, p in self._parameters.items() if p.scale != UNIT},
            noise=self._arenas[_NOISE].tensors if _NOISE in self._arenas else {},
            totals=torch.zeros(
                len(self._program.step_metrics), self.capacity, dtype=torch.float64, device=self._device
            ),
        )

    def _of_optimizer(self, kind: str) -> str:
        return f"{self._program.optimizer.name}.{kind}"

    @torch.no_grad()
    def _train(self, active: list[bool], num_steps: int) -> None:
        """Run steps in which the active slots train; the others come out bit for bit as they went in."""
        self._tensors.active.copy_(torch.tensor(active))
        frozen = self._index([slot for slot, is_active in enumerate(active) if not is_active])
        kept = [arena.read(frozen) for arena in self._arenas.values()]
        off = self._table.off()
        for _ in range(num_steps):
            self._step(self._program, self._tensors, off)
        for arena, rows in zip(self._arenas.values(), kept, strict=True):
            arena.write(frozen, rows)

    def _means(self, steps: Sequence[int]) -> Metrics:
        totals = self._tensors.totals.cpu().numpy()  # the run's one synchronisation
        counts = np.array([count or np.nan for count in steps], dtype=np.float64)
        means = {name: totals[i] / counts for i, name in enumerate(self._program.step_metrics)}
        if _NOISE in self._arenas:
            # The ratio of the means: a mean of ratios would be that of the step whose denominator is nearest to 0.
            parts = (torch.from_numpy(means[name]) for name in ("grad_sq_norm", "grad_noise_trace"))
            means["noise_scale"] = noise.noise_scale(noise.Estimate(*parts)).numpy()
        return means

    def _fresh(self, seed: int) -> tuple[_Values, Tensor]:
        """Initial values, drawn on the CPU so that they are the same on every device, and no updates."""
        values = {"params": initial_values(self._parameters, seed)}
        for kind, buffer in self._buffers.items():
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

    def _check_batch(self) -> None:
        count = self._program.accumulate
        if count > 1:
            shape = self._program.feed.batch(Draws(self._tensors.seed, self._tensors.consumed)).shape
            if len(shape) < 2 or shape[1] % count:
                raise TrainableError(f"accumulate is {count}; give a number that divides the batch, {list(shape)}")

    def _index(self, slots: Sequence[int]) -> Tensor:
        return torch.tensor(list(slots), dtype=torch.int64, device=self._device)

    def _member(self, slot: int) -> _Member:
        member = self._members[slot]
        if member is None:
            raise TrainableError(f"slot {slot} is empty; admit a member first")
        return member

    def _check_members(self, slots: Sequence[int]) -> None:
        self._check_slots(slots)
        for slot in slots:
            self._member(slot)

    def _check_slots(self, slots: Sequence[int]) -> None:
        for slot in slots:
            if not 0 <= slot < self.capacity:
                raise TrainableError(f"slot {slot} is outside [0, {self.capacity})")


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
