"""The checkpoint store: bit-exact, named after its contents, whole or not there, and checked when read."""

import hashlib
import json
import re

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pbt.errors import StorageError
from pbt.runtime.checkpoints import CheckpointStore
from pbt.runtime.exchange import pack, unpack
from tests.runtime.test_exchange import DTYPES, SHAPES, make_state, make_tensor, same
from trainables import Place, Quadratic, Shard, State


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "checkpoints")


def one(store, **counters):
    """A small checkpoint."""
    state = make_state(make_tensor(torch.float32, (4,)), make_tensor(torch.int64, ()), **counters)
    return state, store.save(state, {"member": 3, "hparams": {"lr": 0.1}})


def raised(store, digest):
    """The message of loading a checkpoint that cannot be loaded."""
    with pytest.raises(StorageError) as error:
        store.load(digest)
    return str(error.value)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(DTYPES), st.sampled_from(SHAPES)), max_size=6), st.integers(0, 99))
def test_a_state_comes_back_bit_for_bit(tmp_path_factory, kinds, seed):
    """Any mixture of tensors, in their order, with its counters; as it was, or as it arrives packed."""
    state = make_state(*(make_tensor(dtype, shape, seed + i) for i, (dtype, shape) in enumerate(kinds)))
    store = CheckpointStore(tmp_path_factory.mktemp("checkpoints"))
    direct, arrived = (store.save(given_, {}) for given_ in (state, unpack(pack(state))))
    assert same(state, store.load(direct.digest))
    assert direct == arrived


def test_a_stack_goes_on_from_a_checkpoint_as_if_nothing_happened(store):
    """Saved, loaded and admitted elsewhere, a member trains on bit for bit."""
    trainable = Quadratic()
    stacks = [trainable.build(trainable.bucket({}), 1, Place(compile="never")) for _ in range(2)]
    hparams = {"h0": 0.7, "h1": 0.2, "lr": 0.03}
    stacks[0].admit(0, hparams, seed=5)
    stacks[0].run([20])
    saved = store.save(stacks[0].state(0), {})
    stacks[1].admit(0, hparams, seed=5, state=store.load(saved.digest))
    for stack in stacks:
        stack.run([50])
    assert same(stacks[0].state(0), stacks[1].state(0))


def test_what_is_written(store):
    """Plain safetensors under the hash of its bytes, and beside it what people want to know, as JSON."""
    state, saved = one(store)
    data = saved.path.read_bytes()
    assert saved.digest == hashlib.sha256(data).hexdigest() == saved.path.stem
    assert saved.size_bytes == len(data)
    tensors = safetensors.torch.load(data)
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {"t.0": torch.float32, "t.1": torch.int64}
    facts = json.loads(saved.path.with_suffix(".json").read_text())
    assert (facts["age"], facts["consumed"], facts["seed"]) == (state.age, state.consumed, state.seed)
    assert facts["about"] == {"member": 3, "hparams": {"lr": 0.1}}
    assert sorted(path.suffix for path in saved.path.parent.iterdir()) == [".json", ".safetensors"]


def test_equal_states_are_stored_once(store):
    """The same contents have the same name, other contents another."""
    first, again = one(store)[1], one(store)[1]
    assert first == again
    other = store.save(make_state(make_tensor(torch.float32, (4,), seed=1)), {})
    assert other.digest != first.digest
    assert len(list(first.path.parent.iterdir())) == 4


@pytest.mark.parametrize("counters", [{"seed": 1}, {"age": 6}, {"consumed": 8}])
def test_members_with_equal_weights_keep_their_own_counters(store, counters):
    """A receiver's weights are its donor's until it trains; saving it leaves the donor's checkpoint as it was."""
    state, saved = one(store)
    other, saved_too = one(store, **counters)
    assert same(state, store.load(saved.digest))
    assert same(other, store.load(saved_too.digest))


def test_a_checkpoint_without_its_json_does_not_exist(store):
    """The tensors are written first: if the process dies in between, there is no checkpoint."""
    _, saved = one(store)
    saved.path.with_suffix(".json").unlink()
    assert raised(store, saved.digest).startswith(f"cannot read checkpoint {saved.path}: No such file")


def test_a_process_that_dies_while_saving_leaves_nothing_visible(store, monkeypatch):
    """Killed between the two files, the store has no such checkpoint, and saving again makes it whole."""
    from pbt.runtime import checkpoints

    write = checkpoints.write_atomically

    def die(path, data):
        if path.suffix == ".json":
            raise KeyboardInterrupt
        write(path, data)

    monkeypatch.setattr(checkpoints, "write_atomically", die)
    with pytest.raises(KeyboardInterrupt):
        one(store)
    monkeypatch.undo()
    (left,) = store._folder.iterdir()
    assert raised(store, left.stem).startswith("cannot read checkpoint")
    state, saved = one(store)
    assert same(state, store.load(saved.digest))


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 60, -1])
def test_a_truncated_checkpoint_is_named(store, kept):
    """However little is left of it."""
    _, saved = one(store)
    saved.path.write_bytes(saved.path.read_bytes()[:kept])
    assert raised(store, saved.digest) == f"checkpoint {saved.path} is damaged: its contents do not match its name."


def test_any_flipped_bit_is_noticed(store):
    """In every byte of the file."""
    _, saved = one(store)
    data = saved.path.read_bytes()
    for position in range(len(data)):
        saved.path.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
        assert "is damaged" in raised(store, saved.digest)


@pytest.mark.parametrize("text", ["", "{", "null", "\x00", '{"age": 6, "consumed": 6, "seed": 6, "order": []}'])
def test_the_json_file_is_for_people(store, text):
    """What training goes on from is verified with the tensors: a damaged or altered JSON file changes nothing."""
    state, saved = one(store)
    saved.path.with_suffix(".json").write_text(text)
    assert same(state, store.load(saved.digest))


def test_unknown_checkpoints_are_refused(store):
    """Also where there is no store yet."""
    assert "cannot read checkpoint" in raised(store, "0" * 64)


def test_parts_of_a_sharded_member_are_refused(store):
    """One rank's part alone is no checkpoint."""
    state = State((Shard("w", torch.ones(2), (4,), (2,)),), 0, 0, 0)
    with pytest.raises(StorageError, match=r"^cannot save w: it is one of several shards\. Gather the ranks first\.$"):
        store.save(state, {})


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    """A file stands where the folder should be."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError) as error:
        one(CheckpointStore(tmp_path / "file" / "checkpoints"))
    assert str(error.value).startswith(f"cannot write {tmp_path / 'file' / 'checkpoints'}: Not a directory")
    assert "\n" not in str(error.value)


def test_a_full_disk_leaves_no_rubbish(store, monkeypatch):
    """The error is one line, the half-written file is taken away, and what was there before stays."""
    state, saved = one(store)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError) as error:
        store.save(make_state(torch.ones(3)), {})
    monkeypatch.undo()
    assert re.fullmatch(
        r"cannot write \S+\.safetensors: No space left on device\. Free some space .*\.", str(error.value)
    )
    assert len(list(saved.path.parent.iterdir())) == 2
    assert same(state, store.load(saved.digest))
