"""The checkpoint store: bit-exact, named after its contents, whole or not there, and checked when read."""

import hashlib
import json
import math
import os
import re
import threading
import weakref

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from pbt.errors import StorageError
from pbt.runtime.checkpoints import CheckpointStore, Saver
from pbt.runtime.exchange import pack, unpack
from tests.examples import examples
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
    """The message of loading a checkpoint that cannot be loaded, which `verify` gives too."""
    messages = []
    for read in (store.load, store.verify):
        with pytest.raises(StorageError) as error:
            read(digest)
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    return messages[0]


def disproved(store, digest):
    """The message of verifying a checkpoint that is damaged, though it may be loaded."""
    with pytest.raises(StorageError) as error:
        store.verify(digest)
    return str(error.value)


def beside(saved):
    """The JSON file of a checkpoint."""
    return saved.path.with_suffix(".json")


def files(store):
    """What lies in the store's folder, and how much of it."""
    return {path.name: path.read_bytes() for path in store._folder.iterdir()}


@examples(30)
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
    assert raised(store, saved.digest) == f"cannot read checkpoint {beside(saved)}: No such file or directory."
    assert store.digests() == set()


def test_a_checkpoint_without_its_tensors_is_named(store):
    """It is none, but whoever asks for it hears which file is gone."""
    _, saved = one(store)
    saved.path.unlink()
    assert raised(store, saved.digest) == f"cannot read checkpoint {saved.path}: No such file or directory."
    assert store.digests() == set()


class Killed(BaseException):
    """The process dies here: nothing catches this."""


def kill_at(monkeypatch, moment, *names):
    """Die instead of the call number `moment` of these functions of `os`, the file being written half there."""
    calls = iter(range(99))

    def dying(known):
        def call(first, *rest):
            if next(calls) == moment:
                if isinstance(first, int) and os.fstat(first).st_size > 1 and not os.path.isdir(first):
                    os.ftruncate(first, os.fstat(first).st_size // 2)
                raise Killed
            return known(first, *rest)

        return call

    for name in names:
        monkeypatch.setattr(os, name, dying(getattr(os, name)))


#: Each of the two files is synced and renamed, and then the folder is synced.
SAVING = 6


@pytest.mark.parametrize("moment", range(SAVING))
@pytest.mark.parametrize("before", ["nothing", "another", "the same"])
def test_a_process_that_dies_while_saving_leaves_nothing_visible(store, monkeypatch, moment, before):
    """The checkpoint is there whole or not at all; what was there stays; saving again makes it whole."""
    expected = [one(store)[1]] if before == "the same" else []
    expected += [one(store, age=99)[1]] if before == "another" else []
    with monkeypatch.context() as patch:
        kill_at(patch, moment, "fsync", "replace")
        with pytest.raises(Killed):
            one(store)
    visible = {saved.digest for saved in expected}
    if moment == SAVING - 1:
        visible |= {one(CheckpointStore(store._folder.parent / "elsewhere"))[1].digest}
    assert store.digests() == visible
    for digest in visible:
        store.verify(digest)
        store.load(digest)
    store.sweep_leftovers()
    assert len(files(store)) == 2 * len(visible)
    state, saved = one(store)
    assert same(state, store.load(saved.digest))
    assert len(files(store)) == 2 * len(visible | {saved.digest})


def test_all_moments_of_saving_were_tried(store, monkeypatch):
    """There is no seventh."""
    kill_at(monkeypatch, SAVING, "fsync", "replace")
    one(store)
    with pytest.raises(Killed):
        one(store)


def test_leftovers_are_swept(store):
    """Files under way and tensors that never got their JSON; not checkpoints, nor what others put there."""
    _, saved = one(store)
    good = files(store)
    folder = saved.path.parent
    left = [folder / f"{'0' * 64}.safetensors", folder / f".{'1' * 64}.json.77.tmp", folder / ".x.safetensors.7.tmp"]
    others = [folder / "notes.txt", folder / "mine.safetensors"]
    for path in left + others:
        path.write_bytes(b"")
    assert sorted(left) == store.sweep_leftovers()
    assert good.keys() | {path.name for path in others} == files(store).keys()
    assert store.sweep_leftovers() == []
    assert store.digests() == {saved.digest}


def test_a_store_that_is_not_there_is_empty(store):
    """Nothing was saved yet: there is nothing to list, sweep or remove, and no folder is made."""
    assert (store.digests(), store.sweep_leftovers()) == (set(), [])
    store.remove("0" * 64)
    assert not store._folder.exists()


def test_removing(store):
    """Both files go, others stay; removing again changes nothing."""
    state, kept = one(store)
    _, gone = one(store, age=99)
    assert store.digests() == {kept.digest, gone.digest}
    for _ in range(2):
        store.remove(gone.digest)
        assert store.digests() == {kept.digest}
        assert len(files(store)) == 2
    assert raised(store, gone.digest).startswith(f"cannot read checkpoint {beside(gone)}: No such file")
    assert same(state, store.load(kept.digest))


def test_a_process_that_dies_while_removing(store, monkeypatch):
    """The JSON file goes first: a half-removed checkpoint is not visible; the rest is swept, or removed again."""
    for finish in (lambda digest: store.sweep_leftovers(), store.remove):
        _, saved = one(store)
        with monkeypatch.context() as patch:
            kill_at(patch, 1, "unlink")
            with pytest.raises(Killed):
                store.remove(saved.digest)
        assert {saved.path.name} == files(store).keys()
        assert store.digests() == set()
        finish(saved.digest)
        assert files(store) == {}


def test_what_cannot_be_removed_is_one_line(store):
    """A folder stands where the file should."""
    _, saved = one(store)
    beside(saved).unlink()
    beside(saved).mkdir()
    with pytest.raises(StorageError, match=r"^cannot delete \S+\.json: [^.\n]+\. Mend the rights .*\.$"):
        store.remove(saved.digest)


@pytest.mark.parametrize("digest", ["", "../run", "A" * 64, "0" * 63, f"{'0' * 64}/..", "0" * 64 + "\n"])
def test_only_digests_name_checkpoints(store, digest):
    """Whatever a ledger says, no other file is read or deleted."""
    expected = f"{digest!r} names no checkpoint: names are 64 hexadecimal digits."
    assert expected == raised(store, digest)
    with pytest.raises(StorageError) as error:
        store.remove(digest)
    assert expected == str(error.value)


def test_saving_again_mends(store):
    """A damaged checkpoint of the same state is written anew."""
    state, saved = one(store)
    good = files(store)
    saved.path.write_bytes(b"damaged")
    beside(saved).write_bytes(b"")
    assert one(store)[1] == saved
    assert good == files(store)
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


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "\x00", '{"age": 6, "consumed": 6, "seed": 6, "order": []}'])
def test_the_json_file_is_for_people(store, text):
    """What training goes on from is verified with the tensors: a damaged JSON file is named, but costs no state."""
    state, saved = one(store)
    store.verify(saved.digest)
    beside(saved).write_text(text)
    assert same(state, store.load(saved.digest))
    assert disproved(store, saved.digest) == (
        f"{beside(saved)} is damaged: its contents do not match its checksum. {saved.path.name} is good."
    )


