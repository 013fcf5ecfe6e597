"""Members that change their bucket: a stack of stacks, one for each bucket that has members.

From outside, all of a trainable's members share one stack, and what decides the bucket (a batch size, say) can be
changed like any live hyperparameter. Inside, a member that changes it moves to another stack, with all of its state.
Only the contract of `trainables.base` is used, so that this works for any trainable.

Stacks grow as members come and are dropped when the last has gone. Those of the core train chunk after chunk, and how
large the chunks are does not change with their number, so that a member's numbers do not depend on who else is in its
bucket.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from trainables.arguments import check_pairs, check_slots, check_until
from trainables.base import (
    Capabilities,
    Hparams,
    HparamValue,
    Lending,
    Metrics,
    Place,
    Plan,
    Split,
    Stack,
    State,
    Trainable,
    TrainableError,
)
from trainables.core.step import wants_compiling


@dataclass(frozen=True, slots=True)
class Buckets:
    """A trainable whose members may change their bucket while they train.

    Attributes:
        trainable: The one whose members they are.
    """

    trainable: Trainable

    def describe(self) -> Capabilities:
        """As the trainable, but what decides the bucket is live."""
        known = self.trainable.describe()
        hparams = {
            name: replace(spec, kind="live") if spec.kind == "bucket" else spec for name, spec in known.hparams.items()
        }
        return replace(known, hparams=hparams)

    def bucket(self, hparams: Hparams) -> str:
        """One for all, named after the trainable's usual one. What is no bucket of the trainable is refused."""
        self.trainable.bucket(hparams)
        return f"buckets of {self.trainable.bucket({})}"

    def build(self, bucket: str, capacity: int, place: Place) -> Stack:
        """Build an empty stack."""
        if bucket != self.bucket({}):
            raise TrainableError(f"bucket {bucket!r} is not {self.bucket({})!r}, the only one")
        if capacity < 1:
            raise TrainableError(f"capacity is {capacity}; give a whole number >= 1")
        return BucketStack(self.trainable, capacity, place)


def deciding(trainable: Trainable, names: Iterable[str]) -> list[str]:
    """Which of these hyperparameters decide a member's bucket."""
    known = trainable.describe().hparams
    return [name for name in names if name in known and known[name].kind == "bucket"]


def with_buckets(trainable: Trainable, varied: Iterable[str]) -> Trainable:
    """The trainable, or one whose members change their bucket where what decides it varies."""
    return Buckets(trainable) if deciding(trainable, varied) else trainable


@dataclass
class _Room:
    """The members of one bucket: which slot of ours each of its slots holds."""

    stack: Stack
    members: list[int | None]

    @property
    def is_empty(self) -> bool:
        return all(member is None for member in self.members)


