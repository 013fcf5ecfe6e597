"""A training step as a CUDA graph: what one step launches, recorded once and launched as one piece ever after.

A stack's tensors never move and are changed in place, so a recorded step stays valid for as long as its stack lives.
Small members are limited by launches, which this takes away.
"""

from __future__ import annotations

from typing import Any

import torch

from trainables.core.model import Program
from trainables.core.step import StepFunction, Tensors

#: Steps before recording. They are real ones; libraries allocate and choose kernels meanwhile, as CUDA's guide demands.
_WARM_UP = 3


class Recorded:
    """A step function that records itself after some steps, then replays.

    For one chunk of one stack only: the recording is of its tensors. Stays unrecorded where not every operation may be
    captured, which the first attempt shows; then `why` says so.

    Args:
        step: What is to be recorded.
        pool: Memory of the recording, from `torch.cuda.graph_pool_handle`. Chunks of a stack share one: they run one
            after the other, and leave nothing in it.

    Attributes:
        why: What kept the step from being recorded, or an empty string.
    """

    def __init__(self, step: StepFunction, pool: Any) -> None:
        self._step, self._pool = step, pool
        self._steps = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stream = torch.cuda.Stream()
        self.why = ""

    def __call__(self, program: Program, tensors: Tensors, off: frozenset[str]) -> None:
        """Train one step; `off` must always be the same."""
        if self._graph is not None:
            self._graph.replay()
            return
        if self.why or self._steps < _WARM_UP:
            self._run_aside(program, tensors, off)
            self._steps += 1
            return
        self._record(program, tensors, off)
        self(program, tensors, off)

    def _run_aside(self, program: Program, tensors: Tensors, off: frozenset[str]) -> None:
        """On a stream of its own, as steps must be that come before a recording."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._step(program, tensors, off)
        torch.cuda.current_stream().wait_stream(self._stream)

    def _record(self, program: Program, tensors: Tensors, off: frozenset[str]) -> None:
        """Record a step without running it."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                self._step(program, tensors, off)
        except RuntimeError as error:
            torch.cuda.synchronize()
            self.why = str(error).partition("\n")[0]
            return
        self._graph = graph
