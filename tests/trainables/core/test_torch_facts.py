"""What torch does with the values of K members, and what the core does in its place.

Each test states a limit of torch beside our answer to it. Where one fails after an update, torch has learned something:
then the core may become simpler.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from tests.contracts.states import assert_same, finite, same
from tests.trainables.core.regression import Linear, program, stack
from trainables import Language
from trainables.core import ops
from trainables.core.optim import clip, gradient_norm
from trainables.core.rng import Draws, site

K = 3
P = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
DRAWS = Draws(torch.arange(K), torch.arange(K))


def _randn(*shape, dtype=torch.float64):
    size = torch.Size(shape).numel()
    return torch.randn(size, generator=torch.Generator().manual_seed(size), dtype=dtype).view(shape)


# --- one value per member


def test_dropout_takes_one_probability():
    """F.dropout refuses `(K,)`, vmap or not; `ops.dropout` compares a hash with each member's own."""
    x = _randn(K, 4, 5)
    with pytest.raises(RuntimeError, match="ambiguous"):
        F.dropout(x, P)
    with pytest.raises(RuntimeError, match="data-dependent"):
        torch.vmap(F.dropout, randomness="different")(x, P)
    dropped = ops.dropout(torch.ones(K, 20_000), P, DRAWS, site("here")) == 0.0
    torch.testing.assert_close(dropped.double().mean(1), P, rtol=0, atol=5 * 0.5 / 20_000**0.5)


def test_label_smoothing_takes_one_share():
    """F.cross_entropy refuses `(K,)`, vmap or not; `ops.cross_entropy` has each member's own."""
    logits, targets = _randn(K, 6, 4), torch.zeros(K, 6, dtype=torch.int64)
    with pytest.raises(TypeError, match="label_smoothing"):
        F.cross_entropy(logits.flatten(0, 1), targets.flatten(), label_smoothing=P)
    with pytest.raises(RuntimeError, match="item"):
        torch.vmap(lambda x, y, p: F.cross_entropy(x, y, label_smoothing=p))(logits, targets, P)
    for member, loss in enumerate(ops.cross_entropy(logits, targets, P)):
        plain = F.cross_entropy(logits[member], targets[member], label_smoothing=P[member].item())
        torch.testing.assert_close(loss, plain)


def test_batch_norm_takes_one_momentum_and_its_own_buffers():
    """Under vmap F.batch_norm refuses statistics that are not the members', and `(K,)` momenta; ours are given both."""
    x, mean, var = _randn(K, 8, 5), torch.zeros(5).double(), torch.ones(5).double()
    with pytest.raises(RuntimeError, match="running_mean or running_var"):
        torch.vmap(lambda own: F.batch_norm(own, mean, var, training=True))(x)
    own = ops.Running(mean.expand(K, 5).clone(), var.expand(K, 5).clone())
    with pytest.raises(RuntimeError, match="item"):
        torch.vmap(lambda *t: F.batch_norm(*t[:3], training=True, momentum=t[3]))(x, *own, P)
    _, new = ops.batch_norm(x, own, P)
    torch.testing.assert_close(new.mean, P[:, None] * x.mean(1))


# --- fused attention


class _Kernels(TorchDispatchMode):
    """The attention and softmax kernels called, in order."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func.overloadpacket)
        if "attention" in name or "softmax" in name:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


FUSED = [
    "aten._scaled_dot_product_flash_attention_for_cpu",
    "aten._scaled_dot_product_flash_attention_for_cpu_backward",
]


def test_five_dimensions_are_not_fused():
    """torch fuses attention over `[batch, heads, T, D]` only; a dimension of members beside it is not seen through."""
    q = _randn(K, 2, 2, 6, 4)
    with _Kernels() as called:
        F.scaled_dot_product_attention(q, q, q, is_causal=True)
    assert called.names == ["aten._safe_softmax"]
    fused = sdpa_kernel(SDPBackend.FLASH_ATTENTION)
    with fused, pytest.warns(UserWarning, match="kernel"), pytest.raises(RuntimeError, match="No available kernel"):
        F.scaled_dot_product_attention(q, q, q, is_causal=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_members_in_the_batch_are_fused(causal, dtype):
    """`ops.attention` calls one fused kernel for all members, and one going backward, without being told to."""
    q = _randn(K, 2, 2, 6, 4, dtype=dtype).requires_grad_()
    with _Kernels() as called:
        ops.attention(q, q, q, causal=causal).sum().backward()
    assert called.names == FUSED


def test_the_language_model_is_fused(text):
    """One fused kernel a block and direction, at the default's shapes: positions are turned, members folded."""
    trainable = Language(data=text)
    model = trainable._program({}).model
    params = {name: _randn(K, *p.shape, dtype=torch.float32) for name, p in model.parameters().items()}
    leaves = {name: tensor.requires_grad_() for name, tensor in params.items()}
    batch = torch.zeros(K, trainable.batch, trainable.context + 1, dtype=torch.int64)
    with _Kernels() as called:
        model.loss(leaves, batch, {}, DRAWS, {"dropout"}).sum().backward()
    found = [name for name in called.names if "log_softmax" not in name]
    assert found == [FUSED[0]] * trainable.depth + [FUSED[1]] * trainable.depth


