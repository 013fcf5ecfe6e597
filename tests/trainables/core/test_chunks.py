"""Stacks in chunks: what a plan says changes how fast a stack is, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.contracts.states import assert_close, assert_same
from tests.trainables.core.regression import Network, program, stack
from trainables import Language, Place, Plan, TrainableError
from trainables.core.stack import CoreStack

EAGER = Place(dtype="float64", compile="never")
HPARAMS = [{"lr": 0.02 * (i + 1), "dropout": 0.1 * i} for i in range(5)]


def chunked(size: int, hparams=HPARAMS, **options) -> CoreStack:
    return stack(program(Network(), 4, 1), hparams, replace(EAGER, plan=Plan(chunk=size, compiled=False, **options)))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8])
def test_chunks_train_what_one_stack_trains(size):
    """Members, metrics and evaluation order are the same, whatever divides them (float64, to rounding)."""
    whole, parts = stack(program(Network(), 4, 1), HPARAMS, EAGER), chunked(size)
    expected, found = (each.run([7, 0, 3, 9, 7]) for each in (whole, parts))
    for slot in range(5):
        assert_close(whole.state(slot), parts.state(slot), 1e-12)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-12)
    assert parts.plan.chunk == min(size, 5)


def test_a_slot_of_another_chunk_is_the_same_to_the_bit():
    """Chunks are equally large: with five slots in pairs, the last pair has one that nobody uses."""
    here, there = chunked(2), chunked(2)
    there.admit(4, HPARAMS[0], seed=0)
    for each in (here, there):
        each.run([6] * 5)
    assert_same(here.state(0), there.state(4))


def test_chunks_without_active_slots_are_left_out(monkeypatch):
    """They cost nothing."""
    members, steps = chunked(2), []
    members._chunks = [
        replace(chunk, step=lambda *_, first=chunk.first: steps.append(first)) for chunk in members._chunks
    ]
    members.run([0, 0, 3, 0, 0])
    assert steps == [2, 2, 2]


def test_copies_cross_chunks():
    """All reads before all writes, as within one."""
    members = chunked(2)
    members.run([3] * 5)
    first, last = members.state(0), members.state(4)
    members.copy([0, 4], [4, 0])
    for before, slot in ((first, 4), (last, 0)):
        for old, new in zip(before.shards, members.state(slot).shards, strict=True):
            assert torch.equal(old.tensor, new.tensor)


def test_a_plan_that_splits_batches_is_the_same_to_rounding():
    """To save memory; nothing more is measured, and nothing more is in the state."""
    whole, split = stack(program(Network(), 4, 1), HPARAMS, EAGER), chunked(5, accumulate=2)
    expected, found = (each.run([9] * 5) for each in (whole, split))
    assert set(found) == set(expected)
    for slot in range(5):
        assert_close(whole.state(slot), split.state(slot), 1e-9)


@pytest.mark.full
def test_a_plan_that_splits_micro_batches_measures_the_same_noise():
    """The noise scale is measured on the smaller ones; its averages estimate the same."""
    members = stack(program(Network(), 8, 2), HPARAMS, replace(EAGER, plan=Plan(chunk=5, compiled=False, accumulate=2)))
    metrics = members.run([400] * 5)
    plain = stack(program(Network(), 8, 2), HPARAMS, EAGER).run([400] * 5)
    np.testing.assert_allclose(metrics["grad_noise_trace"], plain["grad_noise_trace"], rtol=0.2)


def test_parts_that_do_not_fit_are_refused():
    """With the numbers."""
    with pytest.raises(TrainableError, match="accumulate is 3; give a number that divides the batch, 4"):
        chunked(5, accumulate=3)


def test_eager_bits_do_not_depend_on_the_chunk():
    """On a CPU, chunks of two or more slots are the same to the bit: a plan does not change a sweep's digest."""
    language = Language(width=32, depth=1, context=16, eval_bytes=256)
    stacks = []
    for size in (2, 4):
        plan = Plan(chunk=size, compiled=False)
        stacks.append(language.build(language.bucket({}), 4, Place(compile="never", plan=plan)))
        for slot in range(4):
            stacks[-1].admit(slot, {"dropout": 0.1 * slot}, seed=slot)
        stacks[-1].run([3] * 4)
    for slot in range(4):
        assert_same(stacks[0].state(slot), stacks[1].state(slot))
    first, second = (each.evaluate("validation", [0, 1, 2]) for each in stacks)
    np.testing.assert_array_equal(first["loss"], second["loss"])


# --- hyperparameters that stay


def test_fixed_hyperparameters_keep_their_defaults():
    """Another value is refused, wherever it comes in; the default is not."""
    place = replace(EAGER, fixed=frozenset({"dropout"}))
    members = stack(program(Network(), 4, 1), [{"dropout": 0.0}], place)
    for change in (
        lambda: members.admit(0, {"dropout": 0.5}, seed=0),
        lambda: members.set_hparams([0], dropout=[0.5]),
    ):
        with pytest.raises(TrainableError, match=r"hparam 'dropout' is 0\.5, but fixed at 0\.0 for all members here"):
            change()
    members.set_hparams([0], dropout=[0.0], lr=[0.5])
    assert members.hparams(0)["lr"] == 0.5


def test_only_what_is_fixed_at_nothing_is_left_out_of_a_graph():
    """What may be switched on later is in it."""
    place = replace(EAGER, fixed=frozenset({"dropout", "lr"}))
    assert stack(program(Network(), 4, 1), [{}], place)._table.absent == {"dropout"}
    assert stack(program(Network(), 4, 1), [{}], EAGER)._table.absent == frozenset()
