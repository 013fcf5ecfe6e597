"""Parts of tensors: what each rank of a gang holds, and how that is put together from parts that were cut otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from trainables.base import Shard, State
from trainables.errors import TrainableError


def fill(name: str, target: Tensor, offset: Sequence[int], pieces: Iterable[Shard]) -> None:
    """Fill a part of a tensor from others, however these were cut.

    Args:
        name: Of the tensor, for people.
        target: The part.
        offset: Where it begins in the whole.
        pieces: Parts of the same tensor that do not overlap, in any order.

    Raises:
        TrainableError: They leave some of it out.
    """
    missing = target.numel()
    for piece in pieces:
        if (shared := _shared(target.shape, offset, piece)) is not None:
            into, out_of = shared
            target[into].copy_(piece.tensor[out_of])
            missing -= target[into].numel()
    if missing:
        problem = f"the state lacks {missing} of {target.numel()} numbers of {name!r}"
        raise TrainableError(f"{problem}; admit one of the same model, of all its ranks")


def _shared(
    shape: Sequence[int], offset: Sequence[int], piece: Shard
) -> tuple[tuple[slice, ...], tuple[slice, ...]] | None:
    """What a part and a piece have in common, in the coordinates of each; None if nothing."""
    into, out_of = [], []
    for size, start, other_size, other_start in zip(shape, offset, piece.tensor.shape, piece.offset, strict=True):
        first, end = max(start, other_start), min(start + size, other_start + other_size)
        if first >= end:
            return None
        into.append(slice(first - start, end - start))
        out_of.append(slice(first - other_start, end - other_start))
    return tuple(into), tuple(out_of)


def by_name(state: State) -> Mapping[str, list[Shard]]:
    """The parts of every tensor."""
    found: dict[str, list[Shard]] = {}
    for shard in state.shards:
        found.setdefault(shard.name, []).append(shard)
    return found


def is_whole(shard: Shard) -> bool:
    """Whether it is all of its tensor."""
    return tuple(shard.tensor.shape) == tuple(shard.global_shape)


def copied(state: State) -> State:
    """The state with tensors of its own."""
    return replace(state, shards=tuple(replace(shard, tensor=shard.tensor.clone()) for shard in state.shards))


def whole(state: State) -> State:
    """The state with every tensor in one piece, as a stack of one process takes it."""
    if all(map(is_whole, state.shards)):
        return state
    return replace(state, shards=tuple(_joined(name, pieces) for name, pieces in by_name(state).items()))


def _joined(name: str, pieces: Sequence[Shard]) -> Shard:
    first = pieces[0]
    if is_whole(first):
        return first
    found = Shard.whole(name, torch.empty(first.global_shape, dtype=first.tensor.dtype, device=first.tensor.device))
    fill(name, found.tensor, found.offset, pieces)
    return found