# --- where one member's NaN could reach another


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_norm_over_all_members_leaks(bad):
    """torch's clipping has one norm for whatever it is given; ours has one for each member."""
    stacked = nn.Parameter(torch.zeros(K, 4))
    stacked.grad = torch.ones(K, 4)
    stacked.grad[1, 2] = bad
    calm, wild = ({"w": g} for g in (torch.ones(K, 4), stacked.grad.clone()))
    nn.utils.clip_grad_norm_([stacked], 1.0)
    assert not torch.equal(stacked.grad[0], torch.full((4,), 0.5))
    bound = torch.full((K,), 1.0, dtype=torch.float64)
    clipped = [clip(grads, gradient_norm(grads), bound)["w"] for grads in (calm, wild)]
    assert torch.equal(clipped[0][[0, 2]], clipped[1][[0, 2]])
    torch.testing.assert_close(clipped[1][0], torch.full((4,), 0.5), rtol=1e-5, atol=0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_sum_of_losses_does_not_leak_but_what_depends_on_it_does(bad):
    """The sum's gradient is 1 for every loss, NaN or not; anything computed from the sum makes it NaN for all."""
    weights = torch.ones(K, requires_grad=True)
    factors = torch.tensor([2.0, bad, 3.0])
    losses = weights * factors
    (alone,) = torch.autograd.grad(losses.sum(), weights, retain_graph=True)
    assert alone[[0, 2]].tolist() == [2.0, 3.0]
    (coupled,) = torch.autograd.grad(losses.sum().square(), weights)
    assert not torch.isfinite(coupled).any()


def test_a_mask_that_multiplies_leaks():
    """0 * NaN is NaN: what is not to count is chosen by `where`, in dropout as in what a run reports."""
    x = torch.full((K, 64), torch.nan)
    assert torch.isnan(x * 0.0).all()
    x[0], x[2] = 1.0, torch.inf
    for member, dropped in enumerate(ops.dropout(x, torch.full((K,), 0.5).double(), DRAWS, site("here"))):
        zeros = dropped == 0.0
        assert 0 < zeros.sum() < 64
        assert torch.equal(dropped[~zeros].isnan(), x[member][~zeros].isnan())


def test_dropped_elements_have_no_gradient_whatever_comes_back():
    """NaN activations and NaN gradients from above end at a dropped element; kept ones pass theirs on."""
    x = torch.full((K, 64), torch.nan, requires_grad=True)
    y = ops.dropout(x, torch.full((K,), 0.5).double(), DRAWS, site("here"))
    dropped = y == 0.0
    (calm,) = torch.autograd.grad(y, x, torch.ones_like(y), retain_graph=True)
    assert set(calm[dropped].tolist()) == {0.0}
    assert set(calm[~dropped].tolist()) == {2.0}
    (wild,) = torch.autograd.grad(y, x, torch.full_like(y, torch.nan))
    assert set(wild[dropped].tolist()) == {0.0}
    assert wild[~dropped].isnan().all()


def test_a_branch_not_taken_has_a_gradient():
    """`where` keeps a NaN value out, but not the 0 * inf of its gradient; ours are given something harmless first."""
    x = torch.tensor([0.0, 4.0], requires_grad=True)
    (naive,) = torch.autograd.grad(torch.where(x > 0, x.sqrt(), 0.0).sum(), x, retain_graph=True)
    assert naive.isnan().tolist() == [True, False]
    safe = torch.where(x > 0, torch.where(x > 0, x, 1.0).sqrt(), 0.0)
    (found,) = torch.autograd.grad(safe.sum(), x)
    assert found.tolist() == [0.0, 0.25]
    # Our layers that choose by `where`, with the other branch infinite or NaN.
    logits = torch.tensor([[[0.0, 0.0, -torch.inf]]] * 2).double().requires_grad_()
    targets, smoothing = torch.zeros(2, 1, dtype=torch.int64), torch.tensor([0.0, 0.1]).double()
    (grads,) = torch.autograd.grad(ops.cross_entropy(logits, targets, smoothing).sum(), logits)
    assert grads[0].isfinite().all()
    table = torch.ones(1, 4, 2, requires_grad=True)
    rows = ops.embedding(torch.tensor([[0, 1]]), table, padding=1)
    rows.backward(torch.tensor([[[1.0, 1.0], [torch.nan, torch.nan]]]))
    assert table.grad[0].tolist() == [[1.0, 1.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]


def test_a_frozen_slot_may_hold_anything():
    """NaN in a slot that is not trained reaches neither the members nor the metrics, and stays bit for bit."""
    calm, wild = (stack(program(Linear(), 4, 2), [{"lr": 0.1}] * K) for _ in range(2))
    state = wild.state(1)
    for shard in state.shards:
        if shard.tensor.is_floating_point():
            shard.tensor.fill_(torch.nan)
    wild.admit(1, {"lr": 0.1}, seed=1, state=state)
    frozen = wild.state(1)
    metrics = [members.run([5, 0, 5]) for members in (calm, wild)]
    for slot in (0, 2):
        assert_same(calm.state(slot), wild.state(slot))
        assert [m[slot] for m in metrics[0].values()] == [m[slot] for m in metrics[1].values()]
    assert_same(frozen, wild.state(1))
    assert not finite(frozen)


def test_a_loss_scaler_would_couple_members():
    """torch.amp.GradScaler skips everybody's step where one gradient overflows. The core has none, and needs none.

    float32 and bfloat16 have the range that float16 lacks. A member that overflows takes its own step and diverges.
    """
    stacked = nn.Parameter(torch.ones(K, 2))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    scaler.scale((stacked * torch.tensor([[1.0], [torch.inf], [1.0]])).sum()).backward()
    scaler.step(torch.optim.SGD([stacked], lr=0.1))
    assert torch.equal(stacked, torch.ones(K, 2))
    members = stack(program(Linear(), 4, 1), [{"lr": 0.1}, {"lr": 1e200}, {"lr": 0.1}])
    before = members.state(0)
    assert members.run([4] * K)["diverged"].astype(bool).tolist() == [False, True, False]
    assert finite(members.state(0))
    assert not same(before, members.state(0))
