"""Doors for people's own training code: a loop of any shape trains as a member of a population.

In a training script::

    from trainables import adapt

    def main():
        args = adapt.hparams(parser.parse_args())
        ...
        start = adapt.resume(model=model, optimizer=optimizer, scheduler=scheduler)
        for epoch in range(start, args.epochs):
            ...
            adapt.report({"loss": loss}, step=epoch + 1)

Outside a sweep these do nothing, so the script still runs by itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, TypeVar

import torch

from trainables.base import HparamSpec, MetricSpec
from trainables.errors import TrainableError
from trainables.function import Function
from trainables.module import Module
from trainables.own.kept import Load, Save
from trainables.own.loop import Loop, check_asked, current
from trainables.own.names import name_of

T = TypeVar("T")


def hparams(defaults: T | None = None) -> T:
    """The hyperparameters of the member that trains now.

    What is read from the answer is noted: a hyperparameter that is never read after it was changed is reported as not
    in effect.

    Args:
        defaults: The script's own, a mapping or the `argparse.Namespace` of its command line; what the sweep varies is
            replaced. None where the script has none, and can run in a sweep only.

    Returns:
        As `defaults`: a mapping, or a namespace. Outside a sweep, `defaults`.

    Raises:
        TrainableError: The sweep varies what the script does not have, or `defaults` is something else.
    """
    loop = current()
    if not (defaults is None or isinstance(defaults, argparse.Namespace | Mapping)):
        kind = type(defaults).__name__
        raise TrainableError(f"hparams() was given a {kind}; give a mapping, or what parse_args() returns")
    if loop is None:
        return {} if defaults is None else defaults  # type: ignore[return-value]
    if isinstance(defaults, argparse.Namespace):
        own = dict(vars(defaults))
        check_asked(own, loop.hparams)
        return _Arguments(loop, {**own, **loop.hparams})  # type: ignore[return-value]
    if defaults is not None:
        check_asked(defaults, loop.hparams)
    return _Values(loop, {**(defaults or {}), **loop.hparams})  # type: ignore[return-value]


def resume(*, save: Save | None = None, load: Load | None = None, **objects: Any) -> int:
    """Say what has to be kept of a member, and go on from what was kept.

    Call it once, between making the model and training it. Hyperparameters are those this run was made with, also
    where the weights are another member's: of an optimizer's settings and a scheduler's, only what training has
    changed is taken over, and in proportion.

    Args:
        save: Gives what `load` needs: tensors, arrays, numbers, text, nested in lists and mappings. Leave settings such
            as the learning rate out of it: `load` would put back those of another member.
        load: Takes it back.
        **objects: Modules, optimizers, schedulers and whatever else has `state_dict` and `load_state_dict`.

    Returns:
        The step that was reported last, 0 for a fresh member, and outside a sweep.

    Raises:
        TrainableError: Something cannot be kept, or does not take back what it gave.
    """
    loop = current()
    return 0 if loop is None else loop.resume(objects, save, load)


def report(metrics: Mapping[str, Any], step: int) -> None:
    """Say how training goes. A sweep may end here, change hyperparameters, or go on with another member's weights.

    The best place is the end of an epoch: where a run is taken up again, it is at the beginning of what follows.

    Args:
        metrics: Numbers by name, with all that the sweep was told to expect, which are of held-out data; all others are
            recorded as of training, by their means.
        step: In whatever the loop counts; larger each time.

    Raises:
        TrainableError: A metric is no number, or the step does not go on from the last one.
    """
    loop = current()
    if loop is not None:
        loop.report({name: _number(name, value) for name, value in metrics.items()}, int(step))


def from_function(
    train: Callable[[], Any] | str,
    *,
    hparams: Mapping[str, Any],
    metrics: Mapping[str, str | MetricSpec],
    arguments: Sequence[str] = (),
    tokens: int = 1,
    resident: int = 0,
    data: Mapping[str, str | int | float] | None = None,
) -> Function:
    """A trainable of somebody's own training function.

    Args:
        train: The function, of a module that hosts can import, or its name, `package.module:function`.
        hparams: What it asks for, by name: the default, a mapping with `default`, `low`, `high` and `doc`, or an
            `HparamSpec`.
        metrics: What it reports, by name: `min` or `max`, whichever is better, or a `MetricSpec`.
        arguments: What it finds in `sys.argv` behind its name.
        tokens: Tokens or examples that it trains on between two reports.
        resident: Members whose models stay in memory between their turns; 0 is all.
        data: Provenance of the data.

    Raises:
        TrainableError: One of these makes no sense.
    """
    return Function(
        train=train if isinstance(train, str) else name_of(train),
        hparams={name: _plain(value) for name, value in hparams.items()},
        metrics={name: it.mode if isinstance(it, MetricSpec) else it for name, it in metrics.items()},
        arguments=list(arguments),
        tokens=tokens,
        resident=resident,
        data=dict(data or {}),
    )


def from_module(
    model: Callable[..., torch.nn.Module] | str,
    loss: Callable[..., Any] | str,
    data: Callable[[], Any] | str,
    *,
    metrics: Mapping[str, tuple[Callable[..., Any] | str, str]] | None = None,
    **options: Any,
) -> Module:
    """A trainable of somebody's own module, whose members train stacked: one kernel for all of them, where that can be.

    Args:
        model: Makes the module: a function or a class of a module that hosts can import, or its name.
        loss: Of what it gives and the targets, such as `torch.nn.functional.cross_entropy`.
        data: Gives the examples: `{"train": (inputs, targets), "validation": ..., "test": ...}`.
        metrics: What else is measured, by name: a function like the loss, and `min` or `max`.
        **options: The others of `trainables.module.Module`, such as `batch`, `optimizer` and `schedule`.

    Raises:
        TrainableError: One of these makes no sense.
    """
    try:
        return Module(
            model=_named("model", model),
            loss=_named("loss", loss),
            data=_named("data", data),
            metrics={
                name: {"function": _named(f"metrics[{name!r}]", measure), "mode": mode}
                for name, (measure, mode) in (metrics or {}).items()
            },
            **options,
        )
    except TypeError as error:
        raise TrainableError(f"from_module: {error}; the options are those of trainables.module.Module") from error


def lightning_callback() -> Any:
    """A callback for a PyTorch Lightning `Trainer`, inside a function that a sweep trains: every epoch is a report.

    It keeps module, optimizers, schedulers and counts; what it reports is `trainer.callback_metrics`. Outside a sweep
    it does nothing.

    Raises:
        TrainableError: Lightning is not installed.
    """
    return _callback("lightning", "lightning")


def trainer_callback() -> Any:
    """A `TrainerCallback` for Hugging Face's `Trainer`, inside a function that a sweep trains: evaluations are reports.

    It keeps model, optimizer and scheduler; what it reports is what the evaluation gave, such as `eval_loss`. Outside a
    sweep it does nothing.

    Raises:
        TrainableError: transformers is not installed.
    """
    return _callback("hugging_face", "transformers")


def _callback(module: str, package: str) -> Any:
    try:
        return import_module(f"trainables.own.{module}").Population()
    except ImportError as error:
        mend = f"pip install 'pbt[{package}]'"
        raise TrainableError(f"{package} is not installed ({error}); {mend}") from error


def accuracy(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Share of examples whose largest output is that of the target's class: a metric for `from_module`.

    Args:
        output: `[examples, ..., classes]`.
        target: `[examples, ...]` whole numbers.
    """
    return (output.argmax(-1) == target).double().mean()


