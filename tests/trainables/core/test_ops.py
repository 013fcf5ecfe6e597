"""Each stacked layer against its plain counterpart, member by member, forward and backward (float64)."""

import pytest
import torch
import torch.nn.functional as F

from trainables.core import ops
from trainables.core.rng import Draws

K = 3


def _randn(*shape):
    size = torch.Size(shape).numel()
    return torch.randn(size, generator=torch.Generator().manual_seed(size), dtype=torch.float64).view(shape)


TOKENS = torch.arange(K * 10).view(K, 10) % 7
CASES = {
    "linear": (ops.linear, F.linear, (_randn(K, 10, 4), _randn(K, 6, 4))),
    "embedding": (
        lambda w: ops.embedding(TOKENS, w),
        None,
        (_randn(K, 7, 4),),
    ),
    "rms_norm": (
        ops.rms_norm,
        lambda x, w: x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w,
        (_randn(K, 10, 8), _randn(K, 8)),
    ),
    "cross_entropy": (
        lambda x: ops.cross_entropy(x, TOKENS),
        None,
        (_randn(K, 10, 9),),
    ),
}


def _plain(name, plain, member, tensors):
    if name == "embedding":
        return F.embedding(TOKENS[member], *tensors)
    if name == "cross_entropy":
        return F.cross_entropy(tensors[0], TOKENS[member])
    return plain(*tensors)


@pytest.mark.parametrize("name", CASES)
def test_equals_the_plain_layer(name):
    """Values and gradients of every member."""
    stacked, plain, tensors = CASES[name]
    leaves = [t.clone().requires_grad_() for t in tensors]
    values = stacked(*leaves)
    values.square().sum().backward()
    for member in range(K):
        own = [t[member].clone().requires_grad_() for t in tensors]
        value = _plain(name, plain, member, own)
        value.square().sum().backward()
        torch.testing.assert_close(values[member], value, rtol=1e-12, atol=1e-12)
        for leaf, single in zip(leaves, own, strict=True):
            torch.testing.assert_close(leaf.grad[member], single.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_nan_stays_with_its_member(name):
    """A member of NaNs has no part in the values or gradients of the others."""
    stacked, _, tensors = CASES[name]
    grads = []
    for poison in (False, True):
        leaves = [t.clone() for t in tensors]
        for leaf in leaves:
            if poison:
                leaf[1] = torch.nan
            leaf.requires_grad_()
        stacked(*leaves).reshape(K, -1).square().sum(1).sum().backward()
        grads.append([leaf.grad[[0, 2]] for leaf in leaves])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
    assert all(torch.isfinite(g).all() for g in grads[0])


def test_attention_is_causal_and_relative():
    """A position sees no later one, and equal shifts of all positions change nothing (rotary)."""
    qkv = _randn(K, 2 * 6, 3 * 8)
    base = ops.causal_attention(qkv, 6, 2).view(K, 2, 6, 8)
    later = qkv.clone().view(K, 2, 6, 24)
    later[:, :, 4:] += 1.0
    changed = ops.causal_attention(later.view(K, 12, 24), 6, 2).view(K, 2, 6, 8)
    assert torch.equal(base[:, :, :4], changed[:, :, :4])
    assert not torch.allclose(base[:, :, 4:], changed[:, :, 4:])
    angles = ops.rotary_angles(9, 4, qkv.device, torch.float64)
    q, k = _randn(1, 1, 4), _randn(1, 1, 4) + 1
    scores = [
        (ops.rotate(q, angles[:, i : i + 1]) * ops.rotate(k, angles[:, j : j + 1])).sum() for i, j in ((3, 1), (8, 6))
    ]
    torch.testing.assert_close(*scores)


def test_attention_folds_members_into_the_batch():
    """Members attend apart: each equals itself alone."""
    qkv = _randn(K, 12, 24)
    together = ops.causal_attention(qkv, 6, 2)
    for member in range(K):
        alone = ops.causal_attention(qkv[member : member + 1], 6, 2)
        torch.testing.assert_close(together[member], alone[0], rtol=1e-12, atol=1e-12)


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
