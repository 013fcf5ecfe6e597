from typing import ClassVar

import pytest

from tests.contracts.stack_contract import Change, StackContract
from trainables import Place, Quadratic


class TestContract(StackContract):
    """`Quadratic` keeps the contract of every trainable."""

    SPLITS_DIFFER = False
    SAMPLES = (
        {"h0": 1.0, "h1": 0.0},
        {"h0": 0.0, "h1": 1.0},
        {"h0": 0.7, "h1": 0.3, "lr": 0.02},
    )
    CHANGES: ClassVar = {"h0": Change(to=0.25), "h1": Change(to=0.25), "lr": Change(to=0.125)}

    @pytest.fixture
    def trainable(self):
        return Quadratic()


@pytest.mark.parametrize(("h0", "h1", "lr"), [(1.0, 0.0, 0.01), (0.2, 0.9, 0.05), (1.0, 1.0, 0.3)])
def test_follows_its_closed_form(h0, h1, lr):
    """After n steps theta_i is 0.9 (1 - 2 lr h_i)^n, and Q follows from it."""
    stack = _stack({"h0": h0, "h1": h1, "lr": lr})
    stack.run([40])
    expected = [0.9 * (1 - 2 * lr * h) ** 40 for h in (h0, h1)]
    assert stack.state(0).shards[0].tensor.tolist() == pytest.approx(expected, rel=1e-12)
    score = 1.2 - expected[0] ** 2 - expected[1] ** 2
    assert stack.evaluate("validation", [0])["Q"][0] == pytest.approx(score, rel=1e-12)


def test_starts_where_the_paper_does():
    """theta starts at (0.9, 0.9), where Q is -0.42."""
    assert _stack({}).evaluate("test", [0])["Q"][0] == pytest.approx(-0.42)


def test_one_hparam_alone_cannot_reach_the_top():
    """With h = (1, 0) theta_1 never moves, so Q stays below 1.2 - 0.81; the population's point."""
    stack = _stack({"h0": 1.0, "h1": 0.0, "lr": 0.1})
    stack.run([500])
    assert stack.evaluate("validation", [0])["Q"][0] == pytest.approx(1.2 - 0.81)


def test_describes_an_objective_to_maximise():
    """`Q` is better when larger, and h0, h1 default to 1."""
    described = Quadratic().describe()
    assert described.metrics["Q"].mode == "max"
    assert (described.hparams["h0"].default, described.hparams["h1"].default) == (1.0, 1.0)


def _stack(hparams):
    trainable = Quadratic()
    stack = trainable.build(trainable.bucket({}), 1, Place(dtype="float64"))
    stack.admit(0, hparams, seed=0)
    return stack
