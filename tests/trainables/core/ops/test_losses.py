"""Label smoothing per member."""

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
