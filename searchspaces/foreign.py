"""Spaces as other tools write them: Weights & Biases sweeps, and Optuna's distributions.

Neither package is needed. What has no counterpart here is refused with the nearest thing that has one.

Sources: the W&B documentation, "Sweep configuration options" (distributions and their parameters); Optuna 5,
`optuna.distributions` (the attributes of the three classes, and what `distribution_to_json` writes).
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from searchspaces.domains import Choice, Domain, Float, Int
from searchspaces.errors import SpaceError, suggest
from searchspaces.space import Space


def from_wandb(sweep: Mapping[str, Any]) -> tuple[Space, dict[str, Any]]:
    """Returns the space of a W&B sweep, and the values of what it keeps constant.

    Args:
        sweep: What the sweep's YAML file holds, or its `parameters` alone. Nested parameters get dotted names.

    Raises:
        SpaceError: A parameter has a distribution without counterpart, or is not one at all.
    """
    parameters = sweep.get("parameters", sweep)
    found: dict[str, Domain] = {}
    fixed: dict[str, Any] = {}
    for name, entry in _flat(parameters, ""):
        if "value" in entry or entry.get("distribution") == "constant":
            fixed[name] = entry.get("value")
        else:
            found[name] = _of_wandb(name, entry)
    return Space(found), fixed


def from_optuna(distributions: Mapping[str, Any]) -> Space:
    """Returns the space of Optuna's distributions, as a study or trial holds them: a domain for each.

    Args:
        distributions: By name: `FloatDistribution`, `IntDistribution` or `CategoricalDistribution`, themselves or as
            `distribution_to_json` writes them, as text or as what that holds.

    Raises:
        SpaceError: One is something else, or has choices that are no numbers, texts or flags.
    """
    return Space({name: _of_optuna(name, it) for name, it in distributions.items()})


# --- W&B


def _flat(parameters: Any, prefix: str) -> list[tuple[str, Mapping[str, Any]]]:
    if not isinstance(parameters, Mapping):
        raise SpaceError(f"{prefix or 'parameters'} is {parameters!r}: write a mapping of names to distributions")
    found: list[tuple[str, Mapping[str, Any]]] = []
    for name, entry in parameters.items():
        full = f"{prefix}.{name}" if prefix else str(name)
        if not isinstance(entry, Mapping):
            raise SpaceError(f"{full} is {entry!r}: write a mapping with value, values, or min and max")
        found += _flat(entry["parameters"], full) if "parameters" in entry else [(full, entry)]
    return found


def _of_wandb(name: str, entry: Mapping[str, Any]) -> Domain:
    kind = entry.get("distribution") or _guessed(name, entry)
    if kind not in _WANDB:
        mend = suggest(kind, [*_WANDB, "constant"])
        raise SpaceError(f"{name} has the distribution {kind!r}, which has no counterpart: {mend}")
    try:
        return _WANDB[kind](entry)
    except KeyError as error:
        raise SpaceError(f"{name} has the distribution {kind!r} without {error.args[0]!r}: add it") from None
    except (SpaceError, TypeError, OverflowError) as error:
        raise SpaceError(f"{name}: {error}") from error


def _guessed(name: str, entry: Mapping[str, Any]) -> str:
    """What W&B takes where no distribution is named."""
    if "values" in entry:
        return "categorical"
    if "min" not in entry or "max" not in entry:
        raise SpaceError(f"{name} is {dict(entry)!r}: give value, values, or min and max")
    return "int_uniform" if isinstance(entry["min"], int) and isinstance(entry["max"], int) else "uniform"


def _probable(entry: Mapping[str, Any]) -> Choice:
    if len(set(entry.get("probabilities", ()))) > 1:
        raise SpaceError("probabilities differ, and options are drawn alike here: leave them out, or weigh by hand")
    return Choice(entry["values"])


def _numbers(entry: Mapping[str, Any], low: float, high: float, *, log: bool = False, by_step: bool = False) -> Domain:
    if not by_step:
        return Float(low, high, log=log)
    step = entry.get("q", 1)
    if all(float(it).is_integer() for it in (low, high, step)):
        return Int(int(low), int(high), log=log, step=int(step))
    return Float(low, high, log=log, step=step)


def _between(log: bool = False, by_step: bool = False) -> Callable[[Mapping[str, Any]], Domain]:
    """Bounds as they are; for logarithms, those that W&B calls `..._values`."""
    return lambda entry: _numbers(entry, entry["min"], entry["max"], log=log, by_step=by_step)


def _exponents(by_step: bool = False, inverse: bool = False) -> Callable[[Mapping[str, Any]], Domain]:
    """Bounds that are natural logarithms, of the value or of its inverse."""

    def domain(entry: Mapping[str, Any]) -> Domain:
        ends = [math.exp(-entry[end] if inverse else entry[end]) for end in ("min", "max")]
        return _numbers(entry, min(ends), max(ends), log=True, by_step=by_step)

    return domain


_WANDB: Mapping[str, Callable[[Mapping[str, Any]], Domain]] = {
    "categorical": lambda entry: Choice(entry["values"]),
    "categorical_w_probabilities": _probable,
    "int_uniform": lambda entry: Int(entry["min"], entry["max"]),
    "uniform": _between(),
    "q_uniform": _between(by_step=True),
    "log_uniform": _exponents(),
    "log_uniform_values": _between(log=True),
    "q_log_uniform": _exponents(by_step=True),
    "q_log_uniform_values": _between(log=True, by_step=True),
    "inv_log_uniform": _exponents(inverse=True),
    "inv_log_uniform_values": _between(log=True),
}


# --- Optuna

_OPTUNA = ("CategoricalDistribution", "FloatDistribution", "IntDistribution")


def _of_optuna(name: str, given: Any) -> Domain:
    kind, attributes = _read(name, given)
    if kind not in _OPTUNA:
        raise SpaceError(f"{name} is a {kind}, which has no counterpart: {suggest(kind, _OPTUNA)}")
    try:
        if kind == "CategoricalDistribution":
            return Choice(list(attributes["choices"]))
        low, high, log, step = (attributes[it] for it in ("low", "high", "log", "step"))
        if kind == "IntDistribution":
            return Int(low, high, log=log, step=step)
        return Float(low, high, log=log, step=step)
    except KeyError as error:
        raise SpaceError(f"{name} is a {kind} without {error.args[0]!r}: add it") from None
    except SpaceError as error:
        raise SpaceError(f"{name}: {error}") from error


def _read(name: str, given: Any) -> tuple[str, Mapping[str, Any]]:
    """The class of a distribution, and its attributes."""
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError as error:
            raise SpaceError(f"{name} is {given!r}: give what distribution_to_json writes") from error
    if not isinstance(given, Mapping):
        return type(given).__name__, {it: getattr(given, it) for it in _ATTRIBUTES if hasattr(given, it)}
    if not isinstance(given.get("attributes"), Mapping):
        raise SpaceError(f"{name} is {dict(given)!r}: give what distribution_to_json writes")
    return str(given.get("name")), given["attributes"]


_ATTRIBUTES = ("choices", "low", "high", "log", "step")
