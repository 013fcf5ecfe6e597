from itertools import pairwise

import pytest
import torch

from trainables.core.arena import Arena, copy_slots

SHAPES = {"matrix": (3, 5), "vector": (7,), "scalar": ()}


def _arena(capacity=4):
    arena = Arena(SHAPES, capacity, torch.float64, torch.device("cpu"))
    for tensor in arena.tensors.values():
        tensor.copy_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)))
    return arena


def _copied(lent):
    return {name: tensor.clone() for name, tensor in lent.items()}


def test_tensors_are_contiguous_segments_of_one_buffer():
    """Each tensor is `[capacity, *shape]`, contiguous, aligned to 16 elements, inside the flat buffer, apart."""
    arena = _arena()
    base, spans = arena.flat.data_ptr(), []
    for name, tensor in arena.tensors.items():
        assert tensor.shape == (4, *SHAPES[name])
        assert tensor.is_contiguous()
        start = (tensor.data_ptr() - base) // 8
        assert start % 16 == 0
        spans.append((start, start + tensor.numel()))
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert spans[-1][1] <= arena.flat.numel()


def test_views_and_buffer_are_one():
    """Writing the buffer writes the tensors."""
    arena = _arena()
    arena.flat.fill_(3.0)
    assert all((tensor == 3.0).all() for tensor in arena.tensors.values())


@pytest.mark.parametrize(
    ("src", "dst", "after"),
    [
        ([0, 1, 2], [1, 2, 0], (2, 0, 1, 3)),  # a rotation
        ([3, 3], [0, 1], (3, 3, 2, 3)),  # nothing is read that is written
        ([0], [0], (0, 1, 2, 3)),
    ],
)
def test_copy_reads_before_it_writes(src, dst, after):
    """In all arenas; slots that are no target are untouched."""
    arenas = [_arena(), _arena()]
    before = [[_copied(arena.lend(slot)) for slot in range(4)] for arena in arenas]
    copy_slots(arenas, src, dst)
    for arena, rows in zip(arenas, before, strict=True):
        for slot, source in enumerate(after):
            for name, tensor in arena.lend(slot).items():
                assert torch.equal(tensor, rows[source][name])


def test_a_slots_views_are_its_tensors_in_place():
    """Kept, and true after the buffer has changed."""
    arena = _arena()
    views = arena.views(2)
    arena.flat.fill_(5.0)
    assert arena.views(2) is views
    for view, tensor in zip(views, arena.tensors.values(), strict=True):
        assert view.data_ptr() == tensor[2].data_ptr()
        assert torch.equal(view, tensor[2])


def test_scatter_undoes_lend():
    """A slot copied out, zeroed and scattered holds what it held; the others never change."""
    arena = _arena()
    whole, row = arena.flat.clone(), _copied(arena.lend(2))
    arena.scatter(2, {name: torch.zeros_like(t) for name, t in row.items()})
    assert all((tensor[2] == 0).all() for tensor in arena.tensors.values())
    arena.scatter(2, row)
    assert torch.equal(arena.flat, whole)


def test_write_undoes_read():
    """Rows of several slots read, zeroed and written are as they were."""
    arena, slots = _arena(), torch.tensor([3, 1])
    whole, rows = arena.flat.clone(), arena.read(slots)
    arena.write(slots, {name: torch.zeros_like(t) for name, t in rows.items()})
    assert not torch.equal(arena.flat, whole)
    arena.write(slots, rows)
    assert torch.equal(arena.flat, whole)
