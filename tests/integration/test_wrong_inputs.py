"""Wrong inputs, generated: over verbs, options and files. Exit code 2, a mend, no traceback, and nothing is made."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from pbt.cli import main
from pbt.sweep_schema import sweep_schema

SWEEP: dict[str, Any] = {
    "name": "toy",
    "trainable": {"name": "quadratic", "options": {}},
    "space": {
        "h0": {"type": "float", "low": 0.1, "high": 1.0, "log": True},
        "h1": {"type": "float", "low": 0, "high": 1},
    },
    "strategy": {"name": "pbt", "options": {"quantile": 0.25}},
    "objective": {"metric": "Q", "mode": "max", "split": "validation"},
    "budget": {"members": 4, "generations": 3, "steps": 5},
    "seed": 0,
    "hosts": {"kind": "local", "stacks": 1, "device": "cpu", "compile": "never", "precision": "fp32", "plan": "off"},
    "storage": "runs",
    "tracking": {"enabled": False},
    "checkpoints": {"every_minutes": 5.0, "keep": 2},
}
#: Of another kind than anything they replace, or out of its range.
WRONG: tuple[Any, ...] = ("nonsense?", -7, 0.5, None, [], {"no": "such"}, True)
FILES: dict[str, bytes] = {
    "empty.yaml": b"",
    "list.yaml": b"- 1\n- 2\n",
    "word.yaml": b"sweep",
    "open.yaml": b"budget: {members: 4",
    "tab.yaml": b"budget:\n\tmembers: 4\n",
    "twice.yaml": b"seed: 1\nseed: 2\n",
    "binary.yaml": bytes(range(256)),
    "date.yaml": b"seed: 2024-13-01\n",
    "python.yaml": b"!!python/object/apply:os.system ['true']\n",
    "deep.yaml": b"[" * 50 + b"]" * 50,
}


def verbs(group: click.Group = main, way: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from verbs(command, (*way, name))
        else:
            yield (*way, name), command


def arguments_of(command: click.Command) -> list[click.Argument]:
    return [it for it in command.params if isinstance(it, click.Argument)]


def commands() -> Iterator[tuple[str, ...]]:
    """Wrong options, missing arguments, values of another kind, and runs that are not there."""
    for way, command in verbs():
        needed = ["x"] * sum(it.required for it in arguments_of(command))
        yield (*way, *needed, "--no-such-option")
        yield (*way, *needed, *["too", "many"] * 3)
        if needed:
            yield way
        for option in command.params:
            if isinstance(option, click.Option) and not option.is_flag and is_typed(option.type):
                yield (*way, *needed, option.opts[0], "nonsense?")
                yield (*way, *needed, option.opts[0])
        names = [it.name for it in arguments_of(command)]
        if names[:1] == ["run"]:
            more = ["0"] * (len(needed) - 1)
            yield (*way, "no-such-run", *more)
            yield (*way, "", *more)


def is_typed(kind: click.ParamType) -> bool:
    return not isinstance(kind, click.types.StringParamType | click.Path)


def sweeps() -> Iterator[tuple[str, Any]]:
    """Every key with values that the schema of sweep files does not allow, and every key misspelt."""
    valid: Callable[[Any], bool] = jsonschema.Draft202012Validator(sweep_schema()).is_valid
    for path in paths(SWEEP):
        for value in WRONG:
            if not valid(changed(path, value)):
                yield f"{'.'.join(path)}={value!r}", changed(path, value)
        yield f"{'.'.join(path)}x", changed((*path[:-1], f"{path[-1]}x"), 1)
    for name in ("trainable", "space", "objective", "budget"):
        yield f"without {name}", {key: value for key, value in SWEEP.items() if key != name}


def paths(data: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in data.items():
        yield (*above, name)
        if isinstance(value, dict) and name != "options":
            yield from paths(value, (*above, name))


def changed(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    data = copy.deepcopy(SWEEP)
    inner = data
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return data


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(*arguments: str) -> str:
    """What is said where a command is refused as it should be."""
    outcome = CliRunner().invoke(main, arguments)
    assert isinstance(outcome.exception, SystemExit), f"{outcome.exception!r}\n{outcome.output}"
    assert outcome.exit_code == 2, outcome.output
    assert "Traceback" not in outcome.output
    said = outcome.stderr.strip()
    if re.fullmatch(r"Error: Option '--[a-z-]+' requires an argument\.", said):
        return said
    assert said.startswith(("pbt: ", "Usage: ")), said
    told = re.sub(r"'[^']*'", "''", said.splitlines()[-1])
    listed = "Choose from:\n" in said
    assert re.search(r"[.;:?)] \S", told) or listed or "Try 'pbt" in said, f"no mend in: {said}"
    return said


def test_there_are_many():
    """At least two hundred, over all verbs and the whole sweep file."""
    assert len(list(commands())) + len(list(sweeps())) + 4 * len(FILES) >= 200
    assert [way for way, _ in verbs() if not any(it[: len(way)] == way for it in commands())] == []


@pytest.mark.parametrize("arguments", list(commands()), ids=" ".join)
def test_a_wrong_command_is_refused(folder: Path, arguments: tuple[str, ...]) -> None:
    """With how it would be right, or where that is told."""
    refused(*arguments)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("told", list(sweeps()), ids=lambda told: told[0])
def test_a_wrong_sweep_is_refused(folder: Path, told: tuple[str, Any]) -> None:
    """In one line, and no run is begun."""
    (folder / "sweep.yaml").write_text(yaml.safe_dump(told[1]))
    assert len(refused("run", "sweep.yaml").splitlines()) == 1
    assert [it.name for it in folder.iterdir()] == ["sweep.yaml"]


@pytest.mark.parametrize("verb", ["run", "submit", "space show", "space import"])
@pytest.mark.parametrize("name", [*FILES, "missing.yaml", "."])
def test_a_file_that_is_none_is_refused(folder: Path, verb: str, name: str) -> None:
    """Whoever reads it."""
    for each, content in FILES.items():
        (folder / each).write_bytes(content)
    refused(*verb.split(), name)
