"""Stacked optimizers against torch.optim, or against the paper's pseudo-code in numpy, one member at a time.

float64, up to 200 free-running steps, to 1e-9 of each element; members differ in hyperparameters and in age.
"""

import math

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from tests.contracts.states import assert_close, assert_same
from tests.trainables.core.optim.problem import (
    DECAYED,
    PARAMETERS,
    K,
    check_nan_stays,
    check_slot_does_not_matter,
    gradient,
    stack,
    weights,
)
from trainables.base import Place, TrainableError
from trainables.core.optim import LAMB, LARS, SGD, AdamW, NAdamW

#: Where each member stands after a first and a second run: they begin and end at different steps of the stack.
RUNS = ([60, 0, 150], [200, 130, 200])

LRS = (1e-3, 1e-2, 1e-1)
BETAS = (
    {"weight_decay": 0.0, "beta1": 0.9, "beta2": 0.999},
    {"weight_decay": 0.1, "beta1": 0.8, "beta2": 0.95},
    {"weight_decay": 1.0, "beta1": 0.0, "beta2": 0.5},
)
DECAYS = tuple({"weight_decay": value} for value in (0.0, 0.01, 0.2))
MOMENTA = (
    {"momentum": 0.0, "weight_decay": 0.0},
    {"momentum": 0.9, "weight_decay": 0.01},
    {"momentum": 0.5, "weight_decay": 0.2},
)


def _with(*columns):
    """Members' hyperparameters from several columns, their learning rates first."""
    lrs = [{"lr": lr} for lr in LRS]
    return [{k: v for part in parts for k, v in part.items()} for parts in zip(lrs, *columns, strict=True)]


# --- twins of torch.optim


def _torch(make):
    """A twin: torch's optimizer on one member's parameters."""

    def run(params, hparams, num_steps):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in params.items()}
        optimizer = make(_groups(leaves, hparams.get("weight_decay", 0.0)), hparams)
        for step in range(num_steps):
            for tensor in leaves.values():
                tensor.grad = gradient(tensor.detach(), step)
            optimizer.step()
        return {name: tensor.detach() for name, tensor in leaves.items()}

    return run


def _groups(leaves, weight_decay):
    decayed = [tensor for name, tensor in leaves.items() if name in DECAYED]
    spared = [tensor for name, tensor in leaves.items() if name not in DECAYED]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]


def _betas(h):
    return h["beta1"], h["beta2"]


def _adamw(groups, h):
    return torch.optim.AdamW(groups, lr=h["lr"], betas=_betas(h))


def _nadamw(groups, h):
    return torch.optim.NAdam(
        groups, lr=h["lr"], betas=_betas(h), momentum_decay=h["momentum_decay"], decoupled_weight_decay=True
    )


def _sgd(groups, h):
    return torch.optim.SGD(groups, lr=h["lr"], momentum=h.get("momentum", 0.0))


def _nesterov(groups, h):
    return torch.optim.SGD(groups, lr=h["lr"], momentum=h["momentum"], nesterov=True)


# --- twins in numpy, from pseudo-code


def _numpy(rule):
    """A twin: `rule(x, g, state, t, hparams, decays) -> x` for one parameter of one member at a time."""

    def run(params, hparams, num_steps):
        found = {}
        for name, tensor in params.items():
            x, state = tensor.numpy().copy(), {"m": np.zeros(tensor.shape), "v": np.zeros(tensor.shape)}
            for t in range(1, num_steps + 1):
                x = rule(x, gradient(x, t - 1), state, t, hparams, name in DECAYED)
            found[name] = torch.from_numpy(x)
        return found

    return run


def _norm(x):
    return math.sqrt(float((x.ravel() ** 2).sum()))


def _lamb(x, g, state, t, h, decays):
    """You et al. 2020, algorithm 2; lines of the loop in their order."""
    state["m"] = h["beta1"] * state["m"] + (1 - h["beta1"]) * g
    state["v"] = h["beta2"] * state["v"] + (1 - h["beta2"]) * g**2
    m = state["m"] / (1 - h["beta1"] ** t)
    v = state["v"] / (1 - h["beta2"] ** t)
    r = m / (np.sqrt(v) + 1e-6)
    u = r + (h["weight_decay"] if decays else 0.0) * x
    ratio = _norm(x) / _norm(u) if _norm(x) > 0 and _norm(u) > 0 else 1.0
    return x - h["lr"] * ratio * u


def _lars(x, g, state, t, h, decays):
    """You et al. 2017, algorithm 1."""
    decay, local = (h["weight_decay"] if decays else 0.0), 1.0
    if decays and _norm(x) > 0 and _norm(g) > 0:
        local = h["trust"] * _norm(x) / (_norm(g) + decay * _norm(x))
    state["v"] = h["momentum"] * state["v"] + h["lr"] * local * (g + decay * x)
    return x - state["v"]


