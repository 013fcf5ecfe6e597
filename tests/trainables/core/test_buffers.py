"""Buffers of models and feeds: they belong to the weights."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from tests.contracts.states import assert_same
from tests.trainables.core.regression import INPUTS, Drawn, program
from trainables import Place, Plan
from trainables.core.model import Parameter
from trainables.core.rng import Draws
from trainables.core.stack import CoreStack


@dataclass(frozen=True)
class Remembers:
    """Keeps the running mean of its inputs, subtracts it, and counts its calls."""

    def parameters(self):
        return {"w": Parameter(shape=(INPUTS,), mean=0.5)}

    def buffers(self):
        return {"mean": torch.full((INPUTS,), 2.0), "calls": torch.tensor(5)}

    def loss(self, params, batch, hparams, draws, off=(), buffers=None):
        inputs = batch[..., :INPUTS]
        mean = 0.5 * buffers["mean"] + 0.5 * inputs.mean(1)
        buffers["mean"], buffers["calls"] = mean.detach(), buffers["calls"] + 1
        return torch.einsum("kbi,ki->kb", inputs - mean[:, None], params["w"]).square().mean(1)

    def evaluate(self, params, batch, buffers=None):
        return {"sum": buffers["mean"].sum(1) * params["w"].sum(1)}


@dataclass(frozen=True)
class Counts(Drawn):
    """Drawn examples, and how many batches were drawn."""

    def buffers(self):
        return {"drawn": torch.tensor(0)}

    def batch(self, draws, hparams=None, buffers=None):
        buffers["drawn"] = buffers["drawn"] + 1
        return super().batch(draws)


def members(count: int = 3, accumulate: int = 1, chunk: int = 8) -> CoreStack:
    made = replace(program(Remembers(), 4, accumulate), feed=Counts(4))
    stack = CoreStack(made, count, Place(dtype="float64", compile="never", plan=Plan(chunk=chunk, compiled=False)))
    for slot in range(count):
        stack.admit(slot, {}, seed=slot)
    return stack


def held(stack: CoreStack, slot: int) -> dict[str, torch.Tensor]:
    found = {shard.name: shard.tensor for shard in stack.state(slot).shards}
    return {name: value for name, value in found.items() if name.startswith(("buffers", "counters"))}


def test_fresh_members_begin_as_the_model_and_the_feed_say():
    """Under their names in a state; whole numbers stay whole."""
    found = held(members(), 1)
    assert {name: value.tolist() for name, value in found.items()} == {
        "buffers.mean": [2.0] * INPUTS,
        "counters.calls": 5,
        "counters.drawn": 0,
    }
    assert found["counters.calls"].dtype == torch.int64


@pytest.mark.parametrize("chunk", [1, 2, 8])
def test_they_are_renewed_in_active_slots_only(chunk):
    """By the closed form of a running mean; frozen and finished slots keep theirs."""
    stack = members(chunk=chunk)
    stack.run([2, 0, 1])
    feed, mean = Drawn(4), torch.full((INPUTS,), 2.0, dtype=torch.float64)
    for step in range(2):
        inputs = feed.batch(Draws(torch.tensor([0]), torch.tensor([step])))[0, :, :INPUTS]
        mean = (mean + inputs.mean(0)) / 2
    torch.testing.assert_close(held(stack, 0)["buffers.mean"], mean)
    assert [int(held(stack, slot)["counters.calls"]) for slot in range(3)] == [7, 5, 6]
    assert [int(held(stack, slot)["counters.drawn"]) for slot in range(3)] == [2, 0, 1]


def test_micro_batches_renew_them_one_after_the_other():
    """As separate calls would."""
    stack = members(accumulate=2)
    stack.run([3] * 3)
    assert int(held(stack, 0)["counters.calls"]) == 11
    assert int(held(stack, 0)["counters.drawn"]) == 3


def test_they_follow_the_weights():
    """Through a copy, an eviction and an admission."""
    stack, other = members(), members()
    stack.run([4, 1, 2])
    stack.copy([0], [2])
    for name, value in held(stack, 0).items():
        assert torch.equal(held(stack, 2)[name], value)
    before = stack.state(2)
    other.admit(1, {}, seed=2, state=stack.evict(2))
    assert_same(before, other.state(1))


def test_evaluation_reads_them_and_changes_nothing():
    """Each member's own."""
    stack = members()
    stack.run([3, 0, 5])
    before = [stack.state(slot) for slot in range(3)]
    found = stack.evaluate("validation", [2, 0])["sum"]
    for slot in (0, 2):
        weights = {shard.name: shard.tensor for shard in before[slot].shards}
        assert found[slot] == pytest.approx(float(weights["buffers.mean"].sum() * weights["params.w"].sum()))
        assert_same(before[slot], stack.state(slot))
