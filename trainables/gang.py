"""Any torch.nn module, one member at a time, on one process or shared by the ranks of a gang.

What is too large for one device, or too slow on it, is trained by several processes: each sees a part of every batch
(`ddp`), and holds a part of parameters and moments only (`fsdp`). What is learned does not depend on their number, to
rounding, nor does a member's state, which any other number of them can take up.
"""

from __future__ import annotations

import math
import pkgutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.nn.parallel import DistributedDataParallel

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
from trainables.core.model import Batch, Feed, num_examples, parts
from trainables.core.options import check_choice
from trainables.core.rng import Draws, site
from trainables.core.shards import by_name, copied, fill
from trainables.errors import TrainableError
from trainables.own.names import function

_BUCKET = "gang"
_DROPOUT = site("module.draws")
#: Modules draw from random numbers that all threads of a process share: one at a time.
_DRAWING = threading.Lock()
_HPARAMS: Mapping[str, HparamSpec] = {
    "lr": HparamSpec(kind="live", default=1e-3, low=0.0, doc="learning rate"),
    "weight_decay": HparamSpec(kind="live", default=0.01, low=0.0, doc="decoupled, times the learning rate"),
    "beta1": HparamSpec(kind="live", default=0.9, low=0.0, high=1.0, doc="decay of the first moment"),
    "beta2": HparamSpec(kind="live", default=0.999, low=0.0, high=1.0, doc="decay of the second moment"),
    "clip_norm": HparamSpec(kind="live", default=0.0, low=0.0, doc="largest norm of the gradient; 0 does not clip"),
}
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Gang:
    """A module trained with AdamW.

    The first three are names, `package.module:function`, so that a sweep can be recorded and taken up again.

    Attributes:
        make: Builds the module with fresh weights, drawn from torch's random numbers. Under `fsdp`, each of its
            children is gathered as a whole when it is its turn; of a child that is a list, each of what it holds. What
            it draws in training (dropout) follows from seed and steps; stacks of one process train in turns for that.
        loss: The mean loss of a module on a batch whose tensors have the examples first: `(module, batch)`. It calls
            the module as a whole: that is how ranks hear of each other.
        feed: Builds, on a device, what batches come from: `batch` and `evaluation` as `trainables.core.model.Feed` has
            them; it keeps no buffers.
        parallel: How the ranks of a gang share a member: `ddp`, each with all of it, or `fsdp`, each with a part.
        data: Provenance of the data.
    """

    make: str
    loss: str
    feed: str
    parallel: Literal["ddp", "fsdp"] = "ddp"
    data: Mapping[str, str | int | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse names that name nothing."""
        for name in ("make", "loss", "feed"):
            function(f"gang {name}", getattr(self, name))
        check_choice("gang", self, "parallel", ("ddp", "fsdp"))

    def describe(self) -> Capabilities:
        """`loss`, to be minimised; every hyperparameter live."""
        return Capabilities(
            metrics={"loss": MetricSpec(mode="min", doc="mean over examples")},
            hparams=_HPARAMS,
            splits=("train", "validation"),
            tokens_per_step=num_examples(_tried(self.feed)),
            rng="splitmix64 v1",
            data=self.data,
            max_capacity=1,
        )

    def bucket(self, hparams: Hparams) -> str:
        """All share one."""
        return _BUCKET

    def build(self, bucket: str, capacity: int, place: Place) -> Stack:
        """Build an empty stack for one member; where there are several ranks, each builds its own, at the same time.

        Raises:
            TrainableError: More than one member is to share it, or ranks are to that are not connected, or that cannot
                share a batch evenly.
        """
        if capacity != 1:
            raise TrainableError(f"a module is trained one member at a time, not {capacity}; give each its own stack")
        if place.world_size > 1 and not dist.is_initialized():
            raise TrainableError(f"{place.world_size} ranks need a process group; call init_process_group first")
        return GangStack(self, place)


def _tried(name: str) -> Batch:
    """The first batch of a feed: what is wrong with it can still be told here, before anything is started."""
    what = f"gang feed is {name!r}"
    try:
        batch = _first_batch(_feed(name, torch.device("cpu")), torch.device("cpu"))
    except TrainableError:
        raise
    except Exception as error:  # it is the user's
        raise TrainableError(f"{what}, which raised {type(error).__name__}: {error}; mend it") from error
    for tensor in (batch,) if isinstance(batch, Tensor) else batch:
        shape = list(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
        if not isinstance(tensor, Tensor) or tensor.ndim < 2 or tensor.shape[0] != 1:
            raise TrainableError(f"{what}, whose batch has {shape}; give tensors [1, examples, ...], 1 for the member")
    return batch


def _first_batch(feed: Feed, device: torch.device) -> Batch:
    return feed.batch(Draws(*torch.zeros(2, 1, dtype=torch.int64, device=device)))


def _feed(name: str, device: torch.device) -> Feed:
    feed: Feed = pkgutil.resolve_name(name)(device)
    missing = [method for method in ("batch", "evaluation") if not callable(getattr(feed, method, None))]
    if missing:
        lacks = f"which builds a {type(feed).__name__} without {' and '.join(f'{method}()' for method in missing)}"
        mend = "give a class with batch(draws) and evaluation(split), as in examples/gang.py"
        raise TrainableError(f"gang feed is {name!r}, {lacks}; {mend}")
    return feed


@dataclass(slots=True)
class _Member:
    seed: int
    age: int
    consumed: int


class GangStack:
    """One member; of several ranks, this one's part of it. All ranks are told the same, at the same time."""

    capacity = 1

    def __init__(self, owner: Gang, place: Place) -> None:
        self._owner, self._place = owner, place
        self._make, self._loss = (pkgutil.resolve_name(name) for name in (owner.make, owner.loss))
        self._device = torch.device(place.device)
        self._dtype = getattr(torch, place.dtype)
        self._feed = _feed(owner.feed, self._device)
        self._check_shares()
        self._table = HparamTable(_HPARAMS, 1, torch.device("cpu"), place.fixed)
        with _DRAWING:
            module = self._make()
        self._module = self._shared(module.to(self._device, self._dtype))
        self._was_called = False
        self._module.register_forward_pre_hook(self._note_call)
        self._optimizer = torch.optim.AdamW(self._module.parameters())
        for parameter in self._module.parameters():  # a member that has not trained yet has moments, too
            moments = {name: torch.zeros_like(parameter) for name in _MOMENTS}
            self._optimizer.state[parameter] = {"step": torch.zeros(()), **moments}
        self._member: _Member | None = None

    # ------------------------------------------------------------------------------------------------------- members

    def admit(
        self, slot: int, hparams: Hparams, seed: int, state: State | None = None, consumed: int | None = None
    ) -> None:
        """Put a member in; a state may come from any number of ranks."""
        self._check(slot)
        values = self._table.checked(hparams)
        given = by_name(state) if state is not None else by_name(self._fresh(seed))
        for name, tensor in self._tensors().items():
            part = _part(name, tensor)
            fill(name, part.tensor, part.offset, given.get(name, ()))
        first, *others = (moments["step"] for moments in self._optimizer.state.values())
        for step in others:  # torch counts for every parameter, and all have come as far
            step.copy_(first)
        self._table.fill(0, values)
        age, own = (0, 0) if state is None else (state.age, state.consumed)
        self._member = _Member(seed, age, own if consumed is None else consumed)

    def evict(self, slot: int) -> State:
        """The member's state, of which this rank gives its part."""
        state = self.state(slot)
        self._member = None
        return state

    def state(self, slot: int) -> State:
        """The member's state, of which this rank gives its part: together they are all of it, and nothing twice."""
        member = self._here(slot)
        rank, size = self._place.rank, self._place.world_size
        # What every rank has as a whole, one of them gives: each its share.
        own = tuple(
            _part(name, tensor)
            for number, (name, tensor) in enumerate(self._tensors().items())
            if isinstance(tensor, DTensor) or number % size == rank
        )
        return copied(State(own, member.age, member.consumed, member.seed))

    def copy(self, src: Sequence[int], dst: Sequence[int]) -> None:
        """There is nobody to copy from but itself."""
        for slot in (*src, *dst):
            self._here(slot)

    def progress(self, slot: int) -> tuple[int, int]:
        """`(age, consumed)` of the member."""
        member = self._here(slot)
        return member.age, member.consumed

    def hparams(self, slot: int) -> dict[str, HparamValue]:
        """What is in effect."""
        self._here(slot)
        return self._table.get(0)

    def set_hparams(self, slots: Sequence[int], **values: Sequence[HparamValue]) -> None:
        """Change it."""
        for slot in slots:
            self._here(slot)
        self._table.change(slots, values)

    # ------------------------------------------------------------------------------------------------------ training

    def run(self, until: Sequence[int]) -> Metrics:
        """Train to `until[0]`; the mean loss of the steps, over all ranks."""
        (goal,) = until
        if self._member is None or goal <= self._member.consumed:
            return {"loss": np.full(1, math.nan)}
        self._put_into_effect()
        self._module.train()
        total, first = torch.zeros((), dtype=torch.float64, device=self._device), self._member.consumed
        while self._member.consumed < goal:
            total += self._step(self._member)
        return {"loss": (self._mean(total) / (goal - first)).cpu().numpy().reshape(1)}

    def evaluate(self, split: Split, slots: Sequence[int]) -> Metrics:
        """The mean loss on a split, of which every rank reads all."""
        if not slots:
            return {"loss": np.full(1, math.nan)}
        self._here(slots[0])
        self._module.eval()
        sums = torch.zeros(2, dtype=torch.float64, device=self._device)
        with torch.no_grad():
            for batch, weight in self._feed.evaluation(split):
                loss = self._loss_on(batch).double()
                sums += torch.stack([loss * weight, torch.full_like(loss, weight)])
        return {"loss": (sums[0] / sums[1]).cpu().numpy().reshape(1)}

    def _step(self, member: _Member) -> Tensor:
        seed, consumed = (torch.tensor([n], device=self._device) for n in (member.seed, member.consumed))
        draws = Draws(seed, consumed)
        batch = self._own(self._feed.batch(draws))
        self._optimizer.zero_grad(set_to_none=True)
        with _DRAWING:
            torch.manual_seed(int(draws.key(_DROPOUT)) + self._place.rank)  # others on each rank, the same each time
            loss = self._loss_on(batch)
            loss.backward()
        if self._clip_norm:
            nn.utils.clip_grad_norm_(self._module.parameters(), self._clip_norm)
        self._optimizer.step()
        member.age, member.consumed = member.age + 1, member.consumed + 1
        return loss.detach().double()

    def _put_into_effect(self) -> None:
        values: dict[str, Any] = self._table.get(0)
        (group,) = self._optimizer.param_groups
        group["lr"], group["weight_decay"] = values["lr"], values["weight_decay"]
        group["betas"] = values["beta1"], values["beta2"]
        self._clip_norm: float = values["clip_norm"]

    def _loss_on(self, batch: Batch) -> Tensor:
        """The loss, where it is one that ranks can share: they hear of each other when the module is called."""
        self._was_called = False
        loss: Tensor = self._loss(self._module, batch)
        if not self._was_called:
            mend = "call it as a whole, module(...), not its parts"
            raise TrainableError(f"gang loss is {self._owner.loss!r}, which did not call the module; {mend}")
        if loss.ndim:
            mend = "give the mean over the batch, a tensor without dimensions"
            raise TrainableError(f"gang loss is {self._owner.loss!r}, which gave {list(loss.shape)} values; {mend}")
        return loss

    def _note_call(self, *_: object) -> None:
        self._was_called = True

    def _check_shares(self) -> None:
        """Otherwise the mean over ranks would not be the mean over examples."""
        size = self._place.world_size
        if size > 1 and (found := num_examples(_first_batch(self._feed, self._device))) % size:
            mend = f"give batches of a multiple of {size}, or other hosts.ranks"
            raise TrainableError(
                f"gang feed is {self._owner.feed!r}, whose batch of {found} cannot be shared by {size} ranks; {mend}"
            )

    def _own(self, batch: Batch) -> Batch:
        """This rank's part of the one member's batch."""
        part = parts(batch, self._place.world_size)[self._place.rank]
        return part[0] if isinstance(part, Tensor) else tuple(tensor[0] for tensor in part)

    def _mean(self, value: Tensor) -> Tensor:
        if self._place.world_size > 1:
            dist.all_reduce(value)
        return value / self._place.world_size

    # -------------------------------------------------------------------------------------------------------- sharing

    def _shared(self, module: nn.Module) -> nn.Module:
        if self._place.world_size == 1:
            return module
        if self._owner.parallel == "ddp":
            return DistributedDataParallel(module)
        for unit in _units(module):
            fully_shard(unit)
        fully_shard(module)
        return module

    def _tensors(self) -> dict[str, Tensor]:
        """Everything that a member is, by name."""
        found: dict[str, Tensor] = {}
        for name, parameter in self._module.named_parameters():
            plain, state = name.removeprefix("module."), self._optimizer.state[parameter]
            found[f"params.{plain}"] = parameter.detach()
            found |= {f"adamw.{moment}.{plain}": state[moment] for moment in _MOMENTS}
            found.setdefault("adamw.step", state["step"])
        return found | {f"buffers.{name.removeprefix('module.')}": b for name, b in self._module.named_buffers()}

    def _fresh(self, seed: int) -> State:
        """A whole new member, the same on every rank."""
        with _DRAWING, torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed % 2**63)
            module = self._make().to(self._dtype)
        drawn = {f"params.{name}": parameter.detach() for name, parameter in module.named_parameters()}
        drawn |= {f"buffers.{name}": buffer for name, buffer in module.named_buffers()}
        shards = (
            Shard.whole(name, drawn[name] if name in drawn else torch.zeros(tensor.shape))
            for name, tensor in self._tensors().items()
        )
        return State(tuple(shards), 0, 0, seed)

    def _check(self, slot: int) -> None:
        if slot != 0:
            raise TrainableError(f"slot {slot} is not there; this stack has one")

    def _here(self, slot: int) -> _Member:
        self._check(slot)
        if self._member is None:
            raise TrainableError("slot 0 is empty; admit a member first")
        return self._member


def _units(module: nn.Module) -> Iterator[nn.Module]:
    """What is gathered as a whole: the children, but of lists and the like, which are never called, what they hold."""
    for child in module.children():
        if type(child).forward is nn.Module.forward:
            yield from _units(child)
        else:
            yield child


def _part(name: str, tensor: Tensor) -> Shard:
    """What this rank has of a tensor."""
    if not isinstance(tensor, DTensor):
        return Shard.whole(name, tensor)
    _, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return Shard(name, tensor.to_local(), tuple(tensor.shape), tuple(offset))
