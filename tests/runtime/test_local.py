"""Whole sweeps on the host of this process: the real brain, ledger and checkpoint store."""

import math
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pbt.errors import HostError
from pbt.member import SegmentKey, member_seed
from pbt.population import PBT, Fixed
from pbt.record.ledger import LedgerReader, is_written
from pbt.record.runs import list_runs
from pbt.runtime.checkpoints import CheckpointStore
from tests.examples import examples
from tests.runtime.miniature import Clear, ClearStack, in_time, train, weight_of
from trainables import Quadratic

pytestmark = pytest.mark.usefixtures("no_sync")


def told(result):
    """Everything that was decided and found, but for where members sat and when."""
    place = ("stack", "slot", "decided_at", "ended_at", "wall_s")
    return [{name: value for name, value in row.items() if name not in place} for row in result.segments.to_pylist()]


@pytest.mark.parametrize("options", [PBT(quantile=0.5), PBT(explore="resample", quantile=0.4), Fixed()])
def test_decisions_do_not_depend_on_the_layout(tmp_path, options):
    """One stack or five: copies inside stacks and across them give the same members, scores and lineage."""
    results = [train(tmp_path, options, members=5, generations=4, seed=3, stacks=stacks) for stacks in (1, 2, 3, 5)]
    assert told(results[0])
    for result in results[1:]:
        assert told(results[0]) == told(result)
        assert results[0].best.member == result.best.member


