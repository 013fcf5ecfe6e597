"""A module's forward as a list of stacked steps, found by torch.fx.

Registered modules become their entry in `layers.LAYERS`; functions between them must be in `FUNCTIONS`, which knows
what they mean with a member dimension in front. Anything else, and the module cannot be stacked this way.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from trainables.core.layers import LAYERS, At, Call, refusal, shifted


class Unstackable(Exception):
    """A module cannot be traced into stacked steps; the message says why."""


@dataclass(frozen=True, slots=True)
class _Value:
    """Where an argument comes from: the output of an earlier step."""

    index: int


@dataclass(frozen=True, slots=True)
class _Step:
    run: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Steps:
    """A straight line of stacked operations: one mode (training or not) of one module.

    Attributes:
        defaults: One per input of the module's forward: its default, or `...` where there is none.
        steps: Each appends one value to those of the inputs.
        output: The result, in terms of these.
    """

    defaults: tuple[Any, ...]
    steps: tuple[_Step, ...]
    output: Any

    def __call__(self, call: Call, inputs: Sequence[Any]) -> Any:
        """Run the steps on inputs `[K, ...]`."""
        values: list[Any] = [*inputs, *self.defaults[len(inputs) :]]
        if len(inputs) > len(self.defaults) or any(value is ... for value in values):
            raise TypeError(f"the module takes {len(self.defaults)} inputs; {len(inputs)} were given")
        for step in self.steps:
            args = [_resolve(arg, values) for arg in step.args]
            kwargs = {name: _resolve(arg, values) for name, arg in step.kwargs.items()}
            values.append(step.run(call, *args, **kwargs))
        return _resolve(self.output, values)


def _resolve(arg: Any, values: Sequence[Any]) -> Any:
    return _mapped(arg, lambda leaf: values[leaf.index] if isinstance(leaf, _Value) else leaf)


def _placed(arg: Any, place: Mapping[fx.Node, _Value]) -> Any:
    return _mapped(arg, lambda leaf: place[leaf] if isinstance(leaf, fx.Node) else leaf)


def _mapped(arg: Any, function: Callable[[Any], Any]) -> Any:
    """Apply a function inside plain tuples, lists and dicts."""
    if isinstance(arg, tuple):
        return tuple(_mapped(item, function) for item in arg)
    if isinstance(arg, list):
        return [_mapped(item, function) for item in arg]
    if isinstance(arg, dict):
        return {name: _mapped(item, function) for name, item in arg.items()}
    return function(arg)


# --- functions


def _elementwise(function: Callable[..., Any]) -> Callable[..., Any]:
    """Broadcast as each member's tensors would: ones go in behind the member dimension, not in front of it."""

    def run(*args: Any, **kwargs: Any) -> Any:
        ranks = [arg.ndim for arg in (*args, *kwargs.values()) if isinstance(arg, Tensor)]
        rank = max(ranks, default=0)
        aligned = {name: _with_rank(arg, rank) for name, arg in kwargs.items()}
        return function(*(_with_rank(arg, rank) for arg in args), **aligned)

    return run


def _with_rank(arg: Any, rank: int) -> Any:
    if not isinstance(arg, Tensor) or arg.ndim == rank:
        return arg
    return arg.reshape(len(arg), *(1,) * (rank - arg.ndim), *arg.shape[1:])


