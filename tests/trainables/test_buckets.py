"""Members that change their bucket: the contract of every stack, and the same numbers as in a stack of their own."""

from __future__ import annotations

import gc
import weakref
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
