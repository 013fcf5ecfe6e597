"""Running statistics, explicit and per member, and ghost batches."""

import pytest
import torch
from torch import nn

from trainables import TrainableError
from trainables.core import ops

K, C = 3, 4
MOMENTUM = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)


def _batches(num):
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(K, 8, C, 3, generator=draw, dtype=torch.float64) * 2 + 1 for _ in range(num)]


def _fresh():
    return ops.Running(torch.zeros(K, C).double(), torch.ones(K, C).double())


def test_each_member_has_its_own_momentum():
    """Five batches leave the running statistics of torch's layer with each member's momentum."""
    running = _fresh()
    plain = [nn.BatchNorm1d(C, momentum=m).double() for m in MOMENTUM.tolist()]
    for batch in _batches(5):
        _, running = ops.batch_norm(batch, running, MOMENTUM)
        for member, layer in enumerate(plain):
            layer(batch[member])
    for member, layer in enumerate(plain):
        torch.testing.assert_close(running.mean[member], layer.running_mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(running.var[member], layer.running_var, rtol=1e-12, atol=1e-12)


def test_momentum_is_live():
    """A changed momentum acts in the next batch, for that member only."""
    batch = _batches(1)[0]
    changed = MOMENTUM.clone()
    changed[0] = 0.3
    (_, before), (_, after) = (ops.batch_norm(batch, _fresh(), m) for m in (MOMENTUM, changed))
    assert not torch.equal(before.mean[0], after.mean[0])
    assert torch.equal(before.mean[1:], after.mean[1:])


@pytest.mark.parametrize("ghosts", [1, 2, 4])
def test_statistics_given_are_left_as_they_are(ghosts):
    """New ones are returned, outside the graph; nothing is changed in place."""
    given = _fresh()
    x = _batches(1)[0].requires_grad_()
    y, new = ops.ghost_batch_norm(x, given, MOMENTUM, 8 // ghosts)
    assert all(torch.equal(a, b) for a, b in zip(given, _fresh(), strict=True))
    assert y.requires_grad
    assert not any(statistic.requires_grad for statistic in new)


def test_ghosts_are_taken_in_one_after_the_other():
    """Hoffer et al. 2017, algorithm 1: running statistics as after a batch norm of each ghost batch in turn."""
    x = _batches(1)[0]
    y, together = ops.ghost_batch_norm(x, _fresh(), MOMENTUM, ghost_size=2)
    running = _fresh()
    for i in range(4):
        part, running = ops.batch_norm(x[:, i::4], running, MOMENTUM)
        torch.testing.assert_close(y[:, i::4], part, rtol=1e-12, atol=1e-12)
    for a, b in zip(together, running, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [0, 3, 9])
def test_ghosts_must_divide_the_batch(size):
    """The message names the size and the batch."""
    with pytest.raises(TrainableError, match=f"ghost_size is {size}; give a divisor of the batch size 8"):
        ops.ghost_batch_norm(_batches(1)[0], None, MOMENTUM, size)


def test_one_value_per_channel_is_refused():
    """As in torch: it has no variance."""
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        ops.batch_norm(torch.zeros(K, 1, C), _fresh(), MOMENTUM)


def test_a_gain_need_not_be_contiguous():
    """The gradient is that of a contiguous one: torch's kernel would read what lies between."""
    x = _batches(1)[0][:1].requires_grad_()
    wide = torch.arange(1.0, 9.0, dtype=torch.float64)[None]
    found = []
    for gain in (wide[:, ::2], wide[:, ::2].contiguous()):
        y, _ = ops.batch_norm(x, None, MOMENTUM[:1], gain)
        frozen = ops.batch_norm_inference(x, ops.Running(*(t[:1] for t in _fresh())), gain)
        found.append(torch.autograd.grad((y.pow(3) + frozen.pow(3)).sum(), x)[0])
    assert torch.equal(*found)


@pytest.mark.parametrize("ghosts", [1, 2])
def test_statistics_of_bfloat16_are_in_float32(ghosts):
    """Twenty steps of a running mean arrive, each below bfloat16's spacing; gradients are as the parameters."""
    x = (torch.arange(8.0) / 8 + 1).expand(K, 1, -1).mT.reshape(K, 8, 1).bfloat16()
    gain = torch.ones(K, 1).bfloat16().requires_grad_()
    momentum = torch.full((K,), 1e-3, dtype=torch.float64)
    running = ops.Running(torch.ones(K, 1), torch.ones(K, 1))
    for _ in range(20):
        y, running = ops.ghost_batch_norm(x, running, momentum, 8 // ghosts, gain)
    left = (1 - 1e-3) ** (20 * ghosts)
    torch.testing.assert_close(running.mean, torch.full((K, 1), left + (1 - left) * 1.4375), rtol=1e-5, atol=0)
    frozen = ops.batch_norm_inference(x, running, gain)
    assert {y.dtype, frozen.dtype} == {torch.bfloat16}
    (grad,) = torch.autograd.grad((y.float().pow(3) + frozen.float()).sum(), gain)
    assert grad.dtype == torch.bfloat16