def test_any_flipped_bit_of_the_json_file_is_noticed(store):
    """In every byte, and wherever it is cut off."""
    _, saved = one(store)
    data = beside(saved).read_bytes()
    for position in range(len(data)):
        for damaged in (data[:position], data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :]):
            beside(saved).write_bytes(damaged)
            assert "is damaged" in disproved(store, saved.digest)


def meaning(text):
    """What JSON text says; None if it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return None


@examples(200)
@given(st.data())
def test_any_damage_is_noticed_or_does_none(tmp_path_factory, data):
    """Any byte of either file becomes any other, or the file ends there: an error names it, or nothing was lost."""
    store = CheckpointStore(tmp_path_factory.mktemp("checkpoints"))
    state, saved = one(store)
    damaged = data.draw(st.sampled_from([saved.path, beside(saved)]))
    good = damaged.read_bytes()
    position = data.draw(st.integers(0, len(good) - 1))
    byte = data.draw(st.none() | st.integers(0, 255).filter(lambda byte: byte != good[position]))
    damaged.write_bytes(good[:position] + (b"" if byte is None else bytes([byte]) + good[position + 1 :]))
    if damaged == saved.path:
        assert raised(store, saved.digest).startswith(f"checkpoint {damaged} is damaged")
        return
    assert same(state, store.load(saved.digest))
    if meaning(damaged.read_bytes()) == meaning(good):  # white space for white space
        store.verify(saved.digest)
    else:
        assert disproved(store, saved.digest).startswith(f"{damaged} is damaged")


def test_what_is_remembered_may_be_any_json(store):
    """Keys that are numbers, tuples, text that is no Unicode and values that are no numbers are good, not damaged."""
    about = {"hparams": {"lr": math.nan, "x": 1e-300, "y": -math.inf}, "path": (1, 2), 10: "\ud800", 2: "ü"}
    saved = store.save(make_state(torch.ones(1)), about)
    store.verify(saved.digest)


def test_what_cannot_be_json_leaves_nothing(store):
    """It is refused before anything is written."""
    with pytest.raises(TypeError, match="not JSON serializable"):
        store.save(make_state(torch.ones(1)), {"member": object()})
    assert not store._folder.exists()


def test_checkpoints_of_before_there_were_checksums(store):
    """They are good, as far as anybody can tell."""
    state, saved = one(store)
    facts = json.loads(beside(saved).read_text())
    del facts["sha256"]
    beside(saved).write_text(json.dumps(facts))
    store.verify(saved.digest)
    assert same(state, store.load(saved.digest))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no safetensors at all",
        safetensors.torch.save({"w": torch.ones(2)}),
        safetensors.torch.save({"w": torch.ones(2)}, {"pbt.state": "{}"}),
        safetensors.torch.save({"w": torch.ones(2)}, {"pbt.state": '{"order": ["v"]}'}),
        safetensors.torch.save({"w": torch.ones(2)}, {"pbt.state": "[]"}),
        safetensors.torch.save({"w": torch.ones(2)}, {"pbt.state": "{}"})[:-1],
    ],
)
def test_other_peoples_files_are_refused(store, data):
    """Under the hash of its bytes, with a JSON file, and yet no checkpoint: one line, not a traceback."""
    one(store)
    digest = hashlib.sha256(data).hexdigest()
    path = store._folder / f"{digest}.safetensors"
    path.write_bytes(data)
    path.with_suffix(".json").write_text("{}")
    with pytest.raises(StorageError) as error:
        store.load(digest)
    assert str(error.value).startswith(f"{path} is no checkpoint of pbt's: ")
    assert "\n" not in str(error.value)


def test_unknown_checkpoints_are_refused(store):
    """Also where there is no store yet."""
    assert "cannot read checkpoint" in raised(store, "0" * 64)


def test_what_ranks_gave_in_parts_is_saved_in_one_piece(store):
    """A checkpoint is the same however many there were; one rank's part alone is none."""
    first, second = (Shard("w", torch.full((2,), float(rank)), (4,), (2 * rank,)) for rank in (0, 1))
    together = store.save(State((first, second), 1, 2, 3), {})
    whole = State((Shard("w", torch.tensor([0.0, 0.0, 1.0, 1.0]), (4,), (0,)),), 1, 2, 3)
    assert store.save(whole, {}).digest == together.digest
    with pytest.raises(StorageError, match="the state lacks 2 of 4 numbers of 'w'"):
        store.save(State((second,), 0, 0, 0), {})


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
    assert re.fullmatch(r"cannot write \S+\.safetensors: No space left on device\. Free some space\.", str(error.value))
    assert len(list(saved.path.parent.iterdir())) == 2
    assert same(state, store.load(saved.digest))


