"""Dropout by counter hash, and gates."""

import torch

from trainables.core import ops
from trainables.core.rng import Draws


def test_dropout_has_a_probability_per_member():
    """Kept elements are scaled by 1 / (1 - p), members and sites draw apart, and 0 changes nothing."""
    x = torch.ones(3, 50_000)
    draws = Draws(torch.tensor([1, 1, 2]), torch.tensor([4, 4, 4]))
    p = torch.tensor([0.0, 0.5, 0.5], dtype=torch.float64)
    dropped = ops.dropout(x, p, draws, site=3)
    assert torch.equal(dropped[0], x[0])
    assert set(dropped[1].tolist()) == {0.0, 2.0}
    assert abs(dropped[1].mean() - 1.0) < 5 / 50_000**0.5
    assert not torch.equal(dropped[1], dropped[2])
    assert not torch.equal(dropped[1], ops.dropout(x, p, draws, site=4)[1])


def test_dropout_of_a_nan_stays_with_its_member():
    """NaN activations of one member pass through its own mask only."""
    x = torch.ones(2, 100)
    x[0] = torch.nan
    draws = Draws(torch.tensor([1, 2]), torch.tensor([0, 0]))
    assert torch.isfinite(ops.dropout(x, torch.tensor([0.5, 0.5]).double(), draws, 0)[1]).all()


def test_a_gate_of_zero_is_the_identity():
    """A residual block that begins gated off passes its input on, and its gate learns at once."""
    x, branch = torch.ones(2, 3, 4), torch.full((2, 3, 4), 2.0)
    gate = torch.zeros(2, requires_grad=True)
    y = ops.gated_residual(x, branch, gate)
    assert torch.equal(y, x)
    y.sum().backward()
    assert gate.grad.tolist() == [24.0, 24.0]
