"""Members that change their bucket: the contract of every stack, and the same numbers as in a stack of their own."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from typing import ClassVar

import pytest

from tests.contracts.stack_contract import Change
from tests.contracts.states import assert_same, assert_weights
from tests.trainables import test_language
from trainables import Language, Place, TrainableError
from trainables.base import Plan
from trainables.buckets import Buckets

TINY = test_language.TINY | {"batch": 4}
SIZES = (4, 7, 2)


class TestContract(test_language.TestContract):
    """The contract of every trainable, with members in three buckets; a batch size is as live as anything else."""

    SAMPLES = tuple(
        {**sample, "batch_size": size} for sample, size in zip(test_language.TestContract.SAMPLES, SIZES, strict=True)
    )
    CHANGES: ClassVar = {**test_language.TestContract.CHANGES, "batch_size": Change(to=7, given={"batch_size": 2})}

    @pytest.fixture
    def trainable(self, text):
        return Buckets(Language(**TINY, data=text))


class TestStructuralContract(test_language.TestContract):
    """The contract once more, with an option of the trainable that is a hyperparameter of members."""

    SAMPLES = tuple({**sample, "depth": 2} for sample in test_language.TestContract.SAMPLES)
    CHANGES: ClassVar = {**test_language.TestContract.CHANGES, "batch_size": Change(to=7)}

    @pytest.fixture
    def trainable(self, text):
        return Buckets(Language(**TINY, data=text), options=("depth",))


@pytest.fixture
def inner(text):
    return Language(**TINY, data=text)


def filled(trainable, sizes):
    """Members with seeds 0, 1, ... and batches of these sizes, each after five steps."""
    stack = trainable.build(trainable.bucket({}), len(sizes), Place(compile="never"))
    for slot, size in enumerate(sizes):
        stack.admit(slot, {"lr": 0.03, "batch_size": size}, seed=slot)
    stack.run([5] * len(sizes))
    return stack


def test_who_moves_trains_on_as_one_that_was_always_there(inner):
    """Bit for bit: a stack of the new bucket that is given the state does the same."""
    stack = filled(Buckets(inner), [4, 4])
    there = inner.build(inner.bucket({"batch_size": 7}), 1, Place(compile="never", plan=Plan(chunk=1, compiled=False)))
    there.admit(0, {"lr": 0.03, "batch_size": 7}, 0, stack.state(0), 5)
    stack.set_hparams([0], batch_size=[7])
    assert stack.hparams(0)["batch_size"] == 7
    assert (stack.progress(0), stack.progress(1)) == ((5, 5), (5, 5))
    for each in (stack, there):
        each.run([9] * each.capacity)
    assert_same(there.state(0), stack.state(0))


def test_who_comes_and_goes_changes_nobody(inner):
    """A bucket's stack grows and is left: its first member trains the same bits as by itself."""
    alone, crowded = filled(Buckets(inner), [4]), filled(Buckets(inner), [4, 7, 7, 7, 2])
    crowded.set_hparams([1, 2, 3, 4], batch_size=[4, 4, 4, 4])
    for stack in (alone, crowded):
        stack.run([8] * stack.capacity)
    assert_same(alone.state(0), crowded.state(0))
    crowded.set_hparams([1, 2], batch_size=[2, 7])
    crowded.evict(3)
    for stack in (alone, crowded):
        stack.run([12] * stack.capacity)
    assert_same(alone.state(0), crowded.state(0))


def test_a_refusal_in_the_middle_takes_back_what_was_moved(inner):
    """The first moves, the second cannot: both are as they were, and so are their hyperparameters."""
    stack = filled(Buckets(inner), [4, 4])
    before = [(stack.state(slot), stack.hparams(slot)) for slot in range(2)]
    for bad in ({"batch_size": [7, 0]}, {"batch_size": [7, 7], "lr": [0.1, -1.0]}, {"batch_size": [7]}):
        with pytest.raises(TrainableError, match=list(bad)[-1]):
            stack.set_hparams([0, 1], **bad)
        for slot, (state, hparams) in enumerate(before):
            assert_same(state, stack.state(slot))
            assert stack.hparams(slot) == hparams


def test_weights_are_copied_between_buckets(inner):
    """All are read before any is written; receivers keep their batch sizes, seeds and steps."""
    stack = filled(Buckets(inner), [4, 7, 4])
    stack.run([5, 8, 6])
    before = [stack.state(slot) for slot in range(3)]
    stack.copy([0, 1, 1], [1, 0, 2])
    for slot, donor in ((0, 1), (1, 0), (2, 1)):
        state = stack.state(slot)
        assert_weights(before[donor], state)
        assert (state.seed, state.consumed, state.age) == (slot, before[slot].consumed, before[donor].age)
    assert [stack.hparams(slot)["batch_size"] for slot in range(3)] == [4, 7, 4]