# --- saving while training goes on


class News:
    """What a saver told."""

    def __init__(self):
        self.heard, self.threads = [], set()

    def __call__(self, token, found):
        self.heard.append((token, found))
        self.threads.add(threading.current_thread().name)


@pytest.fixture
def news():
    return News()


@pytest.fixture
def saver(store, news):
    saver = Saver(store, news, news)
    yield saver
    assert saver.close(timeout=20.0)


def state_of(number):
    return make_state(torch.full((3,), float(number)), consumed=number)


class Gate:
    """A state that is not there before the gate is opened."""

    def __init__(self, number):
        self.number, self.opened, self.asked = number, threading.Event(), threading.Event()

    def __call__(self):
        self.asked.set()
        assert self.opened.wait(20.0)
        return state_of(self.number)


def test_saving_does_not_wait(saver, store, news):
    """It returns before the state is there; the state is waited for, and written, in the saver's thread."""
    gate = Gate(1)
    saver.save("0:1", gate, {"member": 0})
    assert gate.asked.wait(20.0)
    assert (saver.pending, news.heard, store.digests()) == ({"0:1"}, [], set())
    assert not saver.flush(timeout=0.0)
    gate.opened.set()
    assert saver.flush(timeout=20.0)
    [(token, saved)] = news.heard
    assert ("0:1", frozenset(), {"saver"}) == (token, saver.pending, news.threads)
    assert same(state_of(1), store.load(saved.digest))
    assert json.loads(beside(saved).read_text())["about"] == {"member": 0}


def test_states_are_saved_in_order(saver, news):
    """One after another, all pending until their turn is over."""
    gates = [Gate(number) for number in range(5)]
    for number, gate in enumerate(gates):
        saver.save(f"{number}:0", gate, {})
    assert gates[0].asked.wait(20.0)
    assert saver.pending == {f"{number}:0" for number in range(5)}
    assert not any(gate.asked.is_set() for gate in gates[1:])
    for gate in gates:
        gate.opened.set()
    assert saver.flush(timeout=20.0)
    assert [token for token, _ in news.heard] == [f"{number}:0" for number in range(5)]


