"""Learning curves in closed form: the contract of every trainable, and the recursion they stand for."""

from typing import ClassVar

import numpy as np
import pytest

from pbt.runtime.curves import SimulatedTrainable
from tests.contracts.stack_contract import Change, StackContract
from trainables import Place


class TestContract(StackContract):
    """`SimulatedTrainable` keeps the contract of every trainable."""

    SAMPLES = ({"lr": 0.1}, {"lr": 0.4, "decay": 0.02}, {"lr": 0.05})
    CHANGES: ClassVar = {"lr": Change(to=0.25), "decay": Change(to=0.5)}

    @pytest.fixture
    def trainable(self):
        return SimulatedTrainable(best={"decay": 0.01})


def _alone(trainable, **hparams):
    stack = trainable.build("simulated", 1, Place())
    stack.admit(0, hparams, seed=3)
    return stack


@pytest.mark.parametrize(("lr", "steps"), [(0.1, 40), (1.0, 7), (1.5, 30), (0.0, 5), (1e-4, 2000)])
def test_follows_stochastic_gradient_descent(lr, steps):
    """After n steps v is what n steps of `v <- (1 - lr h)^2 v + lr^2 c h` make of it, and the loss is half of h v."""
    stack = _alone(SimulatedTrainable(noise=0.3, jitter=0.0, blur=0.0), lr=lr)
    curvatures = np.array([1.0, 0.1, 0.01])
    v = stack.state(0).shards[0].tensor.numpy().copy()
    losses = []
    for _ in range(steps):
        v = (1 - lr * curvatures) ** 2 * v + lr**2 * 0.3 * curvatures
        losses.append((0.5 * curvatures * v).sum())
    means = stack.run([steps])
    assert stack.state(0).shards[0].tensor.tolist() == pytest.approx(v.tolist(), rel=1e-9)
    assert stack.evaluate("test", [0])["loss"][0] == pytest.approx(losses[-1], rel=1e-9)
    assert means["loss"][0] == pytest.approx(np.mean(losses), rel=1e-9)


def test_a_learning_rate_that_is_too_large_diverges():
    """Beyond 2 / h there is no floor."""
    stack = _alone(SimulatedTrainable(), lr=2.5)
    stack.run([20_000])
    assert not np.isfinite(stack.evaluate("validation", [0])["loss"][0])


def test_a_falling_learning_rate_beats_every_fixed_one():
    """There is something for a population to find."""
    trainable = SimulatedTrainable(jitter=0.0, blur=0.0)

    def loss(*schedule):
        stack = _alone(trainable)
        for part, lr in enumerate(schedule, start=1):
            stack.set_hparams([0], lr=[lr])
            stack.run([100 * part])
        return stack.evaluate("validation", [0])["loss"][0]

    fixed = min(loss(*[lr] * 4) for lr in np.geomspace(0.01, 1.9, 50))
    assert loss(1.9, 1.5, 0.3, 0.05) < fixed


def test_away_from_the_best_value_the_floor_is_higher():
    """A hyperparameter of `best` has one, in both directions."""
    trainable = SimulatedTrainable(best={"decay": 0.01}, jitter=0.0, blur=0.0)

    def loss(decay):
        stack = _alone(trainable, lr=0.5, decay=decay)
        stack.run([5_000])
        return stack.evaluate("validation", [0])["loss"][0]

    assert loss(0.01) < min(loss(0.005), loss(0.02))


def test_runs_differ_by_their_seeds():
    """Two seeds, two curves; one seed, one."""
    trainable = SimulatedTrainable()

    def curve(seed):
        stack = trainable.build("simulated", 1, Place())
        stack.admit(0, {}, seed)
        return [stack.run([until])["loss"][0] + stack.evaluate("train", [0])["loss"][0] for until in (10, 20)]

    assert curve(1) == curve(1) != curve(2)