def test_equal_seeds_give_equal_digests(tmp_path):
    """The same sweep twice has the same digest; with another seed, another."""
    first, again, other = (train(tmp_path, PBT(), members=5, stacks=2, seed=seed).digest() for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_the_quadratic_gives_equal_digests_too(tmp_path):
    """On the real training core, stacks side by side."""
    from searchspaces import Float, Space

    space = Space({"h0": Float(0.0, 1.0), "h1": Float(0.0, 1.0)})
    options = {"trainable": Quadratic(), "space": space, "members": 5, "stacks": 2, "dtype": "float32"}
    first, again = (train(tmp_path, PBT(), **options).digest() for _ in range(2))
    assert first == again


@examples(15)
@given(
    members=st.integers(1, 6),
    generations=st.integers(1, 4),
    steps=st.integers(1, 4),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_the_record_is_whole(tmp_path_factory, members, generations, steps, seed, data):
    """Every member has one ended segment for each generation, its weight follows from its schedule, parents exist."""
    stacks = data.draw(st.integers(1, members))
    result = train(
        tmp_path_factory.mktemp("run"),
        PBT(quantile=0.5),
        members=members,
        generations=generations,
        steps=steps,
        seed=seed,
        stacks=stacks,
    )
    lineage = result.lineage
    assert sorted(lineage.segments) == sorted(key for member in range(members) for key in _keys(member, generations))
    for segment in lineage.segments.values():
        assert segment.status == "ended"
        assert segment.hparams == segment.hparams_in_effect
        path = lineage.path(segment.key)
        assert math.isclose(segment.score, sum(one.hparams["gain"] * steps for one in path))
        assert segment.age == (steps * (len(path) - 1), steps * len(path))
        assert segment.consumed == (steps * segment.key.index, steps * (segment.key.index + 1))
    assert result.finished
    assert result.best.score == max(lineage.last(member).score for member in range(members))


def _keys(member, generations):
    return [SegmentKey(member, index) for index in range(generations)]


def test_the_winners_weights_are_kept(tmp_path):
    """The checkpoint that is announced holds the winner's weights, age and steps."""
    result = train(tmp_path, PBT(quantile=0.5), members=4, generations=3, stacks=2)
    best = result.best
    state = CheckpointStore(result.path / "checkpoints").load(best.checkpoint.stem)
    assert weight_of(state) == best.score == best.metrics["test/Q"]
    assert (state.age, state.consumed) == (30, 30)


@pytest.mark.parametrize("stacks", [1, 3])
def test_every_living_member_is_saved_at_the_end(tmp_path, stacks):
    """Its state at the end of its last segment, and nothing else: those that failed have none."""
    breaking = Breaking(seeds={member_seed(0, 1): 10})
    result = train(tmp_path, Fixed(), members=4, generations=3, stacks=stacks, trainable=breaking)
    saved = {(row["member"], row["segment"]): row["digest"] for row in result.rows["checkpoints"]}
    assert {(0, 2), (2, 2), (3, 2)} == set(saved)
    store = CheckpointStore(result.path / "checkpoints")
    assert set(saved.values()) == store.digests()
    for (member, _), digest in saved.items():
        state = store.load(digest)
        assert (result.lineage.last(member).score, 30, member_seed(0, member)) == (
            weight_of(state),
            state.consumed,
            state.seed,
        )


@dataclass
class Breaking(Clear):
    """Stacks that do not hold what was ordered for the members of these seeds, once they have trained so far."""

    seeds: Mapping[int, int] = field(default_factory=dict)

    def build(self, bucket, capacity, place):
        stack = super().build(bucket, capacity, place)
        held = stack.hparams

        def hparams(slot):
            seat = stack.seats[slot]
            return held(slot) | ({"gain": -1.0} if self.seeds.get(seat.seed) == seat.consumed else {})

        stack.hparams = hparams
        return stack


def test_a_hyperparameter_that_is_not_in_effect_stops_its_member(tmp_path):
    """`set_hparams` silently ignores `gain`: whoever is told to change fails with its name, and the others finish."""
    result = train(
        tmp_path, PBT(resample_probability=0.0), members=4, generations=3, trainable=Clear(deaf=["gain"]), stacks=1
    )
    failed = [row for row in result.rows["outcomes"] if row["status"] == "failed"]
    changed = {(segment.key.member, segment.key.index): segment for segment in result.lineage.exploits()}
    assert {(row["member"], row["segment"]) for row in failed} == set(changed)
    assert [row["member"] for row in failed] == list(dict.fromkeys(row["member"] for row in failed))
    for row in failed:
        segment = changed[row["member"], row["segment"]]
        wanted, got = segment.hparams["gain"], segment.hparams_in_effect["gain"]
        assert wanted != got
        assert row["reason"] == (
            f"member {row['member']}: gain is not in effect: wanted {wanted!r}, got {got!r}. "
            "The member was stopped; check that the trainable's set_hparams writes 'gain'."
        )
    others = set(range(4)) - {row["member"] for row in failed}
    assert 1 <= len(failed) <= 2
    for member in others:
        assert [segment.status for segment in result.lineage.of(member)] == ["ended"] * 3
    assert result.best.member in others


def test_weights_from_another_stack_come_with_their_hyperparameters(tmp_path):
    """They are taken in with these, and not changed to them: nobody notices that `set_hparams` ignores one."""
    result = train(
        tmp_path, PBT(resample_probability=0.0), members=4, generations=3, trainable=Clear(deaf=["gain"]), stacks=4
    )
    exploits = result.lineage.exploits()
    assert exploits
    for segment in exploits:
        assert segment.status == "ended"
        assert segment.hparams_in_effect["gain"] == segment.hparams["gain"]


def test_states_stay_with_their_stacks_where_possible(tmp_path):
    """On one stack nothing is published but what is saved at the end."""
    trainable = Clear()
    train(tmp_path, PBT(quantile=0.5), members=4, generations=4, stacks=1, trainable=trainable)
    calls = [call for _, call, _ in trainable.journal]
    assert ["state"] * 4 == calls[-4:]
    assert (4, 3) == (calls.count("state"), calls.count("copy"))


def fail(*_, **__):
    raise RuntimeError("the third layer is missing")


def breaking(call, times):
    """A trainable of stacks of which the first ones break off in a call."""
    trainable = Clear()

    def build(bucket, capacity, place):
        stack = ClearStack(capacity)
        if len(trainable.built) < times:
            setattr(stack, call, fail)
        trainable.built.append(stack)
        return stack

    trainable.build = build
    return trainable


GAINS = PBT(quantile=0.5, initial=[{"gain": 1.0}, {"gain": 9.0}, {"gain": 2.0}, {"gain": 8.0}])


@pytest.mark.parametrize("stacks", [1, 2])
@pytest.mark.parametrize(
    ("call", "generations"), [("run", 1), ("evaluate", 1), ("admit", 1), ("hparams", 1), ("state", 3)]
)
def test_an_error_in_every_stack_ends_the_sweep_and_keeps_the_record(tmp_path, call, generations, stacks):
    """Its cause is told, nothing waits for ever, and what was recorded before is there, marked as unfinished."""
    trainable = breaking(call, 1_000)
    with pytest.raises((HostError, RuntimeError), match="the third layer is missing"):
        in_time(20.0, lambda: train(tmp_path, GAINS, members=4, stacks=stacks, trainable=trainable))
    (run,) = list_runs(tmp_path)
    reader = LedgerReader(run.path)
    assert not reader.finished
    assert not is_written(run.path)
    if stacks == 1:
        decided = reader.rows()["segments"]
        assert set(range(generations)) == {row["generation"] for row in decided}


@pytest.mark.parametrize("stacks", [1, 2])
@pytest.mark.parametrize("call", ["run", "evaluate", "admit", "hparams", "copy"])
def test_an_error_that_is_gone_in_another_stack_changes_nothing(tmp_path, call, stacks):
    """It is built anew and brought back; nobody failed."""
    storages = tmp_path / "alone", tmp_path / "broken"
    for storage in storages:
        storage.mkdir()
    alone = train(storages[0], GAINS, members=4, stacks=stacks)
    broken = train(storages[1], GAINS, members=4, stacks=stacks, trainable=breaking(call, 1))
    assert alone.digest() == broken.digest()
    assert call == "copy" or "exception" in [row["kind"] for row in broken.rows["incidents"]]


def test_a_thread_that_waits_for_another_stack_is_let_go(tmp_path):
    """One stack fails before it publishes what the other is waiting to fetch."""
    trainable = Clear()
    build = trainable.build

    def build_broken(bucket, capacity, place):
        stack = build(bucket, capacity, place)
        if len(trainable.built) == 1:
            stack.state = lambda slot: 1 / 0
        return stack

    trainable.build = build_broken
    before = set(threading.enumerate())
    options = PBT(initial=[{"gain": 9.0}, {"gain": 1.0}])
    with pytest.raises(ZeroDivisionError):
        in_time(20.0, lambda: train(tmp_path, options, members=2, stacks=2, trainable=trainable))
    for thread in set(threading.enumerate()) - before:
        if not thread.name.startswith(("ledger", "node-monitor")):  # the error holds what they are of
            thread.join(20.0)
            assert not thread.is_alive(), thread.name


def test_a_trainable_that_cannot_be_built_leaves_a_readable_run(tmp_path):
    """What was decided is there, nothing of it done."""
    trainable = Clear()

    def build(bucket, capacity, place):
        raise ValueError("no such layer")

    trainable.build = build
    with pytest.raises(HostError, match="stack 0 could not be built: ValueError: no such layer") as caught:
        train(tmp_path, PBT(), trainable=trainable)
    assert isinstance(caught.value.__cause__, ValueError)
    (run,) = list_runs(tmp_path)
    reader = LedgerReader(run.path)
    assert not reader.finished
    found = reader.rows()
    assert [0, 1, 2, 3] == [row["member"] for row in found["segments"]]
    assert ([], [], []) == (found["orders"], found["outcomes"], found["checkpoints"])


def test_a_brain_that_cannot_be_built_is_news_at_once(tmp_path):
    """Nothing waits for it, and no thread stays behind."""

    class Impossible:
        def begin(self, task):
            raise ValueError("no such plan")

    before = set(threading.enumerate())
    with pytest.raises(ValueError, match="no such plan"):
        train(tmp_path, Impossible())
    assert set(threading.enumerate()) <= before  # others' may end meanwhile


def test_storage_that_takes_nothing_for_a_while_is_waited_for(tmp_path, monkeypatch):
    """Then training goes on as if nothing had happened."""
    alone, full = tmp_path / "alone", tmp_path / "full"
    for storage in (alone, full):
        storage.mkdir()
    undisturbed = train(alone, GAINS, members=4, stacks=2)
    write, attempts = os.pwrite, []

    def takes_nothing_for_a_while(*args):
        attempts.append(args)
        if 5 < len(attempts) < 9:
            raise OSError(28, "No space left on device")
        return write(*args)

    monkeypatch.setattr("pbt.record.ledger.AGAIN_S", 0.01)
    monkeypatch.setattr(os, "pwrite", takes_nothing_for_a_while)
    result = train(full, GAINS, members=4, stacks=2, patience_s=60.0)
    assert result.finished
    assert undisturbed.digest() == result.digest()
    assert ["storage"] == [row["kind"] for row in result.rows["incidents"]]


# --- stopping


def when(trainable, generation):
    """Asks to stop once a member has trained so many generations of ten steps."""
    return lambda: any(call == "run" and max(until) >= 10 * generation for _, call, until in list(trainable.journal))


def test_a_sweep_that_is_stopped_finishes_and_saves_what_is_under_way(tmp_path):
    """Every member stands at the end of a segment and is saved; the record says that the sweep is not finished."""
    trainable = Clear()
    result = train(
        tmp_path, Fixed(), generations=10**6, stacks=2, trainable=trainable, is_to_stop=when(trainable, generation=2)
    )
    assert not result.finished
    assert not is_written(result.path)
    last = {member: result.lineage.last(member) for member in range(4)}
    assert {True} == {segment.consumed[1] % 10 == 0 for segment in last.values()}
    assert 20 <= max(segment.consumed[1] for segment in last.values())
    saved = {(row["member"], row["segment"]): row["digest"] for row in result.rows["checkpoints"]}
    assert {(segment.key.member, segment.key.index) for segment in last.values()} == set(saved)
    assert set(saved.values()) == CheckpointStore(result.path / "checkpoints").digests()
    assert [] == [row for row in result.rows["decisions"] if row["kind"] == "finish"]


def test_a_sweep_that_is_stopped_before_it_begins_trains_nothing(tmp_path):
    """There is nothing to save either."""
    trainable = Clear()
    result = train(tmp_path, Fixed(), trainable=trainable, is_to_stop=lambda: True, generations=10**6)
    trained = {row["member"] for row in result.rows["outcomes"]}
    saved = {row["member"] for row in result.rows["checkpoints"]}
    assert trained == saved
    assert not result.finished


def test_to_stop_is_asked_for_once(tmp_path):
    """Whoever says so need not go on saying so."""
    trainable = Clear()
    said = []

    def is_to_stop():
        if when(trainable, 1)() and not said:
            said.append(True)
            return True
        return False

    assert not train(tmp_path, Fixed(), trainable=trainable, is_to_stop=is_to_stop, generations=10**6).finished


def test_stacks_use_one_thread_each_and_the_setting_comes_back(tmp_path):
    """Whatever the caller had set."""
    before = torch.get_num_threads()
    seen = []

    class Watched(ClearStack):
        def run(self, until):
            seen.append(torch.get_num_threads())
            return super().run(until)

    trainable = Clear()
    trainable.build = lambda bucket, capacity, place: Watched(capacity)
    torch.set_num_threads(2)
    try:
        train(tmp_path, Fixed(), trainable=trainable, generations=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [1]


def test_the_run_is_a_folder_of_plain_files(tmp_path):
    """Nothing is left behind but the ledger's parts and its lock, the checkpoints and `run.json`."""
    result = train(tmp_path, PBT(), stacks=2)
    files = [path for path in Path(result.path).rglob("*") if path.is_file()]
    assert {".json", ".parquet", ".safetensors"} == {path.suffix for path in files if path.name != "lock"}
    assert not [path for path in result.path.rglob("*") if path.name.startswith(".")]
