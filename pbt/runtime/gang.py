"""A gang: several processes that share one member, one of which is its host.

To the brain a gang is a host like any other, and to the host a stack of a gang is a stack like any other: what it is
told is told to all ranks at once, and a member's state is put together from what all of them give. Where one rank is
lost, what the others hold is of no use: the gang ends, and Tune starts all of it anew.
"""

from __future__ import annotations

import dataclasses
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from pbt.runtime.exchange import Packed, pack, unpack
from pbt.runtime.orders import Leaves, Reading
from pbt.runtime.telemetry import Telemetry, together
from trainables import Place, Stack, State, Trainable
from trainables.base import Hparams, HparamValue, Metrics, Split

#: How long a rank waits for the others in the middle of a step. One that died is noticed at once.
_PATIENCE = timedelta(minutes=30)
#: Seconds that others are given to say what went wrong once this rank has failed.
_LAST_WORDS_S = 10.0


def connect(address: str, place: Place) -> None:
    """Join the process group of a gang.

    Args:
        address: `HOST:PORT` of rank 0.
        place: Device, rank and number of ranks.
    """
    dist.init_process_group(
        "nccl" if place.device.startswith("cuda") else "gloo",
        init_method=f"tcp://{address}",
        rank=place.rank,
        world_size=place.world_size,
        timeout=_PATIENCE,
    )


class Rank:
    """One of the others: an actor that does with its stacks what the host does with its own."""

    def __init__(self, trainable: Trainable, place: Place, share: float) -> None:
        self._trainable, self._place = trainable, place
        self._telemetry = Telemetry(place, share=share, node=ray.get_runtime_context().get_node_id())
        self._stacks: dict[int, Stack] = {}
        if torch.device(place.device).type == "cpu":
            torch.set_num_threads(1)

    def connect(self, address: str) -> None:
        """Join the process group."""
        connect(address, self._place)

    def build(self, stack: int, bucket: str, place: Place) -> None:
        """Build a stack."""
        with _or_end():
            self._stacks[stack] = self._trainable.build(bucket, 1, _at_rank(place, self._place))

    def drop(self, stack: int) -> None:
        """Forget a stack."""
        self._stacks.pop(stack, None)

    def read(self) -> Reading:
        """What its device tells."""
        return self._telemetry.take()

    def admit(self, stack: int, options: Mapping[str, Any], packed: Packed | None) -> None:
        """Admit a member to a stack."""
        with _or_end():
            self._stacks[stack].admit(**options, state=None if packed is None else unpack(packed))

    def call(self, stack: int, name: str, args: Sequence[Any], options: Mapping[str, Any]) -> Packed | None:
        """Call another method of a stack; answers with the state, packed, if there is one."""
        with _or_end():
            found = getattr(self._stacks[stack], name)(*args, **options)
        return pack(found) if isinstance(found, State) else None


@contextmanager
def _or_end() -> Iterator[None]:
    """After an exception this process ends, once that has been told: the others would wait for it in vain."""
    try:
        yield
    except BaseException:
        threading.Timer(1.0, os._exit, (1,)).start()
        raise


def _at_rank(place: Place, own: Place) -> Place:
    return dataclasses.replace(place, rank=own.rank, world_size=own.world_size)


class Gang:
    """All ranks of a gang, as rank 0 knows them.

    Args:
        trainable: What is trained.
        place: Of rank 0, with the number of ranks.
        group: A bundle for each rank; rank 0 is in the first.
        each: What a rank takes.
    """

    def __init__(self, trainable: Trainable, place: Place, group: PlacementGroup, each: Mapping[str, float]) -> None:
        self._trainable, self._place = trainable, place
        share = each.get("GPU", 1.0)
        self._telemetry = Telemetry(place, share=share, node=ray.get_runtime_context().get_node_id())
        actor = ray.remote(Rank)
        self._others = [
            actor.options(
                num_cpus=each.get("CPU", 0),
                num_gpus=each.get("GPU", 0),
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank),
            ).remote(trainable, dataclasses.replace(place, rank=rank), share)
            for rank in range(1, place.world_size)
        ]
        address = f"{ray.util.get_node_ip_address()}:{_free_port()}"
        joining = [other.connect.remote(address) for other in self._others]
        connect(address, place)
        _wait(joining)

    def build(self, stack: int, bucket: str, place: Place) -> GangStack:
        """A stack of one member on all ranks."""
        building = [other.build.remote(stack, bucket, place) for other in self._others]
        mine = self._trainable.build(bucket, 1, _at_rank(place, self._place))
        _wait(building)
        return GangStack(self, stack, mine)

    def drop(self, stack: int) -> None:
        """Have the others forget a stack."""
        for other in self._others:
            other.drop.remote(stack)

    def take(self) -> Reading:
        """What the devices of all ranks tell."""
        others = [other.read.remote() for other in self._others]
        return together([self._telemetry.take(), *_wait(others)])

    def admit(self, stack: int, mine: Callable[[], None], options: Mapping[str, Any], state: State | None) -> None:
        """Admit a member on all ranks."""
        packed = None if state is None else ray.put(pack(state))
        _both([other.admit.remote(stack, options, packed) for other in self._others], mine)

    def call(self, stack: int, mine: Stack, name: str, *args: Any, **options: Any) -> tuple[Any, list[Packed]]:
        """Call a method of a stack on all ranks; returns what it returned here, and the states it returned elsewhere.

        Raises:
            Leaves: A rank is lost.
            Exception: What a rank has raised.
        """
        begun = [other.call.remote(stack, name, args, options) for other in self._others]
        return _both(begun, lambda: getattr(mine, name)(*args, **options))


