"""Whole sweeps on the host of this process: the real brain, ledger and checkpoint store."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pbt.population import PBT, Fixed
from pbt.record.ledger import LedgerReader
from pbt.record.runs import list_runs
from pbt.runtime.checkpoints import CheckpointStore
from tests.runtime.miniature import Clear, ClearStack, train, weight_of
from trainables import Quadratic


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


@settings(max_examples=15, deadline=None)
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
    from pbt.member import SegmentKey

    return [SegmentKey(member, index) for index in range(generations)]


def test_the_winners_weights_are_kept(tmp_path):
    """The checkpoint that is announced holds the winner's weights, age and steps, and is the only one."""
    result = train(tmp_path, PBT(quantile=0.5), members=4, generations=3, stacks=2)
    best = result.best
    (saved,) = result.rows["checkpoints"]
    state = CheckpointStore(result.path / "checkpoints").load(saved["digest"])
    assert weight_of(state) == best.score == best.metrics["test/Q"]
    assert (state.age, state.consumed) == (30, 30)
    assert best.checkpoint.is_file()
    assert list((result.path / "checkpoints").glob("*.safetensors")) == [best.checkpoint]


@pytest.mark.parametrize("stacks", [1, 2, 4])
def test_a_hyperparameter_that_is_not_in_effect_stops_its_member(tmp_path, stacks):
    """`set_hparams` silently ignores `gain`: whoever is told to change fails with its name, and the others finish."""
    result = train(
        tmp_path, PBT(resample_probability=0.0), members=4, generations=3, trainable=Clear(deaf=["gain"]), stacks=stacks
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


def test_states_stay_with_their_stacks_where_possible(tmp_path):
    """On one stack nothing but the winner is ever published."""
    trainable = Clear()
    train(tmp_path, PBT(quantile=0.5), members=4, generations=4, stacks=1, trainable=trainable)
    calls = [call for _, call, _ in trainable.journal]
    assert calls.count("state") == 1
    assert calls.count("copy") == 3


@pytest.mark.parametrize("broken", ["run", "evaluate", "copy", "state", "admit"])
def test_an_error_in_a_stack_ends_the_sweep_and_keeps_the_record(tmp_path, broken):
    """It is raised as it is, and what was recorded before is there, marked as unfinished."""
    trainable = Clear()

    def build(bucket, capacity, place):
        stack = ClearStack(capacity)

        def fail(*_, **__):
            raise RuntimeError("the third layer is missing")

        setattr(stack, broken, fail)
        return stack

    trainable.build = build
    with pytest.raises(RuntimeError, match="the third layer is missing"):
        train(tmp_path, PBT(), members=4, stacks=1, trainable=trainable)
    (run,) = list_runs(tmp_path)
    reader = LedgerReader(run.path)
    assert not reader.finished
    decided = reader.rows()["segments"]
    assert {row["generation"] for row in decided} == {{"state": 2, "copy": 1}.get(broken, 0)} | {0} | (
        {1} if broken == "state" else set()
    )


def test_a_trainable_that_cannot_be_built_leaves_a_readable_run(tmp_path):
    """The ledger is closed, and empty."""
    trainable = Clear()

    def build(bucket, capacity, place):
        raise MemoryError("no room")

    trainable.build = build
    with pytest.raises(MemoryError):
        train(tmp_path, PBT(), trainable=trainable)
    (run,) = list_runs(tmp_path)
    assert not LedgerReader(run.path).finished
    assert LedgerReader(run.path).rows()["segments"] == []


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
    """Nothing is left behind but the ledger's parts, the checkpoint and `run.json`."""
    result = train(tmp_path, PBT(), stacks=2)
    kinds = {path.suffix for path in Path(result.path).rglob("*") if path.is_file()}
    assert kinds == {".json", ".parquet", ".safetensors"}
    assert not [path for path in result.path.rglob("*") if path.name.startswith(".")]
