from typing import ClassVar

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from tests.contracts.stack_contract import Change, StackContract
from trainables import Place, Quadratic
from trainables.quadratic import _program


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


class Arithmetic(TorchDispatchMode):
    """Counts multiplications and additions element by element; anything else must only move numbers."""

    MOVES = frozenset({"aten.stack", "aten.cat", "aten._to_copy", "aten.unsqueeze", "aten.detach"})

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = str(func.overloadpacket)
        if name == "aten.sum":
            self.total += args[0].numel() - out.numel()
        elif name not in self.MOVES:
            assert name in {"aten.mul", "aten.pow", "aten.sub"}
            self.total += out.numel()
        return out


def test_flops_are_three_times_the_forward_pass():
    """Counted operation by operation; none of them is a matrix product."""
    model = _program().model
    hparams = {name: torch.ones(1, dtype=torch.float64) for name in ("h0", "h1")}
    theta = torch.ones(1, 2)
    with Arithmetic() as counted:
        model.loss({"theta": theta}, None, hparams, None)
    assert Quadratic().describe().flops_per_step == 3 * counted.total
    stack = _stack({})
    with FlopCounterMode(display=False) as products:
        stack.run([1])
    assert products.get_total_flops() == 0


def _stack(hparams):
    trainable = Quadratic()
    stack = trainable.build(trainable.bucket({}), 1, Place(dtype="float64"))
    stack.admit(0, hparams, seed=0)
    return stack
