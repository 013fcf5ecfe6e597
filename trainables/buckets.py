"""Members that change their bucket: a stack of stacks, one for each bucket that has members.

From outside, all of a trainable's members share one stack. What decides the bucket (a batch size, say) can be changed
like any live hyperparameter: inside, a member that changes it moves to another stack, with all of its state. What
weights are made for (structural hyperparameters: a depth, say) goes with the weights: who takes over a donor's moves to
the donor's bucket, and only who begins anew can have others. Any option of a trainable can be made one, as long as
members with different values report the same metrics and consume the same tokens. Only the contract of
`trainables.base` is used, so that this works for any trainable.

Stacks grow as members come and are dropped when the last has gone. Those of the core train chunk after chunk, and how
large the chunks are does not change with their number, so that a member's numbers do not depend on who else is in its
bucket.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace

import numpy as np

from trainables.arguments import check_pairs, check_slots, check_until
from trainables.base import (
    Capabilities,
    Hparams,
    HparamSpec,
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
        options: Of its options, those that are structural hyperparameters of members.
    """

    trainable: Trainable
    options: tuple[str, ...] = ()

    def describe(self) -> Capabilities:
        """As the trainable, but what decides the bucket is live, and its options are hyperparameters.

        FLOPs are not told where these may make a difference.
        """
        known = self.trainable.describe()
        hparams = {
            name: replace(spec, kind="live") if spec.kind == "bucket" else spec for name, spec in known.hparams.items()
        }
        added = {
            name: HparamSpec(kind="structural", default=getattr(self.trainable, name), doc="option of the trainable")
            for name in self.options
        }
        flops = None if added else known.flops_per_step
        return replace(known, hparams=hparams | added, flops_per_step=flops)

    def bucket(self, hparams: Hparams) -> str:
        """One for all, named after the trainable's usual one. What is no bucket of the trainable is refused."""
        self.bucket_of(hparams)
        return f"buckets of {self.trainable.bucket({})}"

    def bucket_of(self, hparams: Hparams) -> Bucket:
        """Which of the buckets inside a member with these hyperparameters belongs to."""
        options = tuple((name, hparams.get(name, getattr(self.trainable, name))) for name in self.options)
        return Bucket(options, self.variant(dict(options)).bucket(self.without_options(hparams)))

    def variant(self, options: Hparams) -> Trainable:
        """The trainable with these options."""
        if not options:
            return self.trainable
        assert is_dataclass(self.trainable)
        assert not isinstance(self.trainable, type)
        made: Trainable = replace(self.trainable, **options)
        return made

    def without_options(self, hparams: Hparams) -> Hparams:
        """What a variant knows of a member's hyperparameters."""
        return {name: value for name, value in hparams.items() if name not in self.options}

    def deciding(self, names: Iterable[str]) -> list[str]:
        """Which of these hyperparameters decide a member's bucket inside."""
        known = self.trainable.describe().hparams
        return [it for it in names if it in self.options or (it in known and known[it].kind != "live")]

    def check(self, hparams: Hparams) -> None:
        """Refuse hyperparameters that members beside usual ones cannot have.

        Raises:
            TrainableError: There is no such bucket, or its members could not be compared with others.
        """
        bucket = self.bucket_of(hparams)
        usual, other = (_compared(it.describe()) for it in (self.trainable, self.variant(dict(bucket.options))))
        for what, found in other.items():
            if found != usual[what]:
                told = ", ".join(f"{name}={value!r}" for name, value in hparams.items())
                raise TrainableError(f"with {told} it has other {what} than without: members could not be compared")

    def build(self, bucket: str, capacity: int, place: Place) -> Stack:
        """Build an empty stack."""
        if bucket != self.bucket({}):
            raise TrainableError(f"bucket {bucket!r} is not {self.bucket({})!r}, the only one")
        if capacity < 1:
            raise TrainableError(f"capacity is {capacity}; give a whole number >= 1")
        return BucketStack(self, capacity, place)


@dataclass(frozen=True, slots=True)
class Bucket:
    """What the members of one stack inside have in common.

    Attributes:
        options: Of the trainable, by name.
        name: Of the bucket of a trainable with these options.
    """

    options: tuple[tuple[str, HparamValue], ...]
    name: str


def with_buckets(trainable: Trainable, varied: Iterable[str]) -> Trainable:
    """The trainable, or one whose members are in different buckets where what decides these varies."""
    known, varied = trainable.describe().hparams, list(varied)
    options = tuple(name for name in varied if name not in known and name in options_of(trainable))
    decides = any(known[name].kind != "live" for name in varied if name in known)
    return Buckets(trainable, options) if decides or options else trainable


