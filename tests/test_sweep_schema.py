"""The JSON Schema of sweep files: what editors accept is what pbt accepts."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from pbt.dialect import Loader
from pbt.spec import PARTS, SweepSpec
from pbt.sweep_schema import descriptions, sweep_schema

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(path for path in (ROOT / "examples").rglob("*.yaml") if path.parent.name != "kuberay")


@pytest.fixture(scope="module")
def valid():
    schema = sweep_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema).is_valid


def test_the_published_schema_is_up_to_date():
    """`pbt schema > docs/sweep.schema.json`."""
    assert json.loads((ROOT / "docs/sweep.schema.json").read_text()) == sweep_schema()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_valid_and_name_the_schema(path, valid):
    """So that an editor which opens one completes and checks it."""
    text = path.read_text()
    assert valid(yaml.load(text, Loader=Loader))
    (named,) = [line.partition("$schema=")[2] for line in text.splitlines() if "yaml-language-server" in line]
    assert (path.parent / named).resolve() == ROOT / "docs/sweep.schema.json"


def test_every_field_is_explained():
    """From its docstring, whole: what an editor shows beside the cursor."""
    schema = sweep_schema()
    for kind in {*PARTS.values()}:
        for name, field in schema["$defs"][kind.__name__]["properties"].items():
            assert field.get("description"), f"{kind.__name__}.{name}"
    assert all(field.get("description") for field in schema["properties"].values())
    assert descriptions(SweepSpec)["archive"].endswith("None keeps them with the run.")


GOOD = {
    "trainable": {"name": "quadratic"},
    "space": {"lr": {"type": "float", "low": 0.1, "high": 1.0}},
    "objective": {"metric": "Q"},
    "budget": {"members": 2, "generations": 2, "steps": 1},
}


@pytest.mark.parametrize(
    "wrong",
    [
        {"budgt": {}},
        {"budget": {"members": 2, "generations": 2}},
        {"budget": {"members": "two", "generations": 2, "steps": 1}},
        {"objective": {"metric": "Q", "split": "test"}},
        {"space": {"lr": {"type": "flaot", "low": 0.1, "high": 1.0}}},
        {"space": {"lr": {"type": "float", "low": 0.1}}},
        {"space": {"lr": {"type": "float", "low": 0.1, "high": 1.0, "logg": True}}},
        {"space": {}},
        {"hosts": {"kind": "rays"}},
    ],
)
def test_what_pbt_refuses_an_editor_marks(wrong, valid):
    """Misspelt keys, missing ones, and values of the wrong kind."""
    assert valid(GOOD)
    assert not valid({**GOOD, **wrong})
