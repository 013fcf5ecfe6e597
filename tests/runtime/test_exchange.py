"""How states travel: packed to bytes without loss, and kept until they are dropped."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pbt.errors import HostError
from pbt.runtime.exchange import LocalExchange, Staging, pack, unpack
from tests.examples import examples
from tests.runtime.miniature import in_time
from trainables import Shard, State

DTYPES = [
    torch.float32,
    torch.float64,
    torch.bfloat16,
    torch.float16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
]
SHAPES = [(), (0,), (1,), (3,), (2, 0, 4), (2, 3), (1, 2, 2)]


def make_state(*tensors, age=5, consumed=7, seed=2**61):
    shards = [Shard.whole(f"t.{i}", tensor) for i, tensor in enumerate(tensors)]
    return State(tuple(shards), age, consumed, seed)


def make_tensor(dtype, shape, seed=0):
    """A tensor of random bits, NaNs of all kinds included."""
    rng = np.random.default_rng(seed)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = rng.integers(0, 2 if dtype == torch.bool else 256, size, dtype=np.uint8)
    return torch.from_numpy(raw).view(dtype).reshape(shape) if size else torch.empty(shape, dtype=dtype)


def bits(tensor):
    """A tensor's bytes: NaN equals itself, and 0.0 is not -0.0."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def same(state, other):
    """Whether two states are equal, bit for bit."""
    assert (state.age, state.consumed, state.seed) == (other.age, other.consumed, other.seed)
    for one, two in zip(state.shards, other.shards, strict=True):
        assert (one.name, one.global_shape, one.offset) == (two.name, two.global_shape, two.offset)
        assert (one.tensor.dtype, one.tensor.shape) == (two.tensor.dtype, two.tensor.shape)
        assert bits(one.tensor) == bits(two.tensor)
    return True


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_tensor_comes_back_bit_for_bit(dtype, shape):
    """Of every dtype and shape, empty ones and scalars included."""
    state = make_state(make_tensor(dtype, shape))
    assert same(state, unpack(pack(state)))


@examples(50)
@given(st.lists(st.tuples(st.sampled_from(DTYPES), st.sampled_from(SHAPES)), max_size=8), st.integers(0, 99))
def test_a_state_comes_back_bit_for_bit(kinds, seed):
    """Any mixture of tensors, in their order; one buffer for each dtype, its bytes once."""
    state = make_state(*(make_tensor(dtype, shape, seed + i) for i, (dtype, shape) in enumerate(kinds)))
    packed = pack(state)
    assert same(state, unpack(packed))
    assert len(packed.buffers) == len({dtype for dtype, _ in kinds})
    assert sum(buffer.nbytes for buffer in packed.buffers.values()) == sum(
        shard.tensor.nbytes for shard in state.shards
    )
    assert {(buffer.dtype, buffer.ndim) for buffer in packed.buffers.values()} <= {(np.dtype(np.uint8), 1)}


def test_buffers_may_be_read_only():
    """As those in the object store are; reading them gives no warning."""
    state = make_state(make_tensor(torch.float32, (3,)), make_tensor(torch.int64, ()))
    packed = pack(state)
    for buffer in packed.buffers.values():
        buffer.flags.writeable = False
    assert same(state, unpack(packed))


def test_unpacking_copies_nothing():
    """The tensors are views into the buffers."""
    packed = pack(make_state(make_tensor(torch.float32, (3,)), make_tensor(torch.float32, (2, 2))))
    start = packed.buffers["float32"].ctypes.data
    assert [shard.tensor.data_ptr() - start for shard in unpack(packed).shards] == [0, 12]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6.0).reshape(2, 3).T,
        torch.arange(6.0)[::2],
        torch.ones(1).expand(4),
        torch.arange(3.0, requires_grad=True),
    ],
    ids=["transposed", "strided", "expanded", "with-grad"],
)
def test_views_are_packed_as_they_look(tensor):
    """Strides and gradients do not travel."""
    assert same(make_state(tensor), unpack(pack(make_state(tensor))))