def _compared(known: Capabilities) -> dict[str, object]:
    """What must be the same of two members for their scores to be compared, and what they take to be counted."""
    return {
        "metrics": known.metrics,
        "hyperparameters": set(known.hparams),
        "splits": known.splits,
        "tokens in a step": (known.tokens_per_step, known.progress_unit),
        "data": known.data,
    }


def options_of(trainable: Trainable) -> list[str]:
    """Names of a trainable's options: of one that is no dataclass, none are known."""
    if not is_dataclass(trainable):
        return []
    return [field.name for field in fields(trainable) if field.init]


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

    def __init__(self, trainable: Buckets, capacity: int, place: Place) -> None:
        self.capacity = capacity
        self._trainable = trainable
        # A plan of its own even where none was measured: with chunks as large as the stack, growing would change them.
        plan = place.plan or Plan(chunk=1, compiled=wants_compiling(place))
        self._place = replace(place, plan=replace(plan, chunk=min(plan.chunk, capacity)))
        known = trainable.describe().hparams
        self._structural = frozenset(name for name, spec in known.items() if spec.kind == "structural")
        self._moving = frozenset(trainable.deciding(known)) - self._structural
        self._rooms: dict[Bucket, _Room] = {}
        #: Bucket and slot in its stack, of each slot of ours.
        self._at: list[tuple[Bucket, int] | None] = [None] * capacity
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
        bucket, held = self._trainable.bucket_of(hparams), self._at[slot]
        inner = held[1] if held is not None and held[0] == bucket else self._vacancy(bucket)
        try:
            self._rooms[bucket].stack.admit(inner, self._trainable.without_options(hparams), seed, state, consumed)
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
        bucket, inner = self._where(slot)
        return {**self._rooms[bucket].stack.hparams(inner), **dict(bucket.options)}

    def set_hparams(self, slots: Sequence[int], **values: Sequence[HparamValue]) -> None:
        """Change hyperparameters; who changes its bucket moves. See `Stack.set_hparams`.

        Raises:
            TrainableError: A name is unknown, or a value is out of its bounds, or not what the member's weights are
                made for; nothing has changed.
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
        """Weights, optimizer state and age of `src[i]` into `dst[i]`, and what weights are made for; see `Stack.copy`.

        Raises:
            TrainableError: A slot is empty or out of range, or `dst` names a slot twice.
        """
        check_pairs(src, dst)
        pairs = [(self._where(donor), self._where(receiver)) for donor, receiver in zip(src, dst, strict=True)]
        apart = [(donor, to) for donor, to, (one, other) in zip(src, dst, pairs, strict=True) if one[0] != other[0]]
        # All reads come before all writes.
        moves = [(to, self.state(donor), {**self.hparams(to), **self._made_for(donor)}) for donor, to in apart]
        for bucket, room in self._rooms.items():
            inside = [(one[1], other[1]) for one, other in pairs if one[0] == other[0] == bucket]
            room.stack.copy([donor for donor, _ in inside], [receiver for _, receiver in inside])
        for slot, state, hparams in moves:
            self.admit(slot, hparams, self._seeds[slot], state, self.progress(slot)[1])

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
        changed = {name: value for name, value in wanted.items() if known.get(name) != value}
        for name in self._structural & changed.keys():
            problem = f"hparam {name!r} is structural: the weights are made for {known[name]!r}, not {changed[name]!r}"
            raise TrainableError(f"{problem}; start a fresh member")
        if self._moving & changed.keys():
            state = stack.state(inner)
            self.admit(slot, {**known, **wanted}, self._seeds[slot], state, state.consumed)
            return
        rest = {name: [value] for name, value in wanted.items() if name not in self._moving | self._structural}
        stack.set_hparams([inner], **rest)

    def _made_for(self, slot: int) -> Hparams:
        """The structural hyperparameters of a member."""
        return {name: value for name, value in self.hparams(slot).items() if name in self._structural}

    def _vacancy(self, bucket: Bucket) -> int:
        """A free slot in the bucket's stack, which is built, or built anew and larger, where there is none."""
        room = self._rooms.get(bucket)
        if room is None or None not in room.members:
            room = self._rooms[bucket] = self._grown(bucket, room)
        return room.members.index(None)

    def _grown(self, bucket: Bucket, room: _Room | None) -> _Room:
        assert self._place.plan is not None
        members = [] if room is None else room.members
        size = max(2 * len(members), self._place.plan.chunk)
        stack = self._trainable.variant(dict(bucket.options)).build(bucket.name, size, self._place)
        larger = _Room(stack, members + [None] * (size - len(members)))
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

    def _close_if_empty(self, bucket: Bucket) -> None:
        if self._rooms[bucket].is_empty:
            del self._rooms[bucket]

    def _find(self, slot: int) -> tuple[Stack, int]:
        bucket, inner = self._where(slot)
        return self._rooms[bucket].stack, inner

    def _where(self, slot: int) -> tuple[Bucket, int]:
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
