"""Clipping: each member to its own bound, with torch's scale."""

import pytest
import torch

from trainables.core.optim import clip, gradient_norm

K = 3
SHAPES = {"weight": (4, 3), "bias": (4,)}


def test_clipping_is_per_member():
    """Each member's gradient is scaled to its own bound; 0 and bounds not reached leave it bit for bit."""
    grads = {n: torch.full((4, *s), 2.0).double() for n, s in SHAPES.items()}
    norm = gradient_norm(grads)
    torch.testing.assert_close(norm, torch.full((4,), 8.0).double())
    clipped = clip(grads, norm, _column([0.0, 100.0, 1.0, 4.0]))
    for member in (0, 1):
        assert torch.equal(clipped["weight"][member], grads["weight"][member])
    torch.testing.assert_close(gradient_norm(clipped)[2:], torch.tensor([1.0, 4.0]).double(), rtol=1e-6, atol=0)


def test_clipping_equals_torch():
    """The scale is torch.nn.utils.clip_grad_norm_'s."""
    generator = torch.Generator().manual_seed(0)
    grads = {n: torch.randn(K, *s, generator=generator, dtype=torch.float64) for n, s in SHAPES.items()}
    clipped = clip(grads, gradient_norm(grads), _column([0.5] * K))
    for member in range(K):
        twin = [torch.zeros(s).double() for s in SHAPES.values()]
        for tensor, grad in zip(twin, grads.values(), strict=True):
            tensor.grad = grad[member].clone()
        torch.nn.utils.clip_grad_norm_(twin, 0.5)
        for tensor, grad in zip(twin, clipped.values(), strict=True):
            torch.testing.assert_close(grad[member], tensor.grad, rtol=1e-12, atol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_clipping_keeps_nan_with_its_member(bad):
    """A NaN or infinite gradient of one member scales no other."""
    grads = {n: torch.ones(3, *s).double() for n, s in SHAPES.items()}
    calm = clip(grads, gradient_norm(grads), _column([0.1] * 3))
    grads["bias"][1, 0] = bad
    wild = clip(grads, gradient_norm(grads), _column([0.1] * 3))
    for n in SHAPES:
        assert torch.equal(calm[n][[0, 2]], wild[n][[0, 2]])


def _column(values):
    return torch.tensor(list(values), dtype=torch.float64)