def deep_and_shallow(inner):
    """Three members: of depth 1, 3 and 1 with another batch size, each after five steps."""
    stack = Buckets(inner, options=("depth",)).build(f"buckets of {inner.bucket({})}", 3, Place(compile="never"))
    for slot, (depth, size) in enumerate([(1, 4), (3, 4), (1, 7)]):
        stack.admit(slot, {"lr": 0.03, "batch_size": size, "depth": depth}, seed=slot)
    stack.run([5, 5, 5])
    return stack


def layers(state):
    return {name.split(".")[2] for name in (shard.name for shard in state.shards) if name.startswith("params.blocks.")}


def test_members_of_one_stack_have_models_of_their_own(inner):
    """Each trains as it does in a stack of a trainable with that option."""
    stack = deep_and_shallow(inner)
    assert [stack.hparams(slot)["depth"] for slot in range(3)] == [1, 3, 1]
    assert [layers(stack.state(slot)) for slot in range(3)] == [{"0"}, {"0", "1", "2"}, {"0"}]
    plain = replace(inner, depth=3)
    alone = plain.build(plain.bucket({}), 1, Place(compile="never", plan=Plan(chunk=1, compiled=False)))
    alone.admit(0, {"lr": 0.03, "batch_size": 4}, seed=1)
    alone.run([5])
    assert_same(alone.state(0), stack.state(1))
    assert alone.evaluate("validation", [0])["loss"][0] == stack.evaluate("validation", [0, 1, 2])["loss"][1]


def test_what_weights_are_made_for_goes_with_them(inner):
    """To a receiver of another depth: the batch size stays its own. All are read before any is written."""
    stack = deep_and_shallow(inner)
    before = [stack.state(slot) for slot in range(3)]
    stack.copy([1, 0], [2, 1])
    assert [stack.hparams(slot)["depth"] for slot in range(3)] == [1, 1, 3]
    assert [stack.hparams(slot)["batch_size"] for slot in range(3)] == [4, 4, 7]
    for slot, donor in ((1, 0), (2, 1)):
        state = stack.state(slot)
        assert_weights(before[donor], state)
        assert (state.seed, state.consumed) == (slot, 5)
    stack.run([8, 8, 8])
    assert [stack.progress(slot) for slot in range(3)] == [(8, 8)] * 3


def test_who_goes_on_keeps_what_its_weights_are_made_for(inner):
    """To name it is no change; another value is refused, and nothing else that was asked for is done."""
    stack = deep_and_shallow(inner)
    stack.set_hparams([0, 1], depth=[1, 3], lr=[0.1, 0.1])
    with pytest.raises(TrainableError, match="'depth' is structural: the weights are made for 3, not 2"):
        stack.set_hparams([0, 1], depth=[1, 2], lr=[0.2, 0.2])
    assert [stack.hparams(slot)["lr"] for slot in (0, 1)] == pytest.approx([0.1, 0.1])
    with pytest.raises(TrainableError, match="state does not fit"):
        stack.admit(0, {"depth": 2}, 0, stack.state(0))
    stack.admit(0, {"depth": 2}, 0)
    assert layers(stack.state(0)) == {"0", "1"}


def test_members_that_could_not_be_compared_are_refused(inner):
    """Other hyperparameters, other numbers of tokens: their scores, or what they consumed, mean something else."""
    wide = Buckets(inner, options=("depth", "optimizer", "context"))
    wide.check({"depth": 3})
    with pytest.raises(TrainableError, match="optimizer='sgd' it has other hyperparameters than without"):
        wide.check({"optimizer": "sgd"})
    with pytest.raises(TrainableError, match="context=4 it has other tokens in a step"):
        wide.check({"depth": 3, "context": 4})
    with pytest.raises(TrainableError, match="depth"):
        wide.check({"depth": 0})


def test_flops_are_not_told_where_they_differ(inner):
    """One figure for all would be wrong of some."""
    assert Buckets(inner).describe().flops_per_step == inner.describe().flops_per_step
    assert Buckets(inner, options=("depth",)).describe().flops_per_step is None


def test_a_bucket_that_everybody_has_left_takes_no_memory(inner, monkeypatch):
    """Its stack is gone; stacks are as large as they need be, to a factor of two."""
    built, build = [], Language.build

    def noted(*asked):
        built.append(weakref.ref(made := build(*asked)))
        return made

    monkeypatch.setattr(Language, "build", noted)
    stack = filled(Buckets(inner), [4, 7, 7, 7])
    stack.set_hparams([1, 2, 3], batch_size=[4, 4, 4])
    gc.collect()
    assert [4] == [made.capacity for ref in built if (made := ref()) is not None]


def test_what_is_no_bucket_is_refused(inner):
    """By name, and nothing is built for it."""
    stack = filled(Buckets(inner), [4])
    for size in (0, 2.5, "many", True):
        with pytest.raises(TrainableError, match="'batch_size'"):
            stack.admit(0, {"batch_size": size}, seed=0)
        with pytest.raises(TrainableError, match="'batch_size'"):
            stack.set_hparams([0], batch_size=[size])
    assert stack.hparams(0)["batch_size"] == 4
