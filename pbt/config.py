"""Sweep files: YAML in, a `SweepSpec` out, and mistakes explained. The only place that parses what people typed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic
import yaml

from pbt import dialect
from pbt.dialect import Loader
from pbt.errors import SpecError, nearest
from pbt.spec import PARTS, SweepSpec, to_dict
from searchspaces.foreign import from_optuna, from_wandb


def read_sweep(path: Path, overrides: Mapping[str, Any] | None = None) -> SweepSpec:
    """Read a sweep file.

    Args:
        path: A YAML file that holds one serialised spec.
        overrides: Dotted keys and the values that replace the file's (`{"trainable.options.data": "corpus.txt"}`).

    Raises:
        SpecError: The file cannot be read, or is no valid sweep; the message names the key and the mend.
    """
    data = _read_yaml(path)
    if not isinstance(data, dict):
        raise SpecError(str(path), "is not a sweep", "Begin with `trainable:`; see examples/language.yaml")
    for key, value in (overrides or {}).items():
        _replace(data, key.split("."), value)
    return parse(data)


def read_space(path: Path) -> Mapping[str, Any]:
    """Read a file that holds a space: `{hyperparameter: {type: float, low: ..., high: ...}}`, or a sweep with one.

    Raises:
        SpecError: The file cannot be read, or holds no space.
    """
    data = _read_yaml(path)
    space = data.get("space", data) if isinstance(data, dict) else data
    if not isinstance(space, dict):
        raise SpecError(str(path), "holds no space", "Write `lr: {type: float, low: 1e-4, high: 1e-1}`")
    return space


def imported_space(path: Path) -> str:
    """A space of another tool as the text of a sweep file's `space`.

    Args:
        path: A W&B sweep, or Optuna's distributions by name as JSON.

    Raises:
        SpecError: The file cannot be read, or holds neither.
        SpaceError: Something in it has no counterpart.
    """
    data = _read_yaml(path)  # of which JSON is a part
    if not isinstance(data, dict) or not data:
        raise SpecError(str(path), "holds no space", "Give a W&B sweep with `parameters:`, or Optuna's distributions")
    if all(isinstance(it, str) or (isinstance(it, dict) and "attributes" in it) for it in data.values()):
        return dialect.write({"space": from_optuna(data).to_json()})
    space, fixed = from_wandb(data)
    if not fixed:
        return dialect.write({"space": space.to_json()})
    kept = "".join(f"# {line}\n" for line in dialect.write(fixed).splitlines())
    return f"{dialect.write({'space': space.to_json()})}# What does not vary belongs into trainable.options:\n{kept}"


def read_value(written: str) -> Any:
    """A value as people write it in a sweep file: `64`, `1e-3`, `true`, `mup`.

    Raises:
        SpecError: It is not valid YAML.
    """
    try:
        return yaml.load(written, Loader=Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise SpecError(repr(written), f"is not valid YAML: {_yaml_problem(error)}", "Put it in quotes") from error


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=Loader)
    except OSError as error:
        raise SpecError(str(path), f"cannot be read ({error.strerror})", "Check the path") from error
    except UnicodeDecodeError as error:
        raise SpecError(str(path), "is not text", "Write it as YAML in UTF-8") from error
    except (yaml.YAMLError, ValueError) as error:  # `2024-13-01` is a date to YAML, and an impossible one
        raise SpecError(str(path), f"is not valid YAML: {_yaml_problem(error)}", "Mend it there") from error


def parse(data: Mapping[str, Any]) -> SweepSpec:
    """Build a spec from hand-written data.

    Raises:
        SpecError: A key is unknown, missing or has a value of the wrong type.
    """
    try:
        written = json.dumps(_with_words(data))
        spec: SweepSpec = pydantic.TypeAdapter(SweepSpec).validate_json(written, strict=True)
    except pydantic.ValidationError as error:
        # A misspelt key is missing under its right name too: the misspelling explains both.
        errors = sorted(error.errors(), key=lambda entry: entry["type"] not in _UNKNOWN_KEY)
        raise _explain(errors[0], data) from None
    except (TypeError, ValueError) as error:
        raise SpecError("sweep", f"holds something YAML data cannot: {error}", "Use plain values") from None
    return spec


def _with_words(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """With `hosts.plan: off` as it was meant: YAML reads an `off` without quotes as false."""
    hosts = data.get("hosts") if isinstance(data, Mapping) else None
    if not isinstance(hosts, Mapping) or hosts.get("plan") is not False:
        return data
    return {**data, "hosts": {**hosts, "plan": "off"}}


def write_sweep(spec: SweepSpec) -> str:
    """A spec as the text of a sweep file; `read_sweep` gives it back, equal."""
    return dialect.write(to_dict(spec))


def _replace(data: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for depth, name in enumerate(path[:-1], 1):
        data = data.setdefault(name, {})
        if not isinstance(data, dict):
            raise SpecError(
                ".".join(path[:depth]), f"{data!r} is not a mapping", "Write `name:` and `options:` below it"
            )
    data[path[-1]] = value


def _yaml_problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or " ".join(str(error).split())
    return f"{problem}, line {mark.line + 1}, column {mark.column + 1}" if mark else problem


#: What pydantic calls a key it does not know.
_UNKNOWN_KEY = ("unexpected_keyword_argument", "extra_forbidden")


def _explain(error: Any, data: Mapping[str, Any]) -> SpecError:
    # Of a union (`space`), pydantic also names the branch it tried, which people did not write.
    where = [str(part) for part in (error["loc"][:1] if error["loc"][:1] == ("space",) else error["loc"])]
    field = ".".join(where)
    if error["type"] in _UNKNOWN_KEY:
        return SpecError(field, "is not a known key", nearest(where[-1], _known_keys(where[:-1])))
    if error["type"] in ("missing", "missing_argument"):
        return SpecError(field, "is missing", f"Add `{where[-1]}:`")
    if error["type"].startswith("dataclass"):
        known = ", ".join(_known_keys(where))
        return SpecError(field, f"{error['input']!r} is not a mapping", f"Write a mapping with the keys {known}")
    message = error["msg"].removeprefix("Input ").rstrip(".").replace("an object", "a mapping")
    if where == ["space"]:
        message = "should be the name of a ready space, or a mapping"
    return SpecError(field, f"{error['input']!r} is wrong", f"It {message}")


def _known_keys(where: Sequence[str]) -> list[str]:
    kind = PARTS.get(where[0], SweepSpec) if where else SweepSpec
    return [field.name for field in dataclasses.fields(kind)]
