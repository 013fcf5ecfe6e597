"""The gradient noise scale against closed forms, and against the gradients of single examples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.func import grad, vmap

from tests.contracts.states import assert_same
from tests.trainables.core.regression import INPUTS, SIGMA, Linear, Network, program, stack
from trainables.core.noise import AVERAGES, Estimate, averaged, corrected, estimate, noise_scale
from trainables.core.rng import Draws

PARTS = ("noise.sq_norm", "noise.trace", "noise.count")


@pytest.mark.parametrize(("batch_size", "accumulate"), [(4, 2), (8, 2), (8, 4), (3, 3)])
def test_unbiased_where_the_moments_are_known(batch_size, accumulate):
    """Over 4,000 seeds both estimates' means are the closed forms, within 4 standard errors.

    The gradient of half of `(x w - sigma e)^2` is `x (x w - sigma e)`. For Gaussian x of n dimensions its mean is w,
    and with `E |x|^2 (x w)^2 = (n + 2) |w|^2` the trace of its covariance is `(n + 1) |w|^2 + n sigma^2`.
    """
    members = stack(program(Linear(start=0.4), batch_size, accumulate), [{"lr": 0.0}] * 4000)
    metrics = members.run([1] * 4000)
    sq_norm = INPUTS * 0.4**2
    trace = (INPUTS + 1) * sq_norm + INPUTS * SIGMA**2
    for name, wanted in (("grad_sq_norm", sq_norm), ("grad_noise_trace", trace)):
        values = metrics[name]
        assert abs(values.mean() - wanted) < 4 * values.std(ddof=1) / math.sqrt(len(values))
    assert metrics["grad_noise_trace"].mean() / metrics["grad_sq_norm"].mean() == pytest.approx(
        trace / sq_norm, rel=0.2
    )


def test_averages_come_to_the_closed_form():
    """Each member's own average over many steps is near the truth: what the metric is for."""
    members = stack(program(Linear(start=0.4), 16, 4, noise_decay=0.995), [{"lr": 0.0}] * 8)
    members.run([1500] * 8)
    sq_norm = INPUTS * 0.4**2
    scale = (INPUTS + 1) + INPUTS * SIGMA**2 / sq_norm
    np.testing.assert_allclose(members.run([1501] * 8)["noise_scale"], scale, rtol=0.35)


@pytest.mark.parametrize("accumulate", [2, 3, 6])
def test_agrees_with_the_gradients_of_single_examples(accumulate):
    """On a network: tr(Sigma) is the micro-batches' sample variance times their size, |G|^2 what remains of the mean's.

    The two-batch-size formulas come to this; with one example in each micro-batch it is the plain sample covariance.
    """
    made = program(Network(), 6, accumulate)
    members = stack(made, [{}, {"clip_norm": 1e-3}, {}])
    states = [members.state(slot) for slot in range(3)]
    metrics = members.run([1, 1, 1])
    for slot, state in enumerate(states):
        weights = {s.name.removeprefix("params."): s.tensor for s in state.shards if s.name.startswith("params.")}
        batch = made.feed.batch(Draws(torch.tensor([slot]), torch.tensor([0])))[0]

        def loss(weights, example):
            prediction = weights["down"] @ torch.tanh(weights["up"] @ example[:INPUTS])
            return (prediction[0] - example[INPUTS]).square() / 2

        singles = vmap(grad(loss), in_dims=(None, 0))(weights, batch)
        rows = torch.cat([g.flatten(1) for g in singles.values()], dim=1)
        size = 6 // accumulate
        trace = size * rows.view(accumulate, size, -1).mean(1).var(0).sum()
        sq_norm = rows.mean(0).square().sum() - trace / 6
        assert metrics["grad_noise_trace"][slot] == pytest.approx(trace.item(), rel=1e-11)
        assert metrics["grad_sq_norm"][slot] == pytest.approx(sq_norm.item(), rel=1e-11)
        scale = trace / sq_norm if sq_norm > 0 else torch.tensor(torch.inf)
        assert metrics["noise_scale"][slot] == pytest.approx(scale.item(), rel=1e-10)


def test_metrics_are_the_corrected_averages():
    """A run reports means over its steps of the corrected averages, and the ratio of the two means."""
    members = stack(program(Network(), 4, 2, noise_decay=0.8), [{}])
    weight, sums = 0.0, torch.zeros(2, dtype=torch.float64)
    single = stack(program(Network(), 4, 2, noise_decay=0.0), [{}])
    told = []
    for step in range(5):
        steps = single.run([step + 1])
        new = torch.tensor([steps["grad_sq_norm"][0], steps["grad_noise_trace"][0]], dtype=torch.float64)
        sums, weight = 0.8 * sums + 0.2 * new, 0.8 * weight + 0.2
        told.append(sums / weight)
    sq_norm, trace = torch.stack(told).mean(0).tolist()
    metrics = members.run([5])
    assert metrics["grad_sq_norm"][0] == pytest.approx(sq_norm, rel=1e-11)
    assert metrics["grad_noise_trace"][0] == pytest.approx(trace, rel=1e-11)
    assert metrics["noise_scale"][0] == metrics["grad_noise_trace"][0] / max(metrics["grad_sq_norm"][0], 0.0)


