"""Bridged optimizers against the same class of torch.optim training each member alone, and what moves with a member."""

import logging
import math

import pytest
import torch

from tests.contracts.states import assert_same, finite
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
from trainables.base import HparamSpec, Place, TrainableError
from trainables.core import step as step_module
from trainables.core.optim import SGD, AdamW, TorchOptimizer
from trainables.core.step import train_step


def _live(**defaults):
    return {name: HparamSpec(kind="live", default=value, low=0.0) for name, value in defaults.items()}


#: Bridge and hyperparameters of the members.
CASES = {
    "adamw": (
        TorchOptimizer(torch.optim.AdamW, _live(lr=1e-3, weight_decay=0.01, beta1=0.9, beta2=0.99)),
        [
            {"lr": 1e-3},
            {"lr": 1e-2, "weight_decay": 0.1, "beta1": 0.8},
            {"lr": 1e-1, "weight_decay": 1.0, "beta1": 0.0, "beta2": 0.5},
        ],
    ),
    "nadam": (
        TorchOptimizer(torch.optim.NAdam, _live(lr=1e-3, momentum_decay=4e-3)),
        [{"lr": 1e-3}, {"lr": 1e-2}, {"lr": 1e-2, "momentum_decay": 0.1}],
    ),
    "rmsprop": (
        TorchOptimizer(torch.optim.RMSprop, _live(lr=1e-3, weight_decay=0.0, alpha=0.99, momentum=0.0)),
        [{"lr": 1e-3}, {"lr": 1e-2, "weight_decay": 0.1, "alpha": 0.9}, {"lr": 3e-3, "momentum": 0.5}],
    ),
    "adagrad": (
        TorchOptimizer(
            torch.optim.Adagrad, _live(lr=1e-2, weight_decay=0.0, lr_decay=0.0), {"initial_accumulator_value": 0.1}
        ),
        [{"lr": 1e-2}, {"lr": 1e-1, "weight_decay": 0.1}, {"lr": 0.5, "lr_decay": 0.01}],
    ),
    "adadelta": (
        TorchOptimizer(torch.optim.Adadelta, _live(lr=1.0, weight_decay=0.0, rho=0.9)),
        [{"lr": 1.0}, {"lr": 0.1, "weight_decay": 0.1}, {"lr": 2.0, "rho": 0.99}],
    ),
    "rprop": (
        TorchOptimizer(torch.optim.Rprop, _live(lr=1e-2, eta1=0.5, eta2=1.2, step_size2=50.0)),
        [{"lr": 1e-2}, {"lr": 1e-3, "eta1": 0.25}, {"lr": 1e-2, "eta2": 1.5, "step_size2": 0.1}],
    ),
    "asgd": (
        TorchOptimizer(torch.optim.ASGD, _live(lr=1e-2, lambd=1e-4, weight_decay=0.0), {"t0": 50.0}),
        [{"lr": 1e-2}, {"lr": 1e-1, "lambd": 1e-2}, {"lr": 1e-3, "weight_decay": 0.1}],
    ),
    # State of other shapes than the parameters', and of others for matrices than for vectors.
    "adafactor": (
        TorchOptimizer(torch.optim.Adafactor, _live(lr=1e-2, weight_decay=0.0)),
        [{"lr": 1e-2}, {"lr": 3e-2}, {"lr": 1e-3, "weight_decay": 0.1}],
    ),
    # The first velocity is a copy of the gradient, whatever the dampening.
    "sgd": (
        TorchOptimizer(torch.optim.SGD, _live(lr=1e-2, weight_decay=0.0, momentum=0.9), {"dampening": 0.5}),
        [{"lr": 1e-2}, {"lr": 1e-1, "weight_decay": 0.1}, {"lr": 1e-3, "momentum": 0.3}],
    ),
}
every = pytest.mark.parametrize("name", CASES)


class Counting(torch.optim.SGD):
    """Counts its calls in the state, as a number of Python's."""

    def step(self, closure=None):
        super().step()
        for group in self.param_groups:
            for param in group["params"]:
                self.state[param]["calls"] = self.state[param].get("calls", 0) + 1


class Grouped(torch.optim.SGD):
    """Counts its calls in the parameter group."""

    def step(self, closure=None):
        super().step()
        for group in self.param_groups:
            group["calls"] = group.get("calls", 0) + 1


class Listing(torch.optim.SGD):
    """Keeps a list."""

    def step(self, closure=None):
        super().step()
        for param in self.param_groups[0]["params"]:
            self.state[param]["history"] = [1.0]


