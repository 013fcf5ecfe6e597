"""What `benchmarks.stack` compares does the same work: plain torch and the core, from the same weights and batches."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from benchmarks.stack import plain
from benchmarks.stack.tasks import TASKS, Task
from trainables import Place
from trainables.core.rng import Draws, below, seed_word, site
from trainables.core.stack import CoreStack
from trainables.core.step import compiler

STEPS = 5
MEMBERS = 2
TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}
CPU = torch.device("cpu")


@pytest.fixture(params=["mlp", "conv8", "conv32", "lm-small", "lm", "lm-b1"])
def name(request) -> str:
    return request.param


@pytest.fixture
def task(name: str) -> Task:
    return TASKS[name]


def core_stack(task: Task) -> CoreStack:
    trainable = task.trainable()
    stack = trainable.build(trainable.bucket({}), MEMBERS, Place(dtype="float64", compile="never"))
    assert isinstance(stack, CoreStack)
    for slot in range(MEMBERS):
        stack.admit(slot, plain.HPARAMS, seed=slot)
    return stack


def plain_module(task: Task, stack: CoreStack, slot: int) -> torch.nn.Module:
    """The plain network with the weights of a slot."""
    module = task.module().double()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(stack.params[task.core_name(name)][slot])
    return module


def drawn(stack: CoreStack, slot: int, num: int, batch_size: int) -> Tensor:
    """What the core's generator draws for a slot in its first steps, `[STEPS, B]`."""
    seed = torch.tensor([seed_word(slot)])
    where = site("data.order")
    return torch.cat([below(Draws(seed, torch.tensor([t])).key(where), batch_size, num) for t in range(STEPS)])


def check(task: Task, kind: Callable[..., plain.Member]) -> None:
    stack = core_stack(task)
    source = task.source(CPU, torch.float64)
    modules = [plain_module(task, stack, slot) for slot in range(MEMBERS)]
    begun = {name: value.clone() for name, value in stack.params.items()}
    losses = stack.run([STEPS] * MEMBERS)["loss"]
    for slot, module in enumerate(modules):
        loss = kind(module, source).train(drawn(stack, slot, source.num, source.batch_size))
        torch.testing.assert_close(loss.item(), losses[slot], **TOLERANCE)
        for name, parameter in module.named_parameters():
            before, after = begun[task.core_name(name)][slot], stack.params[task.core_name(name)][slot]
            torch.testing.assert_close(parameter.detach(), after, **TOLERANCE)
            assert not torch.equal(before, after), f"{name} was not trained"


@pytest.mark.parametrize("fused", [None, True])
def test_an_eager_member_is_a_core_member(task, fused):
    """The same mean loss and parameters after some steps, to 1e-9 in float64."""
    check(task, partial(plain.Eager, fused=fused))


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.skipif(compiler() is None, reason="no C++ compiler for torch.compile")
@pytest.mark.parametrize("name", ["conv8", "lm-small"], indirect=True)
def test_a_compiled_member_is_a_core_member(task):
    """The same of the compiled graph, whose AdamW is written out."""
    check(task, plain.Compiled)


def test_both_have_the_same_parameters(task):
    """No parameter of one side is missing on the other, and all have the same shapes."""
    stack = core_stack(task)
    named = {task.core_name(name): tuple(p.shape) for name, p in task.module().named_parameters()}
    assert named == {name: tuple(value.shape[1:]) for name, value in stack.params.items()}
