"""Stacked networks against plain torch.nn modules with the same weights, and what they say of themselves."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.trainables.networks.references import names_of, plain
from trainables.core.model import initial_values
from trainables.core.rng import Draws, keep, site
from trainables.networks.base import Pass, nothing_dropped
from trainables.networks.classifier import Classifier
from trainables.networks.norm import Norm
from trainables.networks.resnet import ResNet
from trainables.networks.vit import ViT, fixed_positions

K, BATCH = 2, 8
DRAWS = Draws(torch.tensor([5, 6]), torch.tensor([0, 3]))
RESNET = {"shape": (8, 6, 3), "classes": 5, "width": 4, "depth": 2, "stages": 2}
VIT = {"shape": (8, 6, 3), "classes": 5, "width": 8, "depth": 2, "heads": 2, "patch": 2}
NETWORKS = {
    "batch": ResNet(**RESNET),
    "ghost": ResNet(**RESNET, norm=Norm(kind="ghost", ghost_size=4)),
    "group": ResNet(**RESNET, norm=Norm(kind="group", groups=2)),
    "preactivated": ResNet(**RESNET, preactivation=True),
    "preactivated-ghost": ResNet(**RESNET, preactivation=True, norm=Norm(kind="ghost", ghost_size=2)),
    "odd": ResNet(**RESNET | {"shape": (7, 5, 1), "depth": 1, "stages": 3}),
    "vit": ViT(**VIT),
    "vit-oblong": ViT(**VIT | {"shape": (4, 8, 1), "patch": 4, "heads": 1}),
}


def _members(network, seeds=(1, 2)):
    """Parameters and buffers of K members, away from the zeros and ones that hide mistakes."""
    draw = torch.Generator().manual_seed(0)
    found = []
    for kind in ("parameters", "buffers"):
        if kind == "parameters":
            values = [initial_values(network.parameters(), seed) for seed in seeds]
        else:
            values = [network.buffers() for _ in seeds]
        stacked = {name: torch.stack([v[name] for v in values]).double() for name in values[0]}
        for name, tensor in stacked.items():
            noise = torch.randn(tensor.shape, generator=draw, dtype=torch.float64)
            stacked[name] = tensor + 0.1 * (noise.abs() if name.endswith(".var") else noise)
        found.append(stacked)
    return found


def _batch(network, num=BATCH, members=K):
    draw = torch.Generator().manual_seed(1)
    height, width, channels = network.shape
    images = torch.randint(256, (members, num, channels, height, width), generator=draw, dtype=torch.uint8)
    return images, torch.randint(network.classes, (members, num), generator=draw)


def _model(network):
    channels = network.shape[2]
    return Classifier(network, torch.linspace(100, 120, channels).double(), torch.linspace(60, 70, channels).double())


def _hparams(**changes):
    values = {"dropout": (0.0, 0.0), "label_smoothing": (0.0, 0.2), "bn_momentum": (0.1, 0.4), **changes}
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


def _normalised(model, images):
    return (images.double() - model.mean[:, None, None]) / model.std[:, None, None]


@pytest.mark.parametrize("name", NETWORKS)
def test_training_is_that_of_plain_modules(name):
    """Losses, gradients and running statistics over four batches are torch's, member by member (float64, 1e-10)."""
    network = NETWORKS[name]
    model, hparams = _model(network), _hparams()
    params, buffers = _members(network)
    references = [plain(network, {k: t[i] for k, t in {**params, **buffers}.items()}) for i in range(K)]
    for i, reference in enumerate(references):
        for module in reference.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = hparams["bn_momentum"][i].item()
    for step in range(4):
        images, labels = _batch(network, BATCH * (step + 1))
        images, labels = images[:, -BATCH:], labels[:, -BATCH:]
        leaves = {k: t.clone().requires_grad_() for k, t in params.items()}
        losses = model.loss(leaves, (images, labels), hparams, DRAWS, buffers=buffers)
        grads = dict(zip(leaves, torch.autograd.grad(losses.sum(), list(leaves.values())), strict=True))
        for i, reference in enumerate(references):
            logits = reference(_normalised(model, images[i]))
            loss = F.cross_entropy(logits, labels[i], label_smoothing=hparams["label_smoothing"][i].item())
            reference.zero_grad()
            loss.backward()
            torch.testing.assert_close(losses[i], loss, rtol=1e-10, atol=1e-12)
            for ours, grad in grads.items():
                theirs = reference.get_parameter(names_of(reference, ours)).grad
                torch.testing.assert_close(grad[i].view_as(theirs), theirs, rtol=1e-9, atol=1e-11, msg=ours)
    for ours, tensor in buffers.items():
        assert not tensor.requires_grad
        for i, reference in enumerate(references):
            torch.testing.assert_close(tensor[i], reference.get_buffer(names_of(reference, ours)), rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", NETWORKS)
def test_evaluation_is_that_of_plain_modules(name):
    """On running statistics; accuracy, error and unsmoothed loss are torch's, and no buffer changes."""
    network = NETWORKS[name]
    model = _model(network)
    params, buffers = _members(network)
    kept = dict(buffers)
    images, labels = (t[0] for t in _batch(network, 40, 1))
    found = model.evaluate(params, (images, labels), buffers)
    assert set(found) == {"accuracy", "error", "loss"}
    assert all(buffers[k] is kept[k] for k in kept)
    for i in range(K):
        reference = plain(network, {k: t[i] for k, t in {**params, **buffers}.items()}).eval()
        with torch.no_grad():
            logits = reference(_normalised(model, images))
        hits = (logits.argmax(1) == labels).double().mean()
        assert found["accuracy"][i] == hits
        assert found["error"][i] == pytest.approx(1 - hits.item())
        torch.testing.assert_close(found["loss"][i], F.cross_entropy(logits, labels), rtol=1e-10, atol=0)


@pytest.mark.parametrize(("name", "places"), [("batch", 4), ("preactivated", 4), ("vit", 4)])
def test_dropout_acts_in_every_block(name, places, monkeypatch):
    """Once in each block of a resnet, on both branches of a vit's: each place draws a mask of its own."""
    network = NETWORKS[name]
    sites = []
    monkeypatch.setattr(
        "trainables.core.ops.branches.keep", lambda key, *a: sites.append(key.tolist()) or keep(key, *a)
    )
    params, buffers = _members(network)
    model, batch = _model(network), _batch(network)
    plain_loss, off_loss, dropped = (
        model.loss(params, batch, _hparams(dropout=p), DRAWS, off, buffers)
        for p, off in (((0.0, 0.0), ()), ((0.0, 0.0), ("dropout",)), ((0.0, 0.5), ()))
    )
    assert len(sites) == 2 * places
    assert len({tuple(key) for key in sites}) == places
    assert DRAWS.key(site("blocks.0.mlp" if name == "vit" else "stages.0.0")).tolist() in sites
    assert torch.equal(plain_loss, off_loss)
    assert plain_loss[0] == dropped[0]
    assert plain_loss[1] != dropped[1]


@pytest.mark.parametrize("name", NETWORKS)
def test_flops_are_those_of_the_products(name):
    """Exactly what torch counts in one member's forward and backward pass, attention plain."""
    network = NETWORKS[name]
    params, buffers = _members(network, seeds=(1,))
    model, batch = _model(network), _batch(network, members=1)
    hparams = {k: t[:1] for k, t in _hparams().items()}
    leaves = {k: t.requires_grad_() for k, t in params.items()}
    draws = Draws(DRAWS.seed[:1], DRAWS.consumed[:1])
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss = model.loss(leaves, batch, hparams, draws, buffers=buffers)
        torch.autograd.grad(loss.sum(), list(leaves.values()))
    assert counter.get_total_flops() == BATCH * network.flops()


@pytest.mark.parametrize("name", ["batch", "preactivated", "vit"])
def test_activations_begin_at_one_size(name):
    """He et al. 2015 and its like: every block's activations are neither vanishing nor exploding at the start."""
    network = NETWORKS[name]
    params = {k: torch.stack([v]) for k, v in initial_values(network.parameters(), 0).items()}
    images, labels = _batch(network, members=1)
    buffers = {k: torch.stack([v]).double() for k, v in network.buffers().items()}
    kept = dict(buffers)
    seen = _model(network).activations(params, (images[0], labels[0]), buffers)
    assert all(buffers[k] is kept[k] for k in kept)
    blocks = [f"stages.{s}.{i}" for s in range(2) for i in range(2)] if name != "vit" else ["blocks.0", "blocks.1"]
    assert set(blocks) | {"head"} < set(seen)
    for block in blocks:
        assert 0.3 < seen[block].square().mean().sqrt().item() < 4.0
    # Uniform predictions at first.
    assert seen["head"].abs().max() == 0.0


def test_positions_are_sines_of_rows_then_columns():
    """Vaswani et al. 2017 on each axis: the first half of the width tells rows, the second columns."""
    found = fixed_positions(3, 5, 8, torch.device("cpu")).view(3, 5, 8)
    for row in range(3):
        for column in range(5):
            wanted = [f(at * w) for at in (row, column) for f in (math.sin, math.cos) for w in (1.0, 0.01)]
            torch.testing.assert_close(found[row, column], torch.tensor(wanted, dtype=torch.float64))


def test_fixed_positions_are_no_parameters():
    """With the same numbers in the table, learned positions give the same logits."""
    fixed, learned = ViT(**VIT, positions="fixed"), ViT(**VIT)
    params, _ = _members(learned)
    table = fixed_positions(4, 3, 8, torch.device("cpu"))
    params["positions"] = table.expand(K, -1, -1)
    x = torch.randn(K, 4, 3, 8, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    this = Pass(drop=nothing_dropped, momentum=None, buffers={})
    assert set(learned.parameters()) - set(fixed.parameters()) == {"positions"}
    torch.testing.assert_close(learned.logits(params, x, this), fixed.logits(params, x, this))


@pytest.mark.parametrize("name", NETWORKS)
def test_weight_decay_spares_vectors_and_positions(name):
    """Standard practice: convolutions and matrices decay; norms, biases and the table of positions do not."""
    parameters = NETWORKS[name].parameters()
    assert {k for k, p in parameters.items() if p.decay} == {
        k for k, p in parameters.items() if len(p.shape) > 1 and k != "positions"
    }


@pytest.mark.parametrize("name", ["batch", "vit"])
def test_it_computes_in_the_dtype_of_its_parameters(name):
    """bfloat16 parameters: loss and metrics come in float32, near those of float64."""
    network = NETWORKS[name]
    model, batch = _model(network), _batch(network)
    params, buffers = _members(network)
    exact = model.loss(params, batch, _hparams(), DRAWS, buffers=dict(buffers))
    low = {k: t.bfloat16() for k, t in params.items()}
    kept = {k: t.float() for k, t in buffers.items()}
    found = model.loss(low, batch, _hparams(), DRAWS, buffers=kept)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=0.05, atol=0.0)
    assert {t.dtype for t in kept.values()} <= {torch.float32}
    scores = model.evaluate(low, (batch[0][0], batch[1][0]), kept)
    assert {t.dtype for t in scores.values()} == {torch.float32}
