"""How a member's state travels from one stack to another.

States travel packed: one flat buffer of bytes per dtype, seen through numpy, because Ray's object store moves numpy
buffers without copying and torch tensors at a tenth of the speed.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch

from pbt.errors import HostError
from trainables import Shard, State


class Withdrawn(Exception):
    """The state will not come, and whoever was to fetch it must forget its order: the brain gives it again."""


class Exchange(Protocol):
    """Where stacks leave states for each other. What is published stays until the brain drops it.

    Attributes:
        copies: Whether what is published is copied at once, so that a stack may lend its state.
    """

    copies: ClassVar[bool]

    def publish(self, token: str, state: State) -> None:
        """Make a state available."""

    def fetch(self, token: str) -> State:
        """Wait for a state and read it.

        Raises:
            Withdrawn: It will not come.
        """


class LocalExchange:
    """The exchange of hosts that share a process: of states, or of handles to them."""

    copies: ClassVar[bool] = False

    def __init__(self) -> None:
        self._states: dict[str, Any] = {}
        self._withdrawn: set[str] = set()
        self._changed = threading.Condition()
        self._is_closed = False

    def publish(self, token: str, state: Any) -> None:
        """Make a state available."""
        with self._changed:
            self._withdrawn.discard(token)
            self._states[token] = state
            self._changed.notify_all()

    def fetch(self, token: str) -> Any:
        """Wait for a state and read it.

        Raises:
            HostError: It is not there, and was withdrawn, or the exchange is closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: token in self._states or token in self._withdrawn or self._is_closed)
            if token in self._withdrawn:
                self._withdrawn.discard(token)
                raise HostError(f"the state of segment {token} was lost with its host before it was saved.")
            if token not in self._states:
                problem = f"the state of segment {token} was not published before the sweep ended"
                raise HostError(f"{problem}. `pbt resume` trains it again.")
            return self._states[token]

    def withdraw(self, token: str) -> None:
        """A state that is not there will not come: who waits for it, or is the next to do so, hears that."""
        with self._changed:
            if token not in self._states:
                self._withdrawn.add(token)
                self._changed.notify_all()

    def close(self) -> None:
        """Nothing more will be published: let nobody wait."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def drop(self, token: str) -> None:
        """Forget a state; one that is not there is forgotten already."""
        with self._changed:
            self._states.pop(token, None)

    def __contains__(self, token: str) -> bool:
        """Whether a state is available."""
        return token in self._states

    def __len__(self) -> int:
        """Number of states available."""
        return len(self._states)


@dataclass(frozen=True, slots=True)
class PackedShard:
    """Where a shard lies in the packed buffers: its dtype's buffer, from byte `start`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    global_shape: tuple[int, ...]
    offset: tuple[int, ...]
    start: int


@dataclass(frozen=True, slots=True)
class Packed:
    """A state as flat byte buffers, one per dtype (`float32` -> `(num_bytes,)` uint8)."""

    buffers: Mapping[str, np.ndarray]
    shards: tuple[PackedShard, ...]
    age: int
    consumed: int
    seed: int


class Staging:
    """Memory that one state after another is packed into: to get fresh memory takes as long as to fill it."""

    def __init__(self) -> None:
        self._buffers: dict[torch.dtype, torch.Tensor] = {}

    def take(self, dtype: torch.dtype, size: int) -> torch.Tensor:
        """So many elements; what they held is lost."""
        known = self._buffers.get(dtype)
        if known is None or len(known) < size:
            known = self._buffers[dtype] = torch.empty(size, dtype=dtype)
        return known[:size]


def pack(state: State, staging: Staging | None = None) -> Packed:
    """Pack a state; tensors on an accelerator are brought to the host, one transfer per dtype.

    Args:
        state: Which.
        staging: Where it is packed: what was packed there before is lost. None takes fresh memory.
    """
    staging = staging or Staging()
    groups: dict[str, list[torch.Tensor]] = {}
    sizes: dict[str, int] = {}
    places = []
    for shard in state.shards:
        dtype = str(shard.tensor.dtype).removeprefix("torch.")
        flat = shard.tensor.detach().reshape(-1)
        start = sizes.get(dtype, 0)
        shape = tuple(shard.tensor.shape)
        places.append(PackedShard(shard.name, dtype, shape, shard.global_shape, shard.offset, start))
        groups.setdefault(dtype, []).append(flat)
        sizes[dtype] = start + flat.numel() * flat.element_size()
    buffers = {dtype: _joined(parts, staging).view(torch.uint8).numpy() for dtype, parts in groups.items()}
    return Packed(buffers, tuple(places), state.age, state.consumed, state.seed)


def _joined(parts: list[torch.Tensor], staging: Staging) -> torch.Tensor:
    whole = staging.take(parts[0].dtype, sum(part.numel() for part in parts))
    if parts[0].device.type == "cpu":
        return torch.cat(parts, out=whole)
    return whole.copy_(torch.cat(parts))


def unpack(packed: Packed) -> State:
    """The state again, as views into the buffers. They may be read-only: copy from them, do not write to them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        buffers = {name: torch.from_numpy(buffer) for name, buffer in packed.buffers.items()}
    return State(
        shards=tuple(_shard(place, buffers[place.dtype]) for place in packed.shards),
        age=packed.age,
        consumed=packed.consumed,
        seed=packed.seed,
    )


def _shard(place: PackedShard, buffer: torch.Tensor) -> Shard:
    dtype: torch.dtype = getattr(torch, place.dtype)
    num_bytes = int(np.prod(place.shape, dtype=np.int64)) * dtype.itemsize
    if num_bytes == 0:  # a view of no bytes has no stride to go by
        return Shard(place.name, torch.empty(place.shape, dtype=dtype), place.global_shape, place.offset)
    tensor = buffer[place.start : place.start + num_bytes].view(dtype).reshape(place.shape)
    return Shard(place.name, tensor, place.global_shape, place.offset)