class BucketStack:
    """Up to `capacity` members in stacks of their buckets; implements `trainables.base.Stack`."""

    def __init__(self, trainable: Trainable, capacity: int, place: Place) -> None:
        self.capacity = capacity
        self._trainable = trainable
        # A plan of its own even where none was measured: with chunks as large as the stack, growing would change them.
        plan = place.plan or Plan(chunk=1, compiled=wants_compiling(place))
        self._place = replace(place, plan=replace(plan, chunk=min(plan.chunk, capacity)))
        self._deciding = frozenset(deciding(trainable, trainable.describe().hparams))
        self._rooms: dict[str, _Room] = {}
        #: Bucket and slot in its stack, of each slot of ours.
        self._at: list[tuple[str, int] | None] = [None] * capacity
        self._seeds = [0] * capacity

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
            TrainableError: The slot, a hyperparameter or the state does not fit; nothing has changed.
        """
        check_slots([slot], self.capacity)
        bucket, held = self._trainable.bucket(hparams), self._at[slot]
        inner = held[1] if held is not None and held[0] == bucket else self._vacancy(bucket)
        try:
            self._rooms[bucket].stack.admit(inner, hparams, seed, state, consumed)
        except TrainableError:
            self._close_if_empty(bucket)
            raise
        if held != (bucket, inner):
            self._leave(slot)
            self._rooms[bucket].members[inner] = slot
            self._at[slot] = (bucket, inner)
        self._seeds[slot] = int(seed)

    def evict(self, slot: int) -> State:
        """Return the member's state and free the slot."""
        stack, inner = self._find(slot)
        state = stack.evict(inner)
        self._leave(slot)
        return state

    def run(self, until: Sequence[int]) -> Metrics:
        """Train each slot until its `consumed` reaches its entry of `until`, bucket after bucket; see `Stack.run`."""
        check_until(until, self.capacity)
        metrics: Metrics = {}
        for room in self._rooms.values():
            targets = [0 if slot is None else until[slot] for slot in room.members]
            self._spread(room.stack.run(targets), room, metrics)
        return metrics

    def evaluate(self, split: Split, slots: Sequence[int]) -> Metrics:
        """Evaluate slots without touching their training state; see `Stack.evaluate`."""
        found = [self._where(slot) for slot in slots]
        metrics: Metrics = {}
        for bucket, room in self._rooms.items():
            if asked := [inner for own, inner in found if own == bucket]:
                self._spread(room.stack.evaluate(split, asked), room, metrics)
        return metrics

    def hparams(self, slot: int) -> dict[str, HparamValue]:
        """Read back the values the device holds."""
        stack, inner = self._find(slot)
        return stack.hparams(inner)

    def set_hparams(self, slots: Sequence[int], **values: Sequence[HparamValue]) -> None:
        """Change hyperparameters; who changes its bucket moves. See `Stack.set_hparams`.

        Raises:
            TrainableError: A name is unknown or not live, or a value is out of its bounds; nothing has changed.
        """
        for name, column in values.items():
            if len(column) != len(slots):
                raise TrainableError(f"hparam {name!r} has {len(column)} values; give {len(slots)}, one a slot")
        before = [self.hparams(slot) for slot in slots]
        for place, slot in enumerate(slots):
            try:
                self._change(slot, before[place], {name: column[place] for name, column in values.items()})
            except TrainableError:
                for changed, known in zip(slots[:place], before, strict=False):
                    self._change(changed, self.hparams(changed), known)
                raise

    def copy(self, src: Sequence[int], dst: Sequence[int]) -> None:
        """Weights, optimizer state and age of `src[i]` into `dst[i]`; see `Stack.copy`.

        Raises:
            TrainableError: A slot is empty or out of range, or `dst` names a slot twice, or the weights do not fit the
                receiver's bucket.
        """
        check_pairs(src, dst)
        pairs = [(self._where(donor), self._where(receiver)) for donor, receiver in zip(src, dst, strict=True)]
        apart = [(donor, to) for donor, to, (one, other) in zip(src, dst, pairs, strict=True) if one[0] != other[0]]
        states = [(to, self.state(donor)) for donor, to in apart]  # all reads come before all writes
        for bucket, room in self._rooms.items():
            inside = [(one[1], other[1]) for one, other in pairs if one[0] == other[0] == bucket]
            room.stack.copy([donor for donor, _ in inside], [receiver for _, receiver in inside])
        for slot, state in states:
            stack, inner = self._find(slot)
            stack.admit(inner, stack.hparams(inner), self._seeds[slot], state, stack.progress(inner)[1])

    def state(self, slot: int) -> State:
        """Copy out the member's state, leaving it in place."""
        stack, inner = self._find(slot)
        return stack.state(inner)

    def lend(self, slot: int) -> State:
        """The member's state where it lies, or a copy where its stack lends nothing; see `Lending`."""
        stack, inner = self._find(slot)
        return stack.lend(inner) if isinstance(stack, Lending) else stack.state(inner)

    def progress(self, slot: int) -> tuple[int, int]:
        """`(age, consumed)` of the member in the slot."""
        stack, inner = self._find(slot)
        return stack.progress(inner)

    # --- where members are

    def _change(self, slot: int, known: Hparams, wanted: Hparams) -> None:
        stack, inner = self._find(slot)
        if any(known.get(name) != value for name, value in wanted.items() if name in self._deciding):
            state = stack.state(inner)
            self.admit(slot, {**known, **wanted}, self._seeds[slot], state, state.consumed)
            return
        stack.set_hparams([inner], **{name: [value] for name, value in wanted.items() if name not in self._deciding})

    def _vacancy(self, bucket: str) -> int:
        """A free slot in the bucket's stack, which is built, or built anew and larger, where there is none."""
        room = self._rooms.get(bucket)
        if room is None or None not in room.members:
            room = self._rooms[bucket] = self._grown(bucket, room)
        return room.members.index(None)

    def _grown(self, bucket: str, room: _Room | None) -> _Room:
        assert self._place.plan is not None
        members = [] if room is None else room.members
        size = max(2 * len(members), self._place.plan.chunk)
        larger = _Room(self._trainable.build(bucket, size, self._place), members + [None] * (size - len(members)))
        for inner, slot in enumerate(members):
            if room is not None and slot is not None:
                state = room.stack.state(inner)
                larger.stack.admit(inner, room.stack.hparams(inner), self._seeds[slot], state, state.consumed)
        return larger

    def _leave(self, slot: int) -> None:
        if (held := self._at[slot]) is not None:
            bucket, inner = held
            self._at[slot] = None
            self._rooms[bucket].members[inner] = None
            self._close_if_empty(bucket)

    def _close_if_empty(self, bucket: str) -> None:
        if self._rooms[bucket].is_empty:
            del self._rooms[bucket]

    def _find(self, slot: int) -> tuple[Stack, int]:
        bucket, inner = self._where(slot)
        return self._rooms[bucket].stack, inner

    def _where(self, slot: int) -> tuple[str, int]:
        check_slots([slot], self.capacity)
        held = self._at[slot]
        if held is None:
            raise TrainableError(f"slot {slot} is empty")
        return held

    def _spread(self, found: Metrics, room: _Room, metrics: Metrics) -> None:
        """Numbers of a stack's slots, to where these are among ours."""
        for name, values in found.items():
            column = metrics.setdefault(name, np.full(self.capacity, np.nan))
            for slot, value in zip(room.members, values, strict=True):
                if slot is not None:
                    column[slot] = value
