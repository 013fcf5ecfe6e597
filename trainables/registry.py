"""Find a trainable by name and build it from an options dict."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from trainables.base import Trainable
from trainables.errors import TrainableError, nearest

#: Ready trainables by the name a sweep file uses.
REGISTERED: Mapping[str, str] = {
    "function": "trainables.function:Function",
    "gang": "trainables.gang:Gang",
    "language": "trainables.language:Language",
    "module": "trainables.module:Module",
    "quadratic": "trainables.quadratic:Quadratic",
    "vision": "trainables.vision:Vision",
}


def load(name: str, options: Mapping[str, Any] | None = None) -> Trainable:
    """Build a trainable from its name and options.

    Args:
        name: A registered name (`language`) or `module.path:Class`.
        options: Keyword arguments of the class.

    Raises:
        TrainableError: The name resolves to nothing, the class is no trainable, or an option is unknown or bad.
    """
    options = dict(options or {})
    made = _resolve(name)
    _check_options(name, made, options)
    try:
        trainable = made(**options)
    except TypeError as error:
        raise TrainableError(f"trainable {name!r} cannot be built from {options}: {error}") from None
    if not isinstance(trainable, Trainable):
        raise TrainableError(f"trainable {name!r} is not a Trainable; give it describe(), bucket() and build()")
    return trainable


def _resolve(name: str) -> Any:
    target = REGISTERED.get(name, name)
    module_name, _, attribute = target.partition(":")
    if not attribute:
        mend = nearest(name, REGISTERED)
        raise TrainableError(f"trainable {name!r} is unknown; {mend} (or 'module.path:Class')")
    try:
        return getattr(import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise TrainableError(f"trainable {name!r} cannot be imported: {error}") from error


def _check_options(name: str, made: Any, options: Mapping[str, Any]) -> None:
    parameters = inspect.signature(made).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    for option in options:
        if option not in parameters:
            mend = nearest(option, parameters)
            raise TrainableError(f"trainable {name!r} has no option {option!r}; {mend}")
    for option, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and option not in options:
            raise TrainableError(f"trainable {name!r} needs the option {option!r}; add it to trainable.options")