@every
def test_follows_torch(name):
    """Members that begin at different steps are what torch makes of each alone (float64, 200 free steps, 1e-9)."""
    bridge, hparams = CASES[name]
    members = stack(bridge, hparams)
    starts = [weights(members, slot) for slot in range(K)]
    members.run([60, 0, 150])
    members.run([200, 130, 200])
    for slot, num_steps in enumerate((200, 130, 200)):
        expected = _alone(bridge, members.hparams(slot), starts[slot], num_steps)
        for parameter, tensor in weights(members, slot).items():
            assert not torch.equal(tensor, starts[slot][parameter])
            torch.testing.assert_close(tensor, expected[parameter], rtol=1e-9, atol=0)


@every
def test_state_moves_exactly(name):
    """Copied, or evicted and admitted elsewhere, a member goes on bit for bit."""
    bridge, hparams = CASES[name]
    copied, admitted, stayed = (stack(bridge, hparams, Place(compile="never")) for _ in range(3))
    for members in (copied, admitted, stayed):
        members.run([9, 3, 5])
    copied.copy([0, 1], [1, 0])
    states = [admitted.evict(slot) for slot in range(K)]
    elsewhere = stack(bridge, hparams, Place(compile="never"))
    for slot, source in enumerate((1, 0, 2)):
        own = copied.progress(slot)[1]
        elsewhere.admit(slot, hparams[slot], seed=slot, state=states[source], consumed=own)
    for members in (copied, elsewhere, stayed):
        members.run([12] * K)
    for slot in range(K):
        assert_same(copied.state(slot), elsewhere.state(slot))
    assert_same(stayed.state(2), elsewhere.state(2))


@every
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_stays_with_its_member(name, bad):
    """NaN or infinite weights of one member change no bit of the others."""
    bridge, hparams = CASES[name]
    check_nan_stays(bridge, hparams, bad)


@every
def test_a_slot_does_not_matter(name):
    """A member trains the same in whatever slot it sits, to rounding."""
    bridge, hparams = CASES[name]
    check_slot_does_not_matter(bridge, hparams)


@every
def test_a_slot_is_used_again(name):
    """A fresh member in a used slot begins as in an unused one: torch makes its state anew."""
    bridge, hparams = CASES[name]
    used, unused = (stack(bridge, hparams, Place(compile="never")) for _ in range(2))
    used.run([7] * K)
    for slot in range(K):
        used.evict(slot)
        used.admit(slot, hparams[slot], seed=slot)
    for members in (used, unused):
        members.run([4] * K)
    for slot in range(K):
        assert_same(used.state(slot), unused.state(slot))


def test_live_hparams_act_at_once():
    """A change in one slot acts on its next step as torch's own group would have it, and on no other."""
    bridge, hparams = CASES["adamw"]
    changed, calm = stack(bridge, hparams), stack(bridge, hparams)
    for members in (changed, calm):
        members.run([5] * K)
    start = changed.state(1)
    changed.set_hparams([1], lr=[0.5], beta2=[0.3])
    fresh = stack(bridge, hparams)
    fresh.admit(1, {**hparams[1], "lr": 0.5, "beta2": 0.3}, seed=1, state=start)
    for members in (changed, calm, fresh):
        members.run([6] * K)
    assert_same(fresh.state(1), changed.state(1))
    for slot in (0, 2):
        assert_same(calm.state(slot), changed.state(slot))
    assert not torch.equal(weights(calm, 1)["weight"], weights(changed, 1)["weight"])


def test_momentum_may_be_switched_on_later():
    """State that torch begins to keep then is there from the start."""
    bridge, _ = CASES["rmsprop"]
    members = stack(bridge, [{"momentum": 0.0}])
    members.run([5])
    members.set_hparams([0], momentum=[0.9])
    members.run([10])
    names = {shard.name for shard in members.state(0).shards}
    assert {f"torch.rmsprop.momentum_buffer.{parameter}" for parameter in PARAMETERS} <= names
    assert finite(members.state(0))


def test_whole_numbers_stay_whole():
    """A class that counts with a number of Python's, as those outside torch often do, is carried exactly."""
    members = stack(TorchOptimizer(Counting, _live(lr=0.1)), [{}, {"lr": 0.2}])
    members.run([3, 5])
    members.copy([1], [0])
    members.run([4, 5])
    (shard,) = (s for s in members.state(0).shards if s.name == "torch.counting.calls.weight")
    assert shard.tensor.item() == 6


def test_it_is_eager_only_and_says_so(caplog):
    """Whatever the place asks for: one notice, and the eager step."""
    step_module._notice.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            members = stack(CASES["rmsprop"][0], [{}], Place(compile="always"))
    assert not members.plan.compiled
    assert [chunk.step for chunk in members._chunks] == [train_step]
    assert len(caplog.records) == 1
    assert "eagerly only" in caplog.text


