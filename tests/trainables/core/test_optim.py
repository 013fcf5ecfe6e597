"""Stacked optimizers against torch.optim, one member at a time (float64, 200 free-running steps, 1e-9)."""

import pytest
import torch

from trainables.core.optim import SGD, AdamW, clip, gradient_norm

K, STEPS = 3, 200
SHAPES = {"weight": (4, 3), "bias": (4,)}
LRS = (1e-3, 3e-2, 1e-1)

ADAMW = [
    {"weight_decay": 0.0, "beta1": 0.9, "beta2": 0.999},
    {"weight_decay": 0.1, "beta1": 0.8, "beta2": 0.95},
    {"weight_decay": 1.0, "beta1": 0.0, "beta2": 0.5},
]
MOMENTUM = [
    {"momentum": 0.0, "weight_decay": 0.0},
    {"momentum": 0.9, "weight_decay": 0.01},
    {"momentum": 0.5, "weight_decay": 0.2},
]


def _adamw(params, lr, h):
    return torch.optim.AdamW(params, lr=lr, betas=(h["beta1"], h["beta2"]), weight_decay=h["weight_decay"])


def _sgd(nesterov):
    return lambda params, lr, h: torch.optim.SGD(params, lr=lr, nesterov=nesterov, **h)


CASES = {
    "adamw": (AdamW(), ADAMW, _adamw),
    "sgd": (SGD(), [{}, {}, {}], _sgd(False)),
    "sgd-momentum": (SGD(momentum=True), MOMENTUM, _sgd(False)),
    # torch refuses Nesterov with momentum 0.
    "sgd-nesterov": (SGD(momentum=True, nesterov=True), [MOMENTUM[1], *MOMENTUM[1:]], _sgd(True)),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_torch(name):
    """Every member follows its torch twin, which has that member's hyperparameters."""
    optimizer, hparams, make = CASES[name]
    params, twins = _start()
    makers = [make(twin.values(), lr, h) for twin, lr, h in zip(twins, LRS, hparams, strict=True)]
    moments = {m: {n: torch.zeros_like(t) for n, t in params.items()} for m in optimizer.moments}
    tensors = {n: _column(h[n] for h in hparams) for n in hparams[0]}
    for step in range(1, STEPS + 1):
        grads = {n: _gradient(t) for n, t in params.items()}
        steps = torch.full((K,), step)
        optimizer.update(params, grads, moments, steps, _column(LRS), tensors, set(SHAPES))
        for twin, torch_optimizer in zip(twins, makers, strict=True):
            for tensor in twin.values():
                tensor.grad = _gradient(tensor.detach())
            torch_optimizer.step()
    for member, twin in enumerate(twins):
        for n, tensor in twin.items():
            torch.testing.assert_close(params[n][member], tensor.detach(), rtol=1e-9, atol=0)


def test_members_may_be_at_different_steps():
    """Bias correction counts each member's own updates: a late comer's first step is a first step."""
    first, late = ({n: torch.ones(2, *s).double() for n, s in SHAPES.items()} for _ in range(2))
    optimizer, hparams = AdamW(), {n: _column([v, v]) for n, v in ADAMW[1].items()}
    for params, steps in ((first, [1, 1]), (late, [1, 500])):
        moments = {m: {n: torch.zeros_like(t) for n, t in params.items()} for m in optimizer.moments}
        grads = {n: torch.full_like(t, 0.3) for n, t in params.items()}
        optimizer.update(params, grads, moments, torch.tensor(steps), _column([0.1, 0.1]), hparams, ())
    assert torch.equal(first["weight"][0], late["weight"][0])
    assert not torch.allclose(first["weight"][1], late["weight"][1])


def test_decay_acts_on_the_named_only():
    """With no gradient, what is named shrinks by 1 - lr * decay and the rest stays."""
    params = {n: torch.ones(1, *s).double() for n, s in SHAPES.items()}
    optimizer, hparams = AdamW(), {n: _column([v]) for n, v in ADAMW[1].items()}
    moments = {m: {n: torch.zeros_like(t) for n, t in params.items()} for m in optimizer.moments}
    grads = {n: torch.zeros_like(t) for n, t in params.items()}
    args = (moments, torch.tensor([1]), _column([0.5]), hparams, {"weight"})
    optimizer.update(params, grads, *args)
    torch.testing.assert_close(params["weight"], torch.full_like(params["weight"], 0.95))
    assert torch.equal(params["bias"], torch.ones_like(params["bias"]))


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
    grads = {n: _gradient(t) for n, t in _start()[0].items()}
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


def _start():
    """Equal starting values: stacked, and per member."""
    generator = torch.Generator().manual_seed(0)
    params = {n: torch.randn(K, *s, generator=generator, dtype=torch.float64) for n, s in SHAPES.items()}
    twins = [{n: t[member].clone().requires_grad_() for n, t in params.items()} for member in range(K)]
    return params, twins


def _gradient(x):
    """Of a bumpy function, elementwise, so that steps keep changing direction."""
    return x + 2.0 * torch.sin(3.0 * x)


def _column(values):
    return torch.tensor(list(values), dtype=torch.float64)
