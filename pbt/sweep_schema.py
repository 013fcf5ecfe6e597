"""The JSON Schema of sweep files, for editors that complete, explain and check while people type."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping
from typing import Any

import pydantic

import searchspaces
from pbt.spec import PARTS, SweepSpec
from searchspaces import Choice, Float, Int, Simplex

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
#: A field of the docstrings' `Attributes:` or `Args:`, and what stands below it.
_FIELD = re.compile(r"^    (\w+): (.+(?:\n {8}.+)*)", re.MULTILINE)
_DOMAINS = {"float": Float, "int": Int, "choice": Choice, "simplex": Simplex}
_SCALARS = {"type": ["number", "string", "boolean"]}
_WHEN = {"type": "object", "additionalProperties": {"anyOf": [_SCALARS, {"type": "array", "items": _SCALARS}]}}
#: Of domains: their own checks say the rest.
_TYPES: Mapping[str, Mapping[str, Any]] = {
    "low": {"type": "number"},
    "high": {"type": "number"},
    "log": {"type": "boolean"},
    "step": {"type": "number"},
    "log_complement": {"type": "boolean"},
    "options": {"type": "array", "items": _SCALARS, "minItems": 1},
    "ordered": {"type": "boolean"},
    "parts": {"type": "array", "items": {"type": "string"}, "minItems": 2},
    "concentration": {"type": "number", "exclusiveMinimum": 0},
    "when": _WHEN,
}


def sweep_schema() -> dict[str, Any]:
    """The schema, as JSON-able data: of what pydantic reads, with what the docstrings say of each field."""
    found = pydantic.TypeAdapter(SweepSpec).json_schema()
    definitions = found["$defs"]
    for kind in {*PARTS.values()}:
        _explain(definitions[kind.__name__], kind)
    _explain(found, SweepSpec)
    for name, kind in _DOMAINS.items():
        definitions[name] = _domain(name, kind)
    ready = {"type": "string", "examples": list(searchspaces.READY)}
    domains = {"anyOf": [{"$ref": f"#/$defs/{name}"} for name in _DOMAINS]}
    told = found["properties"]["space"]["description"]
    space = {"anyOf": [ready, {"type": "object", "additionalProperties": domains, "minProperties": 1}]}
    found["properties"]["space"] = {"description": told, **space}
    return {"$schema": _DIALECT, **found, "title": "A pbt sweep"}


def _explain(schema: dict[str, Any], kind: type) -> None:
    told = descriptions(kind)
    schema["description"] = inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
    for name, field in schema["properties"].items():
        field.pop("title", None)
        if name in told:
            field["description"] = told[name]


def _domain(name: str, kind: type) -> dict[str, Any]:
    told = descriptions(kind)
    fields = dataclasses.fields(kind)
    properties = {field.name: {"description": told[field.name], **_TYPES[field.name]} for field in fields}
    return {
        "type": "object",
        "description": inspect.cleandoc(kind.__doc__ or "").partition("\n")[0],
        "properties": {"type": {"const": name}, **properties},
        "required": ["type", *(field.name for field in fields if field.default is dataclasses.MISSING)],
        "additionalProperties": False,
    }


def descriptions(kind: type) -> dict[str, str]:
    """What a dataclass's docstring says of its fields, each on one line."""
    text = inspect.cleandoc(kind.__doc__ or "")
    found = _FIELD.findall(re.split(r"^(?:Attributes|Args):\n", text, flags=re.MULTILINE)[-1])
    return {name: " ".join(words.split()) for name, words in found}
