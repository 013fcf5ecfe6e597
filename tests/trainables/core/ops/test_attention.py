"""Causal attention with rotary positions. Attention by itself is in the table of layers."""

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from trainables.core import ops

K = 3


def _randn(*shape):
    size = torch.Size(shape).numel()
    return torch.randn(size, generator=torch.Generator().manual_seed(size), dtype=torch.float64).view(shape)


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


def test_attention_may_use_a_fused_kernel():
    """With only the fused kernel allowed, attention runs, backward too: members are part of the batch."""
    q = _randn(K, 2, 2, 6, 4).requires_grad_()
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        fused = ops.attention(q, q, q, causal=True)
    fused.sum().backward()
    plain = F.scaled_dot_product_attention(q, q, q, is_causal=True)
    torch.testing.assert_close(fused, plain, rtol=1e-12, atol=1e-12)


def test_normalised_queries_and_keys_are_those_of_torch():
    """Each head's queries and keys go through torch.nn.RMSNorm with the member's gains, before they are turned."""
    qkv, gains = _randn(K, 2 * 6, 3 * 8), 1.0 + _randn(K, 2, 4)
    found = ops.causal_attention(qkv, 6, 2, gains=gains)
    for member in range(K):
        q, k, v = qkv[member].view(2, 6, 3, 2, 4).unbind(2)
        turned = []
        for x, gain in zip((q, k), gains[member], strict=True):
            norm = torch.nn.RMSNorm(4, eps=1e-6, dtype=torch.float64)
            norm.weight.data = gain
            turned.append(ops.rotate(norm(x), ops.rotary_angles(6, 4, qkv.device, torch.float64)).transpose(1, 2))
        mixed = F.scaled_dot_product_attention(*turned, v.transpose(1, 2), is_causal=True)
        torch.testing.assert_close(found[member], mixed.transpose(1, 2).reshape(12, 8), rtol=1e-12, atol=1e-12)
