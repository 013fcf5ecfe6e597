"""Contiguous storage for the tensors of a stack's members.

One flat buffer per kind (parameters, first moments, ...). Each tensor is a contiguous `[capacity, *shape]` segment of
it, so that stacked operations see plain contiguous tensors and a whole kind can be moved or measured in one piece.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

# Segments begin on 64-byte boundaries even in float32, which vector loads and memory-mapped checkpoints like.
_ALIGNMENT = 16


class Arena:
    """One flat buffer, seen as one `[capacity, *shape]` tensor per name.

    Attributes:
        flat: The buffer, zero at first.
        tensors: Views of it by name, in the order given.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        capacity: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        sizes = {name: capacity * math.prod(shape) for name, shape in shapes.items()}
        starts, total = {}, 0
        for name, size in sizes.items():
            starts[name] = total
            total += -(-size // _ALIGNMENT) * _ALIGNMENT
        self.flat = torch.zeros(total, dtype=dtype, device=device)
        self.tensors: dict[str, Tensor] = {
            name: self.flat[starts[name] : starts[name] + sizes[name]].view(capacity, *shape)
            for name, shape in shapes.items()
        }
        self._views: dict[int, list[Tensor]] = {}

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot's tensors, without what alignment adds."""
        return sum(tensor[0].nbytes for tensor in self.tensors.values())

    def views(self, slot: int) -> list[Tensor]:
        """One slot's tensors in place; made once, as making them takes longer than copying what is small."""
        if slot not in self._views:
            self._views[slot] = [tensor[slot] for tensor in self.tensors.values()]
        return self._views[slot]

    def read(self, slots: Tensor) -> dict[str, Tensor]:
        """Copy out the rows of some slots: name -> `[len(slots), *shape]`."""
        return {name: t.index_select(0, slots) for name, t in self.tensors.items()}

    def write(self, slots: Tensor, rows: Mapping[str, Tensor]) -> None:
        """Put rows back, as `read` returned them, into some slots."""
        for name, tensor in self.tensors.items():
            tensor.index_copy_(0, slots, rows[name])

    def lend(self, slot: int) -> dict[str, Tensor]:
        """One slot's tensors in place, without the capacity dimension."""
        return dict(zip(self.tensors, self.views(slot), strict=True))

    def scatter(self, slot: int, values: Mapping[str, Tensor]) -> None:
        """Put one slot's tensors in place, as `lend` showed them."""
        for name, tensor in self.tensors.items():
            tensor[slot].copy_(values[name])


def copy_slots(arenas: Iterable[Arena], src: Sequence[int], dst: Sequence[int]) -> None:
    """Copy slots `src[i]` onto `dst[i]` in every arena; all reads happen before all writes."""
    arenas = tuple(arenas)
    if set(src).isdisjoint(dst):  # nothing is read that is written: straight across, in one call for each arena
        for arena in arenas:
            torch._foreach_copy_(
                [view for slot in dst for view in arena.views(slot)],
                [view for slot in src for view in arena.views(slot)],
            )
        return
    device = arenas[0].flat.device
    sources, targets = (torch.tensor(list(slots), dtype=torch.int64, device=device) for slots in (src, dst))
    rows = [arena.read(sources) for arena in arenas]
    for arena, values in zip(arenas, rows, strict=True):
        arena.write(targets, values)