def test_a_state_that_is_pending_is_not_saved_twice(saver, news):
    """Asked for again while it is; once it is saved, it may be again."""
    gate, again = Gate(1), Gate(1)
    saver.save("0:1", gate, {})
    saver.save("0:1", again, {})
    gate.opened.set()
    assert saver.flush(timeout=20.0)
    assert not again.asked.is_set()
    saver.save("0:1", lambda: state_of(1), {})
    assert saver.flush(timeout=20.0)
    assert [token for token, _ in news.heard] == ["0:1", "0:1"]
    assert news.heard[0][1] == news.heard[1][1]


def test_what_to_remember_is_what_it_was_when_asked(saver, news):
    """Later changes do not get into the file."""
    gate, about = Gate(1), {"segment": 1}
    saver.save("0:1", gate, about)
    about["segment"] = 2
    gate.opened.set()
    assert saver.flush(timeout=20.0)
    assert json.loads(beside(news.heard[0][1]).read_text())["about"] == {"segment": 1}


def fails(error):
    def fetch():
        raise error

    return fetch


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KeyError("0:1"), "KeyError: '0:1'"),
        (StorageError("cannot write x: No space left on device."), "cannot write x: No space left on device."),
        (MemoryError(), "MemoryError"),
        (SystemExit("bye\nnow"), "SystemExit: bye"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_failure_is_told_in_a_line_and_the_next_state_saved(saver, news, error, expected):
    """Whatever went wrong with the first."""
    saver.save("0:1", fails(error), {})
    saver.save("0:2", lambda: state_of(2), {})
    assert saver.flush(timeout=20.0)
    assert ("0:1", expected) == news.heard[0]
    assert [token for token, _ in news.heard] == ["0:1", "0:2"]


def test_a_disk_that_is_full_for_a_while(saver, store, news, monkeypatch):
    """The failure is told; when there is space again, saving goes on."""

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        saver.save("0:1", lambda: state_of(1), {})
        assert saver.flush(timeout=20.0)
    saver.save("0:1", lambda: state_of(1), {})
    assert saver.flush(timeout=20.0)
    (_, reason), (_, saved) = news.heard
    assert re.fullmatch(r"cannot write \S+\.safetensors: No space left on device\. Free some space\.", reason)
    assert store.digests() == {saved.digest}


@pytest.mark.parametrize("fetch", [lambda: state_of(1), fails(KeyError("0:1"))])
def test_an_error_in_a_callback_is_not_lost(store, fetch):
    """Whoever flushes hears of it, once; other states are saved all the same."""
    told = []

    def hear(token, found):
        told.append(token)
        if token == "0:1":
            raise ZeroDivisionError

    saver = Saver(store, hear, hear)
    saver.save("0:1", fetch, {})
    saver.save("0:2", lambda: state_of(2), {})
    with pytest.raises(ZeroDivisionError):
        saver.flush(timeout=20.0)
    assert saver.close(timeout=20.0)
    assert told == ["0:1", "0:2"]


def test_the_token_is_pending_until_it_was_told(store):
    """So what is not pending has been heard of."""
    pending = []
    saver = Saver(store, lambda token, saved: pending.append(saver.pending), lambda token, reason: None)
    saver.save("0:1", lambda: state_of(1), {})
    assert saver.close(timeout=20.0)
    assert pending == [{"0:1"}]


def test_closing_finishes_what_was_begun(store, news):
    """All that is pending is saved, and the thread ends; then nothing more is taken, and closing again is harmless."""
    saver = Saver(store, news, news)
    gates = [Gate(1), Gate(2)]
    for gate in gates:
        saver.save(f"0:{gate.number}", gate, {})
    assert not saver.close(timeout=0.0)
    with pytest.raises(RuntimeError, match="cannot save 0:3: the saver is closed"):
        saver.save("0:3", gates[0], {})
    for gate in gates:
        gate.opened.set()
    assert saver.close(timeout=20.0)
    assert saver.close(timeout=20.0)
    assert [token for token, _ in news.heard] == ["0:1", "0:2"]
    assert not saver._thread.is_alive()


def test_a_saver_does_not_hold_states(saver, news):
    """A state that has been saved, or whose saving failed, is not kept alive by it."""
    states = [state_of(1), state_of(2)]
    alive = [weakref.ref(state.shards[0].tensor) for state in states]
    saver.save("0:1", states.pop, {})
    saver.save("0:2", states.pop, {})
    assert saver.flush(timeout=20.0)
    assert len(news.heard) == 2
    assert [None, None] == [reference() for reference in alive]


def test_threads_may_save_and_remove_the_same(store):
    """At any time a checkpoint is there whole or not at all."""
    state, saved = one(store)
    threads = [threading.Thread(target=one, args=(store,)) for _ in range(8)]
    threads += [threading.Thread(target=store.remove, args=(saved.digest,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.sweep_leftovers() == []
    assert len(files(store)) in (0, 2)
    one(store)
    assert same(state, store.load(saved.digest))
