"""One training step of a stack, as a function of tensors, and the choice between eager and compiled.

The step reads nothing from the device to the host and has no data-dependent branch, so the same function runs eagerly
or as one graph (`fullgraph=True`).
"""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import threading
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from types import FunctionType
from typing import Any, TypeAlias

import torch
from torch import Tensor

from trainables.base import Place
from trainables.core import noise
from trainables.core.batch_size import BATCH_SIZE, of_part
from trainables.core.model import Batch, Buffers, Program, num_examples, parts
from trainables.core.optim import Scale, clip, gradient_norm
from trainables.core.rng import Draws

#: What a step passes to its graph never changes in size or place.
_UNCHECKED = {"size_asserts": False, "alignment_asserts": False}

#: How inductor must compile whatever draws random numbers. It would fold `arange * constant` into an index expression
#: of C++, where int64 overflow is undefined: torch 2.13 on a CPU then hashes wrongly what is left over from whole
#: vectors (pytorch issue 175966 is the same folding in int32 on CUDA). Tensors of int64 wrap.
#: And it would put expressions of up to 30 operations into each of their uses before it fuses them again, which in the
#: nested hashes of `order.examples` is work without end: one core compiles seven indices in 200 s with 30, in 15 s with
#: 8, and the step of the default `Language` with 8 members in 75 s and 49 s, the latter being no slower to run.
COMPILER_OPTIONS: dict[str, Any] = {
    "constant_and_index_propagation": False,
    "realize_opcount_threshold": 8,
    **_UNCHECKED,
}

_log = logging.getLogger(__name__)
#: Held by the thread that traces a step: stacks of one process have a thread each.
_tracing = threading.Lock()
#: Tells compiled steps apart.
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Tensors:
    """Every tensor the step reads or changes in place, and what it must know of them; K is the stack's capacity.

    Attributes:
        params: `[K, *shape]` by name.
        moments: The optimizer's state `[K, *shape]` by kind and name.
        hparams: `(K,)` float64 by name; `[K, parts]` where a value has parts.
        seed: `(K,)` int64.
        consumed: `(K,)` int64.
        age: `(K,)` int64.
        updates: `(K,)` int64, optimizer updates in the ancestry of the weights.
        active: `(K,)` bool, slots whose counters and totals advance.
        decayed: Names of the parameters that weight decay acts on.
        scales: Multipliers of hyperparameters, of those parameters that have any.
        noise: `(K,)` float64 by the names in `noise.AVERAGES`; empty without micro-batches.
        buffers: `[K, *shape]` by name, of the model and the feed.
        compute: Dtype of the model's arithmetic.
        accumulate: Micro-batches of a step: the program's, times those that a plan adds to save memory.
        totals: `(K, len(program.step_metrics))` float64 sums over the active steps of a run.
    """

    params: dict[str, Tensor]
    moments: dict[str, dict[str, Tensor]]
    hparams: dict[str, Tensor]
    seed: Tensor
    consumed: Tensor
    age: Tensor
    updates: Tensor
    active: Tensor
    decayed: frozenset[str]
    scales: dict[str, Scale]
    noise: dict[str, Tensor]
    buffers: dict[str, Tensor]
    compute: torch.dtype
    accumulate: int
    totals: Tensor


#: Of (program, tensors, off): see `train_step`.
StepFunction: TypeAlias = Callable[[Program, Tensors, frozenset[str]], None]


def train_step(program: Program, tensors: Tensors, off: frozenset[str]) -> None:
    """Train every slot by one step, in place; `off` names hyperparameters known to be without effect in every slot.

    The weights of inactive slots are computed like any other; the stack puts them back after the run, which costs
    nothing per step.
    """
    hparams = tensors.hparams
    draws, buffers = Draws(tensors.seed, tensors.consumed), dict(tensors.buffers)
    batch = program.feed.batch(draws, hparams, buffers)
    measured: tuple[Tensor, ...] = ()
    if tensors.accumulate == 1:
        loss, grads = _gradients(program, tensors, hparams, batch, draws, off, buffers)
        norm = gradient_norm(grads)
    else:
        loss, grads, small = _accumulated(program, tensors, batch, draws, off, buffers)
        norm = gradient_norm(grads)
        if program.accumulate > 1:
            sizes = _sizes(tensors, num_examples(batch), off)
            measured = _measured(program, tensors, noise.estimate(small, norm.double().square(), *sizes))
    if "clip_norm" in hparams and "clip_norm" not in off:
        grads = clip(grads, norm, hparams["clip_norm"])
    lr = hparams["lr"] * program.schedule(tensors.age, hparams)
    step, decayed, scales = tensors.updates + 1, tensors.decayed, tensors.scales
    program.optimizer.update(tensors.params, grads, tensors.moments, step, lr, hparams, decayed, scales)
    for name, value in buffers.items():
        if value is not tensors.buffers[name]:
            tensors.buffers[name].copy_(value)
    loss, norm = loss.detach().double(), norm.double()
    diverged = ~torch.isfinite(loss + norm)  # a sum is finite where both are
    _advance(tensors, torch.stack([loss, norm, lr, diverged.double(), *measured], dim=1))