def test_what_is_packed_no_longer_changes():
    """A member that trains on does not change what it published."""
    tensor = torch.zeros(3)
    packed = pack(make_state(tensor))
    tensor += 1.0
    assert unpack(packed).shards[0].tensor.tolist() == [0.0, 0.0, 0.0]


@examples(50)
@given(st.lists(st.lists(st.tuples(st.sampled_from(DTYPES), st.sampled_from(SHAPES)), max_size=5), max_size=4))
def test_one_staging_does_for_one_state_after_another(states):
    """Larger ones or smaller, of the same dtypes or others."""
    staging = Staging()
    for number, kinds in enumerate(states):
        state = make_state(*(make_tensor(dtype, shape, 10 * number + i) for i, (dtype, shape) in enumerate(kinds)))
        assert same(state, unpack(pack(state, staging)))


def test_memory_to_pack_into_is_used_again():
    """By the next state that fits: fresh memory takes long to get."""
    staging = Staging()
    first, second = (pack(make_state(torch.zeros(size)), staging).buffers["float32"] for size in (8, 4))
    assert second.ctypes.data == first.ctypes.data


def test_shards_keep_their_place():
    """A part of a larger tensor stays that part."""
    shard = Shard("w", torch.ones(2, 3), (8, 3), (4, 0))
    state = unpack(pack(State((shard,), 1, 2, 3)))
    assert (state.shards[0].global_shape, state.shards[0].offset) == ((8, 3), (4, 0))
    assert (state.age, state.consumed, state.seed) == (1, 2, 3)


# --- the exchange of one process


def test_a_state_stays_until_it_is_dropped():
    """However often it is read: who else reads it is for the brain to know."""
    exchange = LocalExchange()
    exchange.publish("a", "state")
    for _ in range(3):
        assert "state" == exchange.fetch("a")
    assert "a" in exchange
    exchange.drop("a")
    assert "a" not in exchange
    assert 0 == len(exchange)


def test_dropping_what_is_not_there_changes_nothing():
    """It may have been dropped before, or never published."""
    exchange = LocalExchange()
    exchange.publish("a", "state")
    exchange.drop("b")
    exchange.drop("a")
    exchange.drop("a")
    assert 0 == len(exchange)


def test_what_is_published_again_replaces_what_was_there():
    """As after a recovery, which brings the same state under the same token."""
    exchange = LocalExchange()
    exchange.publish("a", "lost")
    exchange.publish("a", "found")
    assert (1, "found") == (len(exchange), exchange.fetch("a"))


def test_tokens_do_not_mix():
    """Each token has its own state, and goes on its own."""
    exchange = LocalExchange()
    exchange.publish("a", "A")
    exchange.publish("b", "B")
    assert ["B", "A", "B"] == [exchange.fetch("b"), exchange.fetch("a"), exchange.fetch("b")]
    exchange.drop("a")
    assert (False, True) == ("a" in exchange, "b" in exchange)


def test_readers_wait_for_what_is_not_there_yet():
    """Several threads wait for one state, and each gets it."""
    exchange = LocalExchange()
    got = []
    readers = [threading.Thread(target=lambda: got.append(exchange.fetch("a")), daemon=True) for _ in range(4)]
    for reader in readers:
        reader.start()
    exchange.publish("b", "other")
    exchange.publish("a", "state")
    in_time(20.0, lambda: [reader.join() for reader in readers])
    assert ["state"] * 4 == got


def test_who_waits_for_a_state_is_let_go_when_the_exchange_closes():
    """What is there can still be read."""
    exchange = LocalExchange()
    exchange.publish("1:0", "state")
    exchange.close()
    assert "state" == exchange.fetch("1:0")
    with pytest.raises(HostError, match="the state of segment 2:0 was not published before the sweep ended"):
        in_time(20.0, lambda: exchange.fetch("2:0"))
