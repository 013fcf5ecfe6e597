"""A step in micro-batches is the step, and what it says of divergence."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.contracts.states import assert_close, assert_same
from tests.trainables.core.regression import Linear, Network, program, stack
from trainables import Place, TrainableError
from trainables.core.rng import Draws, keep
from trainables.core.step import compiler

MEMBERS = [{"dropout": 0.0}, {"dropout": 0.3, "clip_norm": 0.05}, {"lr": 0.3, "dropout": 0.5}]


def _weights(state):
    """Without what only a stack with micro-batches measures."""
    shards = tuple(shard for shard in state.shards if not shard.name.startswith("noise."))
    return type(state)(shards, state.age, state.consumed, state.seed)


@pytest.mark.parametrize("accumulate", [2, 3, 6])
def test_micro_batches_make_the_same_step(accumulate):
    """Same examples, same dropout masks, same clipping: 20 steps in float64 agree to 1e-12."""
    whole, parts = (stack(program(Network(), 6, count), MEMBERS) for count in (1, accumulate))
    metrics = [members.run([20] * 3) for members in (whole, parts)]
    for slot in range(3):
        assert_close(whole.state(slot), _weights(parts.state(slot)), 1e-12)
    for name, values in metrics[0].items():
        np.testing.assert_allclose(metrics[1][name], values, rtol=1e-12)


@pytest.mark.parametrize("first", [0, 1, 3, 4, 14, 21])
def test_a_part_of_a_mask_is_that_part(first):
    """Wherever it begins, in the middle of a hashed word too."""
    key, p = Draws(torch.tensor([1, 2]), torch.tensor([3, 4])).key(5), torch.tensor([0.3, 0.6]).double()
    assert torch.equal(keep(key, 17, p, first), keep(key, 60, p)[:, first : first + 17])


def test_nan_stays_with_its_member():
    """In micro-batches as in one: the others, and what is measured of them, keep every bit."""
    calm, wild = (stack(program(Network(), 6, 3), MEMBERS) for _ in range(2))
    wild.set_hparams([1], lr=[1e200], clip_norm=[0.0])
    metrics = [members.run([6] * 3) for members in (calm, wild)]
    for slot in (0, 2):
        assert_same(calm.state(slot), wild.state(slot))
        assert [m[slot] for m in metrics[0].values()] == [m[slot] for m in metrics[1].values()]
    assert not np.isfinite(metrics[1]["loss"][1])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_diverged_is_the_share_of_steps_that_are_not_finite(accumulate):
    """At a rate that blows the error up by some 1e60 a step, the first steps are finite and the rest are not."""
    hparams = [{"lr": 0.1}, {"lr": 1e60}]
    single, whole = (stack(program(Linear(), 4, accumulate), hparams) for _ in range(2))
    singles = [single.run([step + 1] * 2) for step in range(10)]
    finite = [bool(np.isfinite(m["loss"][1]) and np.isfinite(m["grad_norm"][1])) for m in singles]
    assert 0 < sum(finite) < 10
    assert [m["diverged"][1] for m in singles] == [float(not is_finite) for is_finite in finite]
    assert whole.run([10, 10])["diverged"].tolist() == [0.0, pytest.approx(1 - sum(finite) / 10)]
    assert np.isnan(whole.run([11, 10])["diverged"]).tolist() == [False, True]


@pytest.mark.full
@pytest.mark.skipif(compiler() is None, reason="no C++ compiler for torch.compile")
def test_compiled_equals_eager():
    """Micro-batches and what is measured on them are one graph, and the same numbers."""
    eager, compiled = (
        stack(program(Network(), 6, 2), MEMBERS, Place(dtype="float64", compile=how)) for how in ("never", "always")
    )
    metrics = [members.run([5] * 3) for members in (eager, compiled)]
    for slot in range(3):
        assert_close(eager.state(slot), compiled.state(slot), 1e-12)
    for name, values in metrics[0].items():
        np.testing.assert_allclose(metrics[1][name], values, rtol=1e-9)


@pytest.mark.parametrize("accumulate", [4, 12])
def test_a_number_that_does_not_divide_the_batch_is_refused(accumulate):
    """When a stack is built, not at its first step."""
    with pytest.raises(TrainableError, match=f"accumulate is {accumulate}; give a number that divides the batch"):
        stack(program(Network(), 6, accumulate), [{}])


@pytest.mark.parametrize(
    ("accumulate", "decay", "message"),
    [
        (0, 0.9, "accumulate is 0"),
        (1.5, 0.9, r"accumulate is 1\.5"),
        (True, 0.9, "accumulate is True"),
        (2, 1.0, r"noise_decay is 1\.0"),
        (2, -0.1, r"noise_decay is -0\.1"),
        (2, float("nan"), "noise_decay is nan"),
        (2, "slow", "noise_decay is 'slow'"),
    ],
)
def test_numbers_that_make_no_step_are_refused(accumulate, decay, message):
    """Each message names the option and the value."""
    with pytest.raises(TrainableError, match=message):
        program(Network(), 6, accumulate, decay)
