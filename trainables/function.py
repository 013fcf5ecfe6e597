"""Somebody's own training function as a trainable: see `trainables.adapt` for the doors it is written through.

Members train in turns, each in a loop of its own. A loop whose hyperparameters change, or that is to go on with another
member's weights, is begun anew from what was kept: so everything it reads at its beginning is in effect.
"""

from __future__ import annotations

import json
import math
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

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
from trainables.core.hparams import HparamTable
from trainables.core.rng import Draws, seed_word, site
from trainables.core.shards import copied
from trainables.errors import TrainableError, nearest
from trainables.own.kept import Content
from trainables.own.loop import Loop
from trainables.own.names import function

_BUCKET = "function"
_SPLITS: tuple[Split, ...] = ("validation",)
_MODES = ("min", "max")
_BEGINNING, _TRAINING = site("function.beginning"), site("function.training")


@dataclass(frozen=True)
class Function:
    """A function that trains, and says how it goes through `trainables.adapt`.

    Attributes:
        train: The function, `package.module:function`; it takes no arguments.
        hparams: What it asks for, by name: the default, or a mapping with `default` and, as they apply, `low`, `high`
            and `doc`.
        metrics: What it reports, by name: `min` or `max`, whichever is better.
        arguments: What it finds in `sys.argv` behind its name.
        tokens: Tokens or examples that it trains on between two reports.
        resident: Members of a stack whose loops stay in memory between their turns; the others are kept on the CPU, and
            begin anew when it is their turn. 0 is all: fastest, where a device has room for so many models.
        data: Provenance of the data.
    """

    train: str
    hparams: Mapping[str, Any]
    metrics: Mapping[str, str]
    arguments: Sequence[str] = ()
    tokens: int = 1
    resident: int = 0
    data: Mapping[str, str | int | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what makes no trainable."""
        function("function train", self.train)
        for name, value in self.hparams.items():
            _spec(name, value)
        if not self.metrics:
            raise TrainableError("function metrics is empty; write what train() reports, as in {loss: min}")
        for name, mode in self.metrics.items():
            if mode not in _MODES:
                raise TrainableError(f"function metrics[{name!r}] is {mode!r}; give min or max")
        if isinstance(self.arguments, str) or not all(isinstance(it, str | int | float) for it in self.arguments):
            raise TrainableError(f"function arguments is {self.arguments!r}; give a list, as in [--epochs, 30]")
        for name, low in (("tokens", 1), ("resident", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise TrainableError(f"function {name} is {value!r}; give a whole number >= {low}")

    def describe(self) -> Capabilities:
        """What it was said to ask for and report; a step is a report."""
        return Capabilities(
            metrics={name: MetricSpec(mode=mode) for name, mode in self.metrics.items()},  # type: ignore[arg-type]
            hparams=self._specs(),
            splits=_SPLITS,
            progress_unit="report",
            tokens_per_step=self.tokens,
            rng="splitmix64 v1",
            data=self.data,
        )

    def bucket(self, hparams: Hparams) -> str:
        """All share one."""
        return _BUCKET

    def build(self, bucket: str, capacity: int, place: Place) -> Stack:
        """Build an empty stack, whose members train in turns.

        Raises:
            TrainableError: The bucket is another's, there is no slot, or several processes are to share a member.
        """
        if bucket != _BUCKET:
            raise TrainableError(f"bucket {bucket!r} is unknown; function has only {_BUCKET!r}")
        if capacity < 1:
            raise TrainableError(f"capacity is {capacity}; give at least 1")
        if place.world_size > 1:
            raise TrainableError(f"hosts.ranks is {place.world_size}, but a function trains in one process; give 1")
        return FunctionStack(self, capacity, place)

    def _specs(self) -> dict[str, HparamSpec]:
        return {name: _spec(name, value) for name, value in self.hparams.items()}


def _spec(name: str, value: Any) -> HparamSpec:
    what = f"function hparams[{name!r}]"
    given = value if isinstance(value, Mapping) and "default" in value else {"default": value}
    known = ("default", "low", "high", "doc")
    for key in given:
        if key not in known:
            raise TrainableError(f"{what} has {key!r}; {nearest(str(key), known)}")
    default = given["default"]
    parts = tuple(default) if isinstance(default, Mapping) else ()
    if not (parts or isinstance(default, bool | int | float | str)):
        mend = "give its default: a number, a word, or weights that sum to 1"
        raise TrainableError(f"{what} is {default!r}; {mend}")
    spec = HparamSpec(kind="live", parts=parts, **given)
    _Values({name: spec}).given({})
    return spec


class _Values:
    """Checks hyperparameters, words too, and fills in what was left out."""

    def __init__(self, specs: Mapping[str, HparamSpec]) -> None:
        self._words = {name: it.default for name, it in specs.items() if isinstance(it.default, bool | str)}
        self._names = list(specs)
        self._table = HparamTable({name: it for name, it in specs.items() if name not in self._words}, 1, _CPU)

    def given(self, hparams: Hparams) -> dict[str, HparamValue]:
        """All values of a member, as the function gets them.

        Raises:
            TrainableError: A name is unknown, or a value is none it can have.
        """
        numbers = {}
        words = dict(self._words)
        for name, value in hparams.items():
            if name not in self._words:
                numbers[name] = self._checked(name, value)
                continue
            if type(value) is not type(self._words[name]):
                raise TrainableError(f"hparam {name!r} is {value!r}; give a value like {self._words[name]!r}")
            words[name] = value
        self._table.fill(0, self._table.checked(numbers))
        found = {**self._table.get(0), **words}
        return {name: found[name] for name in self._names}

    def _checked(self, name: str, value: HparamValue) -> HparamValue:
        if name not in self._names:
            raise TrainableError(f"hparam {name!r} is unknown; {nearest(name, self._names)}")
        return value


_CPU = torch.device("cpu")


@dataclass(slots=True)
class _Member:
    """Who is in a slot; what was kept of it stands still, or in its loop."""

    hparams: dict[str, HparamValue]
    seed: int
    age: int
    consumed: int
    metrics: Mapping[str, float]
    kept: State | None = None
    loop: Loop | None = None
    asked: set[str] = field(default_factory=set)  # by loops that have ended, of the hyperparameters it has now

    def end(self) -> None:
        if self.loop is not None:
            self.asked |= self.loop.asked
            self.loop.end()
            self.loop = None


class FunctionStack:
    """Members of somebody's own training function."""

    def __init__(self, owner: Function, capacity: int, place: Place) -> None:
        self.capacity = capacity
        self._owner, self._device = owner, place.device
        self._train: Callable[[], Any] = function("function train", owner.train)
        self._values = _Values(owner.describe().hparams)
        self._members: list[_Member | None] = [None] * capacity
        self._resident: list[_Member] = []  # those with loops, the one that was used last at the end
        weakref.finalize(self, _end, self._members)

    # ------------------------------------------------------------------------------------------------------- members

    def admit(
        self, slot: int, hparams: Hparams, seed: int, state: State | None = None, consumed: int | None = None
    ) -> None:
        """Put a member in; its loop begins when it is its turn."""
        self._check(slot)
        values = self._values.given(hparams)
        metrics = {} if state is None else _unpacked(state)[2]
        age, own = (0, 0) if state is None else (state.age, state.consumed)
        own = own if consumed is None else int(consumed)
        kept = None if state is None else copied(state)
        self._replace(slot, _Member(values, int(seed), age, own, metrics, kept))

    def evict(self, slot: int) -> State:
        """The member's state; its loop ends."""
        state = self.state(slot)
        self._replace(slot, None)
        return state

    def state(self, slot: int) -> State:
        """All that the loop keeps, as of its last report."""
        member = self._here(slot)
        if member.kept is None:
            self._begin(member)
        return _state(member)

    def copy(self, src: Sequence[int], dst: Sequence[int]) -> None:
        """Exploit: the receivers' loops begin anew, from what the donors' keep."""
        if len(src) != len(dst) or len(set(dst)) != len(dst):
            raise TrainableError(f"cannot copy {list(src)} to {list(dst)}; give each target one source")
        donors = [self._here(slot) for slot in src]
        receivers = [self._here(slot) for slot in dst]
        found = [(self.state(slot), donor.metrics) for slot, donor in zip(src, donors, strict=True)]
        for (state, metrics), receiver in zip(found, receivers, strict=True):
            receiver.end()
            receiver.kept, receiver.age, receiver.metrics = state, state.age, metrics

    def progress(self, slot: int) -> tuple[int, int]:
        """`(age, consumed)` of the member, in reports."""
        member = self._here(slot)
        return member.age, member.consumed

    def hparams(self, slot: int) -> dict[str, HparamValue]:
        """What the loop gets when it asks; `asked` says whether it did."""
        return dict(self._here(slot).hparams)

    def asked(self, slot: int) -> Collection[str]:
        """Names of the hyperparameters that the loop has asked for since any of them changed."""
        member = self._here(slot)
        return frozenset(member.asked) | (frozenset() if member.loop is None else frozenset(member.loop.asked))

    def set_hparams(self, slots: Sequence[int], **values: Sequence[HparamValue]) -> None:
        """Change them: the loops begin anew, from what they keep."""
        members = [self._here(slot) for slot in slots]
        for name, column in values.items():
            if len(column) != len(slots):
                raise TrainableError(f"hparam {name!r} has {len(column)} values for {len(slots)} slots")
        changed = [
            self._values.given({**member.hparams, **{name: column[index] for name, column in values.items()}})
            for index, member in enumerate(members)
        ]
        for slot, member, hparams in zip(slots, members, changed, strict=True):
            if hparams != member.hparams:
                member.kept = self.state(slot)
                member.end()
                member.hparams, member.asked = hparams, set()

    # ------------------------------------------------------------------------------------------------------ training

    def run(self, until: Sequence[int]) -> Metrics:
        """Train each slot to so many reports of its own; means of what these hold besides what `evaluate` gives."""
        if len(until) != self.capacity:
            raise TrainableError(f"until has {len(until)} entries; give one for each of {self.capacity} slots")
        means: Metrics = {}
        for slot, goal in enumerate(until):
            member = self._members[slot]
            count = 0 if member is None else int(goal) - member.consumed
            if member is None or count <= 0:
                continue
            for name, value in _means([self._advance(member) for _ in range(count)]).items():
                if name not in self._owner.metrics:
                    means.setdefault(name, np.full(self.capacity, math.nan))[slot] = value
        return means

    def evaluate(self, split: Split, slots: Sequence[int]) -> Metrics:
        """What the loops reported last; NaN for those that have not yet."""
        if split not in _SPLITS:
            raise TrainableError(f"split is {split!r}; a function reports {', '.join(_SPLITS)} only")
        found: Metrics = {name: np.full(self.capacity, math.nan) for name in self._owner.metrics}
        for slot in slots:
            for name, value in self._here(slot).metrics.items():
                if name in found:
                    found[name][slot] = value
        return found

    def _begin(self, member: _Member) -> Loop:
        """The member's loop, at its last report or at its beginning."""
        if member.loop is None:
            self._make_room()
            content, step, _ = (None, 0, None) if member.kept is None else _unpacked(member.kept)
            arguments = [str(it) for it in self._owner.arguments]
            loop = Loop(self._train, member.hparams, content, step, arguments, self._device)
            loop.start(_draw(_BEGINNING, member.seed, 0))
            member.loop, member.kept = loop, None
        self._resident = [it for it in self._resident if it is not member and it.loop is not None] + [member]
        return member.loop

    def _make_room(self) -> None:
        """For one more loop, where no more than some may stay in memory."""
        self._resident = [it for it in self._resident if it.loop is not None]
        while 0 < self._owner.resident <= len(self._resident):
            oldest = self._resident.pop(0)
            oldest.kept = _state(oldest)
            oldest.end()

    def _advance(self, member: _Member) -> Mapping[str, float]:
        report = self._begin(member).advance(_draw(_TRAINING, member.seed, member.consumed))
        for name in self._owner.metrics:
            if name not in report.metrics:
                told = f"{self._owner.train} reported {', '.join(report.metrics) or 'nothing'}, but no {name!r}"
                raise TrainableError(f"{told}; report it each time, or leave it out of metrics")
        member.metrics = report.metrics
        member.age, member.consumed = member.age + 1, member.consumed + 1
        return report.metrics

    def _replace(self, slot: int, member: _Member | None) -> None:
        if (before := self._members[slot]) is not None:
            before.end()
        self._members[slot] = member

    def _check(self, slot: int) -> None:
        if not 0 <= slot < self.capacity:
            raise TrainableError(f"slot {slot} is not there; this stack has {self.capacity}")

    def _here(self, slot: int) -> _Member:
        self._check(slot)
        member = self._members[slot]
        if member is None:
            raise TrainableError(f"slot {slot} is empty; admit a member first")
        return member


def _state(member: _Member) -> State:
    """All that is kept of a member, on the CPU: what waits for its turn takes no room where others train."""
    state = member.kept
    if state is None:
        assert member.loop is not None
        state = _packed(member.loop.content(), member)
    shards = (Shard.whole(it.name, it.tensor.to("cpu", copy=True)) for it in state.shards)
    return State(tuple(shards), member.age, member.consumed, member.seed)


def _end(members: list[_Member | None]) -> None:
    for member in members:
        if member is not None:
            member.end()


def _means(reports: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for report in reports for name in report)
    return {name: float(np.mean([report[name] for report in reports if name in report])) for name in names}


def _draw(where: int, seed: int, consumed: int) -> int:
    clock = torch.tensor([seed_word(seed)]), torch.tensor([consumed])
    return int(Draws(*clock).key(where)) % 2**63


# --- states

#: What is not a tensor, as JSON in bytes: of the model and optimizer; and of the place in training, which stays where
#: weights are shrunk.
_FORMS, _PLACE = "function.forms", "place.function"


def _packed(content: Content, member: _Member) -> State:
    """What a loop keeps as a state."""
    assert member.loop is not None
    shapes = {name: [str(it.dtype), list(it.shape)] for name, it in content.tensors.items()}
    place = {"step": member.loop.step, "metrics": dict(member.metrics), "places": content.places}
    shards = [Shard.whole(name, tensor) for name, tensor in content.tensors.items()]
    texts = {_FORMS: {"shapes": shapes, "forms": content.forms}, _PLACE: place}
    shards += [Shard.whole(name, _text(value)) for name, value in texts.items()]
    return State(tuple(shards), member.age, member.consumed, member.seed)


def _unpacked(state: State) -> tuple[Content, int, Mapping[str, float]]:
    """What a state keeps, the step it is at, and what was reported there.

    Raises:
        TrainableError: It is another trainable's, or not whole.
    """
    tensors = {shard.name: shard.tensor for shard in state.shards}
    forms, place = (_read(name, tensors.pop(name, None)) for name in (_FORMS, _PLACE))
    for name, (dtype, shape) in forms["shapes"].items():
        tensor = tensors.get(name)
        if tensor is None or [str(tensor.dtype), list(tensor.shape)] != [dtype, shape]:
            found = "is missing" if tensor is None else f"is {tensor.dtype} {list(tensor.shape)}"
            raise TrainableError(f"{name} {found} in the state; it was {dtype} {shape} when it was made")
    content = Content(tensors, forms["forms"], place["places"])
    return content, place["step"], place["metrics"]


def _text(value: Any) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def _read(name: str, tensor: Tensor | None) -> Any:
    try:
        return json.loads(bytes(tensor.cpu().tolist()).decode())  # type: ignore[union-attr]
    except (AttributeError, ValueError) as error:
        raise TrainableError(f"{name} is missing or damaged in the state; give one of the same function") from error