def _sgd_decoupled(nesterov):
    """Loshchilov and Hutter 2019, algorithm 1, lr outside the velocity."""

    def rule(x, g, state, t, h, decays):
        shrunk = x * (1 - h["lr"] * h["weight_decay"]) if decays else x
        if "momentum" not in h:
            return shrunk - h["lr"] * g
        state["v"] = h["momentum"] * state["v"] + g
        return shrunk - h["lr"] * (g + h["momentum"] * state["v"] if nesterov else state["v"])

    return rule


#: Optimizer, hyperparameters of the members, twin.
CASES = {
    "adamw": (AdamW(), _with(BETAS), _torch(_adamw)),
    "nadamw": (NAdamW(), _with(BETAS, [{"momentum_decay": d} for d in (4e-3, 0.0, 0.5)]), _torch(_nadamw)),
    "lamb": (LAMB(), _with(BETAS), _numpy(_lamb)),
    "lars": (
        LARS(),
        [
            {"lr": 0.02, "momentum": 0.9, "weight_decay": 5e-4, "trust": 0.2},
            {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "trust": 1.0},
            {"lr": 0.02, "momentum": 0.5, "weight_decay": 0.3, "trust": 0.5},
        ],
        _numpy(_lars),
    ),
    "sgd": (SGD(decay=None), _with(), _torch(_sgd)),
    "sgd-coupled": (SGD(), _with(DECAYS), _torch(_sgd)),
    "sgd-decoupled": (SGD(decay="decoupled"), _with(DECAYS), _numpy(_sgd_decoupled(False))),
    "heavy-ball": (SGD(momentum=True), _with(MOMENTA), _torch(_sgd)),
    "heavy-ball-decoupled": (
        SGD(momentum=True, decay="decoupled"),
        _with(MOMENTA),
        _numpy(_sgd_decoupled(False)),
    ),
    # torch refuses Nesterov with momentum 0.
    "nesterov": (
        SGD(momentum=True, nesterov=True),
        _with([{**MOMENTA[0], "momentum": 0.3}, *MOMENTA[1:]]),
        _torch(_nesterov),
    ),
    "nesterov-decoupled": (
        SGD(momentum=True, nesterov=True, decay="decoupled"),
        _with(MOMENTA),
        _numpy(_sgd_decoupled(True)),
    ),
}

every = pytest.mark.parametrize("name", CASES)


@pytest.fixture
def _float64():
    """torch keeps the numbers of a state (NAdam's product) in the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@every
@pytest.mark.usefixtures("_float64")
def test_follows_its_twin(name):
    """Every member follows a twin that trains alone with that member's hyperparameters."""
    optimizer, hparams, twin = CASES[name]
    members = stack(optimizer, hparams)
    starts = [weights(members, slot) for slot in range(K)]
    for until in RUNS:
        members.run(until)
    for slot in range(K):
        expected = twin(starts[slot], hparams[slot], RUNS[-1][slot])
        for parameter, tensor in weights(members, slot).items():
            assert torch.isfinite(tensor).all()
            assert not torch.equal(tensor, starts[slot][parameter])
            torch.testing.assert_close(tensor, expected[parameter], rtol=1e-9, atol=0)


@every
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_stays_with_its_member(name, bad):
    """NaN or infinite weights and state of one member change no bit of the others."""
    optimizer, hparams, _ = CASES[name]
    check_nan_stays(optimizer, hparams, bad)


@every
def test_a_slot_does_not_matter(name):
    """A member trains the same in whatever slot it sits, to rounding."""
    optimizer, hparams, _ = CASES[name]
    check_slot_does_not_matter(optimizer, hparams)


@every
def test_state_moves_exactly(name):
    """A copied member and one admitted with the donor's state go on bit for bit alike, as if they were the donor."""
    optimizer, hparams, _ = CASES[name]
    copied, admitted = (stack(optimizer, hparams, Place(compile="never")) for _ in range(2))
    for members in (copied, admitted):
        members.run([9, 3, 5])
    copied.copy([0, 1], [1, 0])
    states = [admitted.evict(slot) for slot in (0, 1)]
    for slot, state in zip((1, 0), states, strict=True):
        admitted.admit(slot, hparams[slot], seed=slot, state=state, consumed=copied.progress(slot)[1])
    for members in (copied, admitted):
        members.run([12] * K)
    for slot in range(K):
        assert_same(copied.state(slot), admitted.state(slot))