@pytest.mark.parametrize(
    ("make", "live", "options", "message"),
    [
        (torch.optim.RMSprop, {"alpha": 0.9}, {}, "no live 'lr'"),
        (torch.optim.RMSprop, {"lr": 0.1, "alhpa": 0.9}, {}, "did you mean 'alpha'"),
        (torch.optim.AdamW, {"lr": 0.1, "beta3": 0.9}, {}, "did you mean 'beta"),
        (torch.optim.RMSprop, {"lr": 0.1}, {"speed": 3}, "speed"),
        (torch.optim.RMSprop, {"lr": 0.1}, {"alpha": -1.0}, "Invalid alpha"),
    ],
)
def test_options_that_do_not_fit_are_refused(make, live, options, message):
    """When it is made, by name."""
    with pytest.raises(TrainableError, match=message):
        TorchOptimizer(make, _live(**live), options)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (torch.optim.LBFGS, "closure"),
        (torch.optim.SparseAdam, "dense gradients"),
        (Grouped, "parameter groups"),
        (Listing, "is a list"),
    ],
)
def test_what_it_cannot_carry_is_refused(make, reason):
    """When a stack is built, with the reason."""
    bridge = TorchOptimizer(make, _live(lr=0.1))
    with pytest.raises(TrainableError, match=f"{bridge.name} cannot be bridged: .*{reason}"):
        stack(bridge, [{}])


@pytest.mark.parametrize("name", ["adamw", "rmsprop", "asgd", "sgd"])
def test_a_number_that_torch_refuses_stops_nobody_else(name):
    """A learning rate beyond float32 is infinite for its member, as in a stacked optimizer, and no error for all."""
    bridge, hparams = CASES[name]
    calm, wild = (stack(bridge, hparams, Place(compile="never")) for _ in range(2))
    wild.set_hparams([1], lr=[1e39])
    for members in (calm, wild):
        members.run([5] * K)
    for slot in (0, 2):
        assert_same(calm.state(slot), wild.state(slot))
    assert not finite(wild.state(1))


def test_its_states_are_not_those_of_stacked_optimizers():
    """AdamW of torch and ours keep other things: a state of one does not fit the other."""
    bridged, ours = stack(CASES["adamw"][0], [{}]), stack(AdamW(), [{}])
    with pytest.raises(TrainableError, match="does not fit"):
        ours.admit(0, {}, seed=0, state=bridged.state(0))


@pytest.mark.parametrize(
    ("ours", "bridge"),
    [
        (AdamW(), CASES["adamw"][0]),
        (SGD(momentum=True), TorchOptimizer(torch.optim.SGD, CASES["sgd"][0].live)),
    ],
    ids=["adamw", "sgd"],
)
def test_agrees_with_the_stacked_one(ours, bridge):
    """Where there is both, a member trains alike."""
    values = [0.9, 0.5, 0.0]
    name = "beta1" if "beta1" in ours.hparams else "momentum"
    hparams = [{"lr": 1e-2, "weight_decay": 0.1, name: value} for value in values]
    if name == "beta1":
        hparams = [{**h, "beta2": 0.97} for h in hparams]
    stacks = [stack(optimizer, hparams) for optimizer in (ours, bridge)]
    for members in stacks:
        members.run([50] * K)
    for slot in range(K):
        expected = weights(stacks[1], slot)
        for parameter, tensor in weights(stacks[0], slot).items():
            torch.testing.assert_close(tensor, expected[parameter], rtol=1e-9, atol=0)


def _alone(bridge, hparams, start, num_steps):
    """The class on one member's parameters, with plain groups."""
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
    settings = {k: v for k, v in hparams.items() if k != "scale"}
    for option, names in (("betas", ("beta1", "beta2")), ("etas", ("eta1", "eta2"))):
        if names[0] in settings:
            settings[option] = tuple(settings.pop(name) for name in names)
    if "step_size2" in settings:
        settings["step_sizes"] = (1e-6, settings.pop("step_size2"))
    groups = [{"params": [leaf]} for leaf in leaves.values()]
    if "weight_decay" in settings:
        for group, name in zip(groups, leaves, strict=True):
            group["weight_decay"] = settings["weight_decay"] if name in DECAYED else 0.0
    optimizer = bridge.make(groups, **settings, **bridge.options)
    for step in range(num_steps):
        for tensor in leaves.values():
            tensor.grad = gradient(tensor.detach(), step)
        optimizer.step()
    return {name: tensor.detach() for name, tensor in leaves.items()}