def _named(what: str, given: Any) -> str:
    if isinstance(given, str):
        return given
    if isinstance(given, torch.nn.Module):
        mend = "give the function or class that makes it" if what == "model" else "give a function"
        raise TrainableError(f"module {what} is a {type(given).__name__}; {mend}")
    return name_of(given)


def _plain(value: Any) -> Any:
    """As it stands in a sweep file."""
    if not isinstance(value, HparamSpec):
        return value
    found = {name: getattr(value, name) for name in ("default", "low", "high", "doc")}
    return {name: it for name, it in found.items() if it not in (None, "")}


def _number(name: str, value: Any) -> float:
    try:
        return float(value.detach() if hasattr(value, "detach") else value)  # a loss that was just differentiated
    except (TypeError, ValueError) as error:
        raise TrainableError(f"metric {name!r} is {value!r}; report a number") from error


class _Values(Mapping[str, Any]):
    """Hyperparameters, of which it is noted who was asked for."""

    def __init__(self, loop: Loop, values: Mapping[str, Any]) -> None:
        self._loop, self._values = loop, dict(values)

    def __getitem__(self, name: str) -> Any:
        self._loop.asked.add(name)
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr(self._values)


class _Arguments(argparse.Namespace):
    """A script's arguments, of which it is noted who was asked for. Whoever takes them all has asked for all."""

    __slots__ = ("_loop",)  # beside the arguments, not among them

    def __init__(self, loop: Loop, values: Mapping[str, Any]) -> None:
        self._loop = loop
        super().__init__(**values)

    def __getattribute__(self, name: str) -> Any:
        if name != "_loop":
            own = object.__getattribute__(self, "__dict__")
            self._loop.asked.update(own if name == "__dict__" else {name} & own.keys())
        return super().__getattribute__(name)

    def __repr__(self) -> str:  # printing is not asking
        own = object.__getattribute__(self, "__dict__")
        return f"Namespace({', '.join(f'{name}={value!r}' for name, value in own.items())})"

    def __reduce__(self) -> Any:  # a copy is a plain namespace
        return argparse.Namespace, (), self.__dict__
