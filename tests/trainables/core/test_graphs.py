"""A step as a CUDA graph: when it is recorded, and that nothing is trained twice or left out."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from tests.contracts.states import assert_same
from trainables import Language, Place, Plan
from trainables.core import graphs
from trainables.core.graphs import Recorded


class Cuda:
    """Streams and graphs without a GPU: what is recorded does not run, what is replayed does."""

    def __init__(self, refuses: bool = False) -> None:
        self.recording: list | None = None
        self.refuses = refuses
        outer = self

        class CUDAGraph:
            def replay(self) -> None:
                for work in self.work:
                    work()

        @contextmanager
        def graph(made, pool, stream):
            outer.recording = made.work = []
            yield
            outer.recording = None

        self.CUDAGraph, self.graph = CUDAGraph, graph
        self.Stream = lambda: SimpleNamespace(wait_stream=lambda other: None)
        self.current_stream = self.Stream
        self.synchronize = lambda: None

    @contextmanager
    def stream(self, stream):
        yield

    def launch(self, work) -> None:
        if self.recording is None:
            work()
        elif self.refuses:
            self.recording = None
            raise RuntimeError("operation not permitted when stream is capturing\nmore of it")
        else:
            self.recording.append(work)


@pytest.mark.parametrize("refuses", [False, True])
def test_every_step_is_trained_once(monkeypatch, refuses):
    """Before the recording, in it, and after; also where an operation cannot be recorded, which is then said."""
    cuda, done, calls = Cuda(refuses), [], []
    monkeypatch.setattr(graphs.torch, "cuda", cuda)

    def step(program, tensors, off):
        calls.append(off)
        cuda.launch(lambda: done.append(tensors))

    recorded = Recorded(step, None)
    for _ in range(10):
        recorded("program", "tensors", frozenset({"dropout"}))
    assert done == ["tensors"] * 10
    assert set(calls) == {frozenset({"dropout"})}
    if refuses:
        assert recorded.why == "operation not permitted when stream is capturing"
        assert len(calls) == 11
    else:
        assert recorded.why == ""
        assert len(calls) == 4


@pytest.mark.gpu
@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_a_recorded_stack_trains_as_an_eager_one(chunk):
    """On a GPU: to 1e-4 of each tensor's norm after 20 steps, through a copy, a change and a frozen slot."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    language = Language(width=32, depth=1, context=32, eval_bytes=512)
    states = []
    for compiled in (False, True):
        place = Place(device="cuda", plan=Plan(chunk=chunk, compiled=compiled))
        stack = language.build(language.bucket({}), 4, place)
        for slot in range(4):
            stack.admit(slot, {"dropout": 0.1 * slot}, seed=slot)
        stack.run([10] * 4)
        stack.copy([0], [3])
        stack.set_hparams([1], lr=[0.002])
        stack.run([20, 20, 10, 20])
        states.append([stack.state(slot) for slot in range(4)])
        if compiled:
            assert [chunk.step.why for chunk in stack._chunks] == [""] * len(stack._chunks)
    for eager, compiled in zip(*states, strict=True):
        for a, b in zip(eager.shards, compiled.shards, strict=True):
            wanted, found = a.tensor.double().cpu(), b.tensor.double().cpu()
            assert float((wanted - found).norm()) <= 1e-4 * max(1e-6, float(wanted.norm())), a.name


@pytest.mark.gpu
def test_a_recorded_stack_is_exact_in_itself():
    """On a GPU: two runs of the same compiled plan agree bit for bit."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    language = Language(width=32, depth=1, context=32, eval_bytes=512)
    stacks = []
    for pieces in ([20], [3, 7, 20]):
        place = Place(device="cuda", plan=Plan(chunk=2, compiled=True))
        stack = language.build(language.bucket({}), 2, place)
        for slot in range(2):
            stack.admit(slot, {"dropout": 0.1}, seed=slot)
        for until in pieces:
            stack.run([until] * 2)
        stacks.append(stack)
    for slot in range(2):
        assert_same(stacks[0].state(slot), stacks[1].state(slot))