def _flatten(x: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    return x.flatten(shifted(start_dim), shifted(end_dim))


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    return torch.cat(list(tensors), shifted(dim))


def _mean(x: Tensor, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
    dims = range(x.ndim - 1) if dim is None else (dim,) if isinstance(dim, int) else dim
    return x.mean([shifted(i) for i in dims], keepdim)


_OPERATORS: tuple[Callable[..., Any], ...] = (
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    operator.neg,
    operator.pow,
    operator.iadd,
    operator.isub,
    operator.imul,
    operator.itruediv,
    F.relu,
    F.relu6,
    F.gelu,
    F.silu,
    F.softplus,
    F.elu,
    F.leaky_relu,
    F.mish,
    F.hardswish,
    F.tanh,
    F.sigmoid,
)
#: Both functions of torch and methods of Tensor.
_ARITHMETIC = ("add", "sub", "mul", "div", "neg", "pow", "exp", "log", "sqrt", "square", "abs")
_METHODS = (*_ARITHMETIC, "sin", "cos", "tanh", "sigmoid", "relu")

#: Function, or name of a Tensor method -> what it is with a member dimension in front.
FUNCTIONS: dict[Callable[..., Any] | str, Callable[..., Any]] = {
    **{function: _elementwise(function) for function in _OPERATORS},
    **{getattr(torch, name): _elementwise(getattr(torch, name)) for name in _METHODS},
    **{name: _elementwise(getattr(torch, name)) for name in _METHODS},
    torch.flatten: _flatten,
    "flatten": _flatten,
    torch.cat: _cat,
    torch.mean: _mean,
    "mean": _mean,
}


# --- tracing


class _Tracer(fx.Tracer):
    """Stops at registered modules and at torch's own; looks into a user's."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in LAYERS or super().is_leaf_module(m, module_qualified_name)


def trace(module: nn.Module, names: Mapping[str, str], training: bool) -> Steps:
    """Find the stacked steps of a module.

    Args:
        module: A copy of the template, which is spoilt.
        names: Every full name of a parameter or buffer.
        training: Which mode to trace: a forward may ask.

    Raises:
        Unstackable: Some part has no stacked form; the message names the first.
    """
    for path, part in module.named_modules():
        if part._forward_hooks or part._forward_pre_hooks or part._backward_hooks:
            raise Unstackable(f"module {path!r} ({type(part).__name__}) has hooks")
    module.train(training)
    if type(module) in LAYERS:
        _check("", module)
        return Steps((...,), (_Step(_layer(module, ""), (_Value(0),), {}),), _Value(1))
    try:
        graph = _Tracer().trace(module)
    except Exception as error:  # whatever a user's forward does with a proxy
        first = str(error).partition("\n")[0]
        raise Unstackable(f"{_unregistered(module)} and torch.fx cannot trace it: {first}") from error
    _check_assignments(module)
    defaults: list[Any] = []
    steps: list[_Step] = []
    place: dict[fx.Node, _Value] = {}
    nodes = list(graph.nodes)
    for node in nodes:
        if node.op == "placeholder":
            if node.target.startswith("*"):
                raise Unstackable(f"{_unregistered(module)} and its forward takes {node.target}")
            place[node] = _Value(len(defaults))
            defaults.append(node.args[0] if node.args else ...)
    for node in nodes:
        if node.op == "placeholder":
            continue
        args: Any = _placed(node.args, place)
        if node.op == "output":
            return Steps(tuple(defaults), tuple(steps), args[0])
        place[node] = _Value(len(defaults) + len(steps))
        steps.append(_Step(_function(module, node, names), args, _placed(node.kwargs, place)))
    raise AssertionError("a graph ends with its output")


def _function(module: nn.Module, node: fx.Node, names: Mapping[str, str]) -> Callable[..., Any]:
    """What a node does, as a function of the call and the node's stacked arguments."""
    target: Any = node.target
    if node.op == "call_module":
        part = module.get_submodule(target)
        _check(target, part)
        if len(node.args) != 1 or node.kwargs:
            raise Unstackable(f"module {target!r} ({type(part).__name__}) is called with more than one argument")
        return _layer(part, target)
    if node.op == "get_attr":
        if target not in names:
            raise Unstackable(f"the forward of {_owner(module, node)} makes the tensor {target!r} itself")
        known = names[target]
        return lambda call: call.params[known] if known in call.params else call.buffers[known]
    if target not in FUNCTIONS:
        name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
        raise Unstackable(f"{_owner(module, node)} is not registered and calls {name!r}")
    run = FUNCTIONS[target]
    return lambda call, *args, **kwargs: run(*args, **kwargs)


def _layer(module: nn.Module, path: str) -> Callable[..., Any]:
    run = LAYERS[type(module)].run
    return lambda call, x: run(module, At(call, path), x)


def _check(path: str, module: nn.Module) -> None:
    if reason := refusal(path, module):
        raise Unstackable(reason)


def _check_assignments(module: nn.Module) -> None:
    """A graph has no attributes: what a forward assigns to would be lost."""
    for path, part in module.named_modules():
        for name, value in {**vars(part), **part._buffers}.items():
            if isinstance(value, fx.Proxy):
                raise Unstackable(f"{_named(path, type(part))} assigns to its {name!r}")


def _unregistered(module: nn.Module) -> str:
    """The first module without an entry, other than torch's plain containers."""
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    found = (refusal(path, part) for path, part in module.named_modules() if type(part) not in containers)
    return next((reason for reason in found if reason), "the module")


def _owner(module: nn.Module, node: fx.Node) -> str:
    """The module in whose forward a node arose."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return _named(*(stack[-1] if stack else ("", type(module))))


def _named(path: str, kind: type[nn.Module]) -> str:
    return f"module {path!r} ({kind.__name__})" if path else f"the module itself ({kind.__name__})"
