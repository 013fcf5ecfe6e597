"""Tensors cut into parts, and put together from parts that were cut otherwise."""

from __future__ import annotations

import math
from itertools import pairwise, product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainables import Shard, State, TrainableError
from trainables.core.shards import fill, is_whole, whole

SHAPES = [(), (1,), (5,), (4, 3), (2, 1, 5), (0, 3)]


@st.composite
def cuts(draw, shape):
    """A tensor's shape, cut along every dimension somewhere."""
    edges = [sorted({0, size, *draw(st.sets(st.integers(0, size), max_size=3))}) for size in shape]
    return [tuple(zip(*cell, strict=True)) for cell in product(*(list(pairwise(edge)) or [(0, 0)] for edge in edges))]


def pieces_of(tensor, cells, name="w"):
    """Its parts, by where they begin and end."""
    found = []
    for cell in cells:
        starts, ends = cell if cell else ((), ())
        part = tensor[tuple(slice(start, end) for start, end in zip(starts, ends, strict=True))]
        found.append(Shard(name, part.clone(), tuple(tensor.shape), tuple(starts)))
    return found


def numbered(shape):
    """A tensor all of whose elements differ."""
    return torch.arange(float(math.prod(shape))).reshape(shape)


@given(data=st.data(), shape=st.sampled_from(SHAPES))
def test_a_tensor_is_put_together_however_it_was_cut(data, shape):
    """Into any other parts, from its own in any order."""
    tensor = numbered(shape)
    pieces = data.draw(st.permutations(pieces_of(tensor, data.draw(cuts(shape)))))
    for wanted in pieces_of(tensor, data.draw(cuts(shape))):
        target = torch.full_like(wanted.tensor, -1.0)
        fill("w", target, wanted.offset, pieces)
        assert torch.equal(wanted.tensor, target)


@given(data=st.data(), shape=st.sampled_from([shape for shape in SHAPES if math.prod(shape)]))
def test_what_is_missing_is_named(data, shape):
    """And how much of it."""
    pieces = pieces_of(numbered(shape), data.draw(cuts(shape)))
    lost = pieces.pop(data.draw(st.integers(0, len(pieces) - 1)))
    problem = f"lacks {lost.tensor.numel()} of {math.prod(shape)} numbers of 'w'"
    with pytest.raises(TrainableError, match=problem):
        fill("w", torch.empty(shape), (0,) * len(shape), pieces)


@given(data=st.data())
def test_a_state_of_many_ranks_becomes_one_of_one(data):
    """Every tensor in one piece, names in their order; the counters stay."""
    tensors = {f"t.{i}": numbered(shape) + i for i, shape in enumerate(SHAPES)}
    shards = [shard for name, t in tensors.items() for shard in pieces_of(t, data.draw(cuts(t.shape)), name)]
    found = whole(State(tuple(shards), 3, 5, 7))
    assert (3, 5, 7) == (found.age, found.consumed, found.seed)
    assert list(tensors) == [shard.name for shard in found.shards]
    for shard in found.shards:
        assert is_whole(shard)
        assert torch.equal(tensors[shard.name], shard.tensor)


def test_a_state_that_is_whole_is_left_alone():
    """Nothing is copied."""
    state = State(tuple(pieces_of(numbered((4, 3)), [((0, 0), (4, 3))])), 0, 0, 0)
    assert whole(state) is state