def _both(begun: Sequence[Any], mine: Callable[[], Any]) -> tuple[Any, list[Any]]:
    """Do rank 0's part while the others do theirs. What went wrong there may be why it went wrong here: it is told."""
    try:
        result = mine()
    except Exception:
        with suppress(ray.exceptions.GetTimeoutError):
            _wait(begun, timeout=_LAST_WORDS_S)
        raise
    return result, _wait(begun)


def _wait(begun: Sequence[Any], timeout: float | None = None) -> list[Any]:
    """What the others answer."""
    try:
        found: list[Any] = ray.get(list(begun), timeout=timeout)
    except ray.exceptions.RayActorError as error:
        lost = f"a process of its gang was lost (rank {_lost_rank(begun)})"
        raise Leaves(f"{lost}, and all of them are started anew") from error
    except ray.exceptions.RayTaskError as error:
        raise (error.cause or error) from error
    return found


def _lost_rank(begun: Sequence[Any]) -> int:
    """The first of the others that does not answer because it is gone."""
    for rank, answer in enumerate(begun, start=1):
        try:
            ray.get(answer, timeout=0)
        except ray.exceptions.RayActorError:
            return rank
        except ray.exceptions.RayError:  # no answer yet, or another's error
            continue
    raise ValueError("all are there")


@dataclass(slots=True)
class GangStack:
    """A stack of one member on all ranks of a gang; keeps the contract of a stack.

    Attributes:
        gang: The ranks.
        number: Of the stack.
        mine: Rank 0's part.
    """

    gang: Gang
    number: int
    mine: Stack
    capacity: int = 1

    def admit(
        self, slot: int, hparams: Hparams, seed: int, state: State | None = None, consumed: int | None = None
    ) -> None:
        """Put a member in: every rank takes its part."""
        options = {"slot": slot, "hparams": dict(hparams), "seed": seed, "consumed": consumed}
        self.gang.admit(self.number, lambda: self.mine.admit(slot, hparams, seed, state, consumed), options, state)

    def evict(self, slot: int) -> State:
        """The member's state, of all ranks."""
        return self._state("evict", slot)

    def state(self, slot: int) -> State:
        """The member's state, of all ranks."""
        return self._state("state", slot)

    def run(self, until: Sequence[int]) -> Metrics:
        """Train."""
        metrics: Metrics = self._call("run", until)
        return metrics

    def evaluate(self, split: Split, slots: Sequence[int]) -> Metrics:
        """Evaluate."""
        metrics: Metrics = self._call("evaluate", split, slots)
        return metrics

    def hparams(self, slot: int) -> dict[str, HparamValue]:
        """What is in effect on rank 0."""
        return self.mine.hparams(slot)

    def set_hparams(self, slots: Sequence[int], **values: Sequence[HparamValue]) -> None:
        """Change hyperparameters."""
        self._call("set_hparams", slots, **values)

    def copy(self, src: Sequence[int], dst: Sequence[int]) -> None:
        """Copy within the stack."""
        self._call("copy", src, dst)

    def progress(self, slot: int) -> tuple[int, int]:
        """`(age, consumed)` of the member."""
        return self.mine.progress(slot)

    def _call(self, name: str, *args: Any, **options: Any) -> Any:
        return self.gang.call(self.number, self.mine, name, *args, **options)[0]

    def _state(self, name: str, slot: int) -> State:
        state, others = self.gang.call(self.number, self.mine, name, slot)
        shards = [shard for packed in others for shard in unpack(packed).shards]
        return dataclasses.replace(state, shards=(*state.shards, *shards))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
