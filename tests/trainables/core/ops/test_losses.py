"""Cross entropy, label smoothing and penalties per member."""

import pytest
import torch

from trainables.core import ops


def test_a_member_without_smoothing_has_the_plain_loss():
    """Its smoothing of 0 gives the bits of no smoothing at all, whatever the others do."""
    logits = torch.randn(2, 10, 9, generator=torch.Generator().manual_seed(0))
    targets = (torch.arange(20) % 9).view(2, 10)
    smoothed = ops.cross_entropy(logits, targets, torch.tensor([0.0, 0.2]))
    plain = ops.cross_entropy(logits, targets)
    assert torch.equal(smoothed[0], plain[0])
    assert smoothed[1] != plain[1]


@pytest.mark.parametrize("counted", [None, torch.arange(20).view(2, 10) < 15], ids=["all", "some"])
def test_what_is_compiled_is_the_same_loss(monkeypatch, counted):
    """Cross entropy as it is written for the compiler has torch's values and gradients, with -inf among the logits."""
    logits = torch.randn(2, 10, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits[0, 3, 7] = -torch.inf
    targets = (torch.arange(20) % 9).view(2, 10)
    weight = torch.tensor([1.0, -3.0], dtype=torch.float64)
    found = []
    for is_compiling in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda so=is_compiling: so)
        leaf = logits.clone().requires_grad_()
        losses = ops.cross_entropy(leaf, targets, counted=counted)
        found.append((losses.detach(), *torch.autograd.grad((losses * weight).sum(), leaf)))
    plain, compiled = found
    torch.testing.assert_close(compiled, plain, rtol=1e-12, atol=1e-15)
    assert not torch.equal(compiled[1], plain[1])  # by its last bits another way


def test_a_class_ruled_out_costs_those_who_smooth():
    """A logit of -inf leaves the loss and gradient of a member without smoothing finite."""
    logits = torch.zeros(2, 1, 3)
    logits[:, :, 2] = -torch.inf
    logits.requires_grad_()
    losses = ops.cross_entropy(logits, torch.zeros(2, 1, dtype=torch.int64), torch.tensor([0.0, 0.1]))
    assert losses[0].isfinite()
    assert losses[1] == torch.inf
    losses[0].backward()
    assert logits.grad.isfinite().all()


def test_a_penalty_acts_on_the_gradient_alone():
    """The value is the loss; the gradient is that of loss and penalty together, each member at its own strength."""
    x = torch.tensor([2.0, 3.0, 5.0], dtype=torch.float64, requires_grad=True)
    strength = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64)
    found = ops.penalized(x.square(), x.pow(3), strength)
    assert torch.equal(found, x.square())
    found.sum().backward()
    torch.testing.assert_close(x.grad, 2 * x.detach() + strength * 3 * x.detach().square(), rtol=1e-15, atol=0)


def test_a_penalty_of_strength_0_is_none_even_if_it_overflows():
    """A log Z of 1e20, squared, is infinite in float32: a member that asks for no z-loss does not notice."""
    logits = torch.full((1, 1, 2), 1e20, requires_grad=True)
    loss = ops.cross_entropy(logits, torch.zeros(1, 1, dtype=torch.int64))
    (plain,) = torch.autograd.grad(loss.sum(), logits, retain_graph=True)
    found = ops.penalized(loss, ops.z_loss(logits), torch.zeros(1))
    (grad,) = torch.autograd.grad(found.sum(), logits)
    assert ops.z_loss(logits).item() == torch.inf
    assert torch.equal(found, loss)
    assert torch.equal(grad, plain)