def _gradients(
    program: Program,
    tensors: Tensors,
    hparams: Mapping[str, Tensor],
    batch: Batch,
    draws: Draws,
    off: frozenset[str],
    buffers: Buffers,
    weight: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The members' losses `(K,)` on a batch or a part of one, weighted, and their gradients `[K, *shape]` by name."""
    names = list(tensors.params)
    with torch.enable_grad():
        leaves = {name: t.detach().requires_grad_() for name, t in tensors.params.items()}
        # Cast within the graph: gradients come back in the parameters' own dtype.
        params = {name: t.to(tensors.compute) for name, t in leaves.items()}
        loss = program.model.loss(params, batch, hparams, draws, off, buffers)
        if weight is not None:
            loss = loss * weight.to(loss.dtype)
        # The sum's gradient is 1 for every member, so members do not mix, NaN or not.
        found = torch.autograd.grad(loss.sum(), [leaves[name] for name in names])
    return loss, dict(zip(names, found, strict=True))


def _accumulated(
    program: Program, tensors: Tensors, batch: Batch, draws: Draws, off: frozenset[str], buffers: Buffers
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Losses and gradients averaged over micro-batches, and the mean of these gradients' squared norms, `(K,)`."""
    share = 1.0 / tensors.accumulate
    losses, squares = [], []
    grads: dict[str, Tensor] = {}
    hparams, weight = tensors.hparams, None
    for number, part in enumerate(parts(batch, tensors.accumulate)):
        if _is_uneven(hparams, off):
            hparams, weight = of_part(tensors.hparams, number, tensors.accumulate, num_examples(part))
        own = Draws(draws.seed, draws.consumed, number)
        loss, found = _gradients(program, tensors, hparams, part, own, off, buffers, weight)
        losses.append(loss.detach())
        square = gradient_norm(found).double().square()
        squares.append(square if weight is None else torch.where(weight > 0, square / weight, 0.0))
        if number == 0:
            # New tensors: autograd's own may share memory with one another, and are not to be added to.
            grads = {name: grad * share for name, grad in found.items()}
        else:
            for name, grad in found.items():
                grads[name].add_(grad, alpha=share)
    return torch.stack(losses).mean(0), grads, torch.stack(squares).mean(0)


def _is_uneven(hparams: Mapping[str, Tensor], off: frozenset[str]) -> bool:
    """Whether members may have batch sizes that leave rows of the batch out."""
    return BATCH_SIZE in hparams and BATCH_SIZE not in off


def _sizes(tensors: Tensors, rows: int, off: frozenset[str]) -> tuple[int | Tensor, int | Tensor]:
    """Mean size of the micro-batches with examples in them, and of the whole batch."""
    if not _is_uneven(tensors.hparams, off):
        return rows // tensors.accumulate, rows
    size = tensors.hparams[BATCH_SIZE]
    return size / torch.ceil(size * tensors.accumulate / rows), size


def _measured(program: Program, tensors: Tensors, new: noise.Estimate) -> tuple[Tensor, ...]:
    """Take an estimate into the noise scale's averages, and return these: trace, squared norm."""
    for name, value in noise.averaged(tensors.noise, new, program.noise_decay).items():
        tensors.noise[name].copy_(value)
    sq_norm, trace = noise.corrected(tensors.noise, program.noise_decay)
    return trace, sq_norm


def _advance(tensors: Tensors, metrics: Tensor) -> None:
    """Count the step and add its metrics, in active slots only (`where`: a NaN elsewhere stays elsewhere)."""
    tensors.totals.add_(torch.where(tensors.active[:, None], metrics, torch.zeros_like(metrics)))
    for counter in (tensors.consumed, tensors.age, tensors.updates):
        counter.add_(tensors.active)


def step_function(place: Place, *, uncompiled: str = "", key: Hashable = None) -> StepFunction:
    """Return the step to use at a place: eager, or compiled where that is asked for or pays.

    `auto` means eager on the CPU and compiled on CUDA. Measured on one thread of a shared 2-core EPYC with torch 2.13,
    the default `Language` and 8 members: eager 81 to 98 member-steps/s, compiled 94 to 103, but compiling takes 77 s
    (5 s from inductor's cache). The 4,000 member-steps of a short run last some 45 s: compiling never repays itself
    there. Matrix products are half of the eager step and run near the core's peak, so there is little to gain.

    Args:
        place: Where the step runs.
        uncompiled: Why the step cannot be compiled, if so; then it is eager, with one notice that says this.
        key: Everything that the step's graph depends on; steps with equal keys share one.
    """
    if not wants_compiling(place):
        return train_step
    if uncompiled:
        _notice(uncompiled)
        return train_step
    if compiler() is None:
        warn_if_not_compiled(place)
        return train_step
    return _compiled(key, is_on_cpu=torch.device(place.device).type == "cpu")


def warn_if_not_compiled(place: Place) -> None:
    """Give one notice, in this process, if a place wants its step compiled and there is nothing to compile with."""
    if wants_compiling(place) and compiler() is None:
        _notice_no_compiler()


def wants_compiling(place: Place) -> bool:
    """Whether a place asks for a compiled step, before anything is measured."""
    return place.compile == "always" or (place.compile == "auto" and torch.device(place.device).type == "cuda")


def compiler() -> str | None:
    """Path of a C++ compiler that torch.compile can use, or None."""
    candidates = (os.environ.get("CXX", ""), "c++", "g++", "clang++")
    return next((path for name in candidates if name and (path := shutil.which(name))), None)


@cache
def _notice_no_compiler() -> None:
    _log.warning(
        "no C++ compiler found: training runs eagerly, slower than compiled; "
        "install g++ (Debian: apt-get install g++) or set CXX"
    )


@cache
def _notice(text: str) -> None:
    _log.warning(text)


@cache
def _compiled(key: Hashable, is_on_cpu: bool) -> StepFunction:
    """One graph for each key, and no check at each call that it is the right one, which can take longer than a step."""
    from torch._dynamo import config

    options: dict[str, Any] = {"guard_filter_fn": torch.compiler.skip_all_guards_unsafe, **COMPILER_OPTIONS}
    if is_on_cpu:
        # Kernels are called from C++: called from Python, a fifth of a small step's time goes by between them. On CUDA
        # a CUDA graph takes care of that.
        options["cpp_wrapper"] = True
    # A code object of its own: torch looks graphs up by that, and without checks the first that it finds there is taken
    # for right. Its `isolate_recompiles` does not do: threads that run compiled steps find each other's then.
    own = FunctionType(train_step.__code__.replace(co_name=f"train_step_{next(_numbers)}"), train_step.__globals__)
    compiled = torch.compile(own, fullgraph=True, dynamic=False, options=options)
    is_traced = False

    def step(program: Program, tensors: Tensors, off: frozenset[str]) -> None:
        nonlocal is_traced
        if is_traced:
            compiled(program, tensors, off)
            return
        # torch 2.13 traces torch.autograd.grad only when this is set; it is read while tracing, and the process's own.
        with _tracing, config.patch(trace_autograd_ops=True):
            compiled(program, tensors, off)
        is_traced = True

    return step


def structure(thing: Any) -> Hashable:
    """All of an object that a graph depends on: its values, but of tensors only what they look like."""
    if isinstance(thing, Tensor):
        return (tuple(thing.shape), thing.stride(), thing.dtype, str(thing.device))
    if is_dataclass(thing) and not isinstance(thing, type):
        return (type(thing), *((f.name, structure(getattr(thing, f.name))) for f in fields(thing)))
    if isinstance(thing, Mapping):
        return tuple((name, structure(value)) for name, value in thing.items())
    if isinstance(thing, list | tuple):
        return (type(thing), *map(structure, thing))
    if isinstance(thing, set | frozenset):
        return frozenset(map(structure, thing))
    try:
        hash(thing)
    except TypeError:
        return object()
    # With its type: 1, 1.0 and True are equal, and make other graphs.
    return (type(thing), thing)
