"""The layers as one graph."""

import pytest
import torch
import torch.nn.functional as F

from trainables.core import ops
from trainables.core.rng import Draws
from trainables.core.step import COMPILER_OPTIONS, compiler

K = 3


def _shapes():
    conv = {"conv.weight": (4, 3, 3, 3), "conv.bias": (4,), "bn.weight": (4,), "bn.bias": (4,)}
    mixer = {"in.weight": (24, 8), "in.bias": (24,), "norm.weight": (8,), "norm.bias": (8,), "gate": ()}
    return conv | mixer | {"lift.weight": (8, 4), "gn.weight": (4,), "head.weight": (5, 8)}


def _losses(params, running, x, targets, hparams, draws):
    """A small mixed network: convolution, norms, pooling, attention, dropout, a gate and smoothing."""
    y = ops.conv2d(x, params["conv.weight"], params["conv.bias"], padding=1)
    y, running = ops.batch_norm(y, running, hparams["momentum"], params["bn.weight"], params["bn.bias"])
    y = ops.max_pool2d(F.relu(ops.group_norm(y, 2, params["gn.weight"])), 2)
    tokens = ops.linear(y.flatten(3).transpose(2, 3), params["lift.weight"])
    normed = ops.layer_norm(tokens, params["norm.weight"], params["norm.bias"])
    qkv = ops.linear(normed, params["in.weight"], params["in.bias"]).unflatten(-1, (3, 2, 4))
    q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).unbind(0)
    mixed = ops.attention(q, k, v).transpose(2, 3).flatten(3)
    tokens = ops.gated_residual(tokens, ops.dropout(mixed, hparams["p"], draws, 1), params["gate"])
    logits = ops.linear(ops.rms_norm(tokens.mean(2), None), params["head.weight"])
    return ops.cross_entropy(logits, targets, hparams["smoothing"]), running


def _small(params, running, x, targets, hparams, draws):
    """What is compiled to machine code, which takes seconds a kernel; 96 elements to drop out are no whole vectors."""
    y, running = ops.batch_norm(x.flatten(2), running, hparams["momentum"])
    y = ops.dropout(y, hparams["p"], draws, 1)
    return ops.cross_entropy(ops.linear(y, params["head.weight"]), targets), running


@pytest.mark.skipif(compiler() is None, reason="no C++ compiler for torch.compile")
@pytest.mark.parametrize(
    ("losses", "shapes", "how"),
    [
        (_losses, _shapes(), {"backend": "aot_eager"}),
        pytest.param(_small, {"head.weight": (5, 48)}, {"options": COMPILER_OPTIONS}, marks=pytest.mark.full),
    ],
    ids=["traced", "compiled"],
)
def test_compiled_equals_eager(losses, shapes, how):
    """One graph without a break has the losses, statistics and gradients of the eager layers, to 1e-5."""
    draw = torch.Generator().manual_seed(0)
    params = {name: torch.randn(K, *shape, generator=draw) for name, shape in shapes.items()}
    channels = 4 if losses is _losses else 48
    running = ops.Running(torch.zeros(K, channels), torch.ones(K, channels))
    x, targets = torch.randn(K, 2, 3, 4, 4, generator=draw), torch.tensor([[0, 4], [1, 3], [2, 2]])
    shares = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    hparams = {"momentum": shares, "p": shares, "smoothing": shares}
    found = []
    for run in (losses, torch.compile(losses, fullgraph=True, dynamic=False, **how)):
        leaves = {name: t.clone().requires_grad_() for name, t in params.items()}
        values, new = run(leaves, running, x, targets, hparams, Draws(torch.arange(K), torch.arange(K)))
        grads = torch.autograd.grad(values.sum(), list(leaves.values()))
        found.append([values.detach(), *new, *grads])
    for eager, compiled in zip(*found, strict=True):
        assert (eager - compiled).norm() <= 1e-5 * max(1.0, eager.norm())