@every
def test_is_one_graph(name):
    """The update is traced without a break, which a read from the device would be, and once for all values."""
    optimizer, hparams, _ = CASES[name]
    eager, traced = stack(optimizer, hparams), stack(optimizer, hparams)
    counter = CompileCounterWithBackend("aot_eager")
    update = torch.compile(optimizer.update, fullgraph=True, dynamic=False, backend=counter)
    for members, function in ((eager, optimizer.update), (traced, update)):
        tensors = members._chunks[0].tensors
        for step in (1, 2, 3):
            grads = {n: gradient(t, step) for n, t in tensors.params.items()}
            values = {n: row * (1 - step / 10) for n, row in tensors.hparams.items()}
            steps = torch.tensor([step, 7 * step, 1])
            function(tensors.params, grads, tensors.moments, steps, values["lr"], values, DECAYED)
    assert counter.frame_count == 1
    for slot in range(K):
        assert_close(eager.state(slot), traced.state(slot), 1e-12)


# --- what each rule promises beside its formula


@pytest.mark.parametrize("name", ["adamw", "nadamw", "sgd-decoupled", "heavy-ball", "lamb", "lars"])
def test_decay_acts_on_the_named_only(name):
    """With no gradient, what decays shrinks and the rest stays."""
    optimizer, hparams, _ = CASES[name]
    members = stack(optimizer, [{**h, "scale": 0.0, "weight_decay": 0.1} for h in hparams])
    before = [weights(members, slot) for slot in range(K)]
    members.run([1] * K)
    for slot in range(K):
        after = weights(members, slot)
        assert torch.equal(before[slot]["bias"], after["bias"])
        assert (after["weight"].abs() < before[slot]["weight"].abs()).all()


def test_states_keep_their_names():
    """Checkpoints on record are read by these names."""
    made = {name: stack(CASES[name][0], [{}]).state(0).shards for name in ("adamw", "sgd", "heavy-ball", "nadamw")}
    names = {name: [shard.name for shard in shards if "params." not in shard.name] for name, shards in made.items()}
    avg, avg_sq = ([f"{m}.{p}" for p in PARAMETERS] for m in ("exp_avg", "exp_avg_sq"))
    assert names["adamw"] == [*(f"adamw.{x}" for x in [*avg, *avg_sq]), "adamw.step"]
    assert names["sgd"] == ["sgd.step"]
    assert names["heavy-ball"] == [*(f"sgd.momentum.{p}" for p in PARAMETERS), "sgd.step"]
    assert names["nadamw"] == [*(f"nadamw.{x}" for x in [*avg, *avg_sq]), "nadamw.mu_product", "nadamw.step"]


def test_nadamw_keeps_a_product_for_each_member():
    """float64 whatever the precision of the weights, 1 in a fresh member, and every member's own."""
    hparams = [{"beta1": 0.9}, {"beta1": 0.5, "momentum_decay": 0.0}]
    members = stack(NAdamW(), hparams, Place(compile="never"))

    def product(slot):
        (shard,) = (s for s in members.state(slot).shards if s.name == "nadamw.mu_product")
        assert (shard.tensor.dtype, shard.global_shape) == (torch.float64, ())
        return shard.tensor.item()

    assert [product(slot) for slot in (0, 1)] == [1.0, 1.0]
    members.run([2, 3])
    first = math.prod(0.9 * (1 - 0.5 * 0.96 ** (t * 4e-3)) for t in (1, 2))
    assert product(0) == pytest.approx(first, rel=1e-12)
    assert product(1) == pytest.approx(0.25**3, rel=1e-12)
    members.admit(1, hparams[1], seed=5)
    assert product(1) == 1.0


@pytest.mark.parametrize(("optimizer", "length"), [(LAMB(), 1.0), (LARS(), 1e-3)])
def test_a_layers_step_is_in_proportion_to_its_weights(optimizer, length):
    """Whatever the gradient's size, a first step of lr 0.1 is a tenth of the weights' norm (times `trust`)."""
    members = stack(optimizer, [{"lr": 0.1, "weight_decay": 0.0, "scale": scale} for scale in (1.0, 1e3)])
    before = [weights(members, slot)["weight"] for slot in range(2)]
    members.run([1, 1])
    for slot in range(2):
        step = (weights(members, slot)["weight"] - before[slot]).norm().item()
        assert step == pytest.approx(0.1 * length * before[slot].norm().item(), rel=1e-9)


@pytest.mark.parametrize("optimizer", [LAMB(), LARS()])
def test_a_layer_at_zero_can_leave_it(optimizer):
    """The ratio is 1 where the weights' norm is 0, and nothing divides by a gradient of 0."""
    members = stack(optimizer, [{}, {"scale": 0.0, "weight_decay": 0.0}])
    before = weights(members, 1)
    members.run([1, 1])
    assert weights(members, 0)["gate"].abs().min() > 0
    for name, tensor in weights(members, 1).items():
        assert torch.equal(tensor, before[name])


def test_nesterov_needs_momentum():
    """As in torch."""
    with pytest.raises(TrainableError, match="Nesterov needs momentum"):
        SGD(nesterov=True)