# --- the averages are part of a member


def _averages(members, slot):
    return {s.name: s.tensor.item() for s in members.state(slot).shards if s.name in PARTS}


def test_averages_begin_at_nothing_and_count():
    """They are in a member's state by plain names; `count` counts the estimates in them."""
    members = stack(program(Network(), 4, 2), [{}, {}])
    assert _averages(members, 0) == dict.fromkeys(PARTS, 0.0)
    members.run([3, 0])
    assert _averages(members, 0)["noise.count"] == 3.0
    assert _averages(members, 1) == dict.fromkeys(PARTS, 0.0)


def test_averages_follow_the_weights():
    """A copy takes over the donor's bit for bit, another stack an evicted member's, and a frozen slot keeps its own."""
    made = program(Network(), 4, 2)
    members = stack(made, [{}, {}, {}])
    members.run([4, 2, 3])
    frozen, donor = members.state(2), _averages(members, 0)
    members.copy([0], [1])
    assert _averages(members, 1) == donor
    members.run([8, 8, 3])
    assert_same(frozen, members.state(2))
    assert _averages(members, 1)["noise.count"] == 10.0
    elsewhere = stack(made, [{}, {}, {}])
    elsewhere.admit(1, {}, 2, state=members.evict(2))
    assert_same(frozen, elsewhere.state(1))
    stayed = stack(made, [{}, {}, {}])
    stayed.run([0, 0, 3])
    stayed.run([0, 0, 9])
    elsewhere.run([0, 9, 0])
    assert_same(stayed.state(2), elsewhere.state(1))


def test_without_micro_batches_nothing_is_measured():
    """Neither metrics nor state."""
    members = stack(program(Network(), 4, 1), [{}])
    assert set(members.run([1])) == {"loss", "grad_norm", "lr", "diverged"}
    assert not any(shard.name.startswith("noise") for shard in members.state(0).shards)


# --- formulas


def test_estimates_invert_the_expected_norms():
    """From `|G|^2 + tr(Sigma) / B` at two sizes both are found again."""
    sq_norm, trace = torch.tensor([2.0, 0.5]).double(), torch.tensor([3.0, 40.0]).double()
    found = estimate(sq_norm + trace / 4, sq_norm + trace / 32, 4, 32)
    torch.testing.assert_close(found, Estimate(sq_norm, trace))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("where", [0, 1])
def test_an_estimate_that_is_not_finite_is_left_out(bad, where):
    """Its member keeps its averages; the others' go on."""
    before = {name: torch.tensor([1.0, 2.0]).double() for name in AVERAGES}
    new = [torch.tensor([3.0, 3.0]).double() for _ in range(2)]
    new[where][0] = bad
    after = averaged(before, Estimate(*new), 0.75)
    assert {name: value.tolist() for name, value in after.items()} == {
        "sq_norm": [1.0, 2.25],
        "trace": [1.0, 2.25],
        "count": [1.0, 3.0],
    }


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.999])
def test_correction_makes_the_average_of_a_constant_that_constant(decay):
    """From the first estimate on; before it there is nothing to tell."""
    averages = {name: torch.zeros(2).double() for name in AVERAGES}
    assert corrected(averages, decay).trace.isnan().all()
    new = Estimate(torch.tensor([2.0, 3.0]).double(), torch.tensor([5.0, 7.0]).double())
    for _ in range(5):
        averages = averaged(averages, new, decay)
        assert corrected(averages, decay).sq_norm.tolist() == pytest.approx([2.0, 3.0], rel=1e-12)
        assert corrected(averages, decay).trace.tolist() == pytest.approx([5.0, 7.0], rel=1e-12)


@pytest.mark.parametrize(
    ("trace", "sq_norm", "scale"),
    [(6.0, 2.0, 3.0), (6.0, 0.0, torch.inf), (6.0, -1.0, torch.inf), (torch.nan, torch.nan, torch.nan)],
)
def test_the_scale_is_the_ratio(trace, sq_norm, scale):
    """Infinite where the gradient cannot be told from its noise."""
    found = noise_scale(Estimate(sq_norm=torch.tensor(sq_norm), trace=torch.tensor(trace))).item()
    assert found == pytest.approx(scale, nan_ok=True)
