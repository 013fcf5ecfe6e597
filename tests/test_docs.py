"""What the pages show is true: commands are taken, sweep files are valid, code runs, and the site is built."""

from __future__ import annotations

import copy
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml

import pbt
from pbt.cli import main
from pbt.dialect import Loader
from pbt.record.ledger import LedgerReader
from pbt.record.result import Result
from pbt.sweep_schema import sweep_schema

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
_BLOCK = re.compile(r"(?:<!-- (\S+) runs it -->\n)?```(\w*)\n(.*?)```", re.DOTALL)
#: Examples stand for a run of the reader's.
_A_RUN = re.compile(r"(?<=\")(RUN|pbt-runs/toy-[0-9-]+)(?=[\"/])")


def blocks(*languages: str) -> list[Any]:
    """`(page, test that runs it, text)` of the code in all pages, with names for people."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for block in _BLOCK.finditer(text):
            if block[2] in languages:
                line = text[: block.start(3)].count("\n")
                found.append(pytest.param(page, block[1], block[3], id=f"{page.name}:{line}"))
    return found


def commands() -> list[Any]:
    """Every line that calls pbt, without its comment."""
    found = []
    for block in blocks("sh", ""):
        page, _, text = block.values
        for line in text.replace("\\\n", " ").splitlines():
            if called := re.match(r"(?:\$ )?(pbt [^#]*)", line):
                found.append(pytest.param(called[1].strip(), id=f"{page.name}: {called[1].strip()}"))
    return found


@pytest.mark.parametrize("line", commands())
def test_a_command_is_taken(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verbs, options and their values are known; nothing is run."""
    monkeypatch.chdir(tmp_path)
    command: click.Command = main
    words = shlex.split(line)[1:]
    with command.make_context("pbt", list(words)) as context:
        while isinstance(command, click.Group):
            name, found, words = command.resolve_command(context, words)
            assert found is not None
            command = found
            context = command.make_context(name, list(words), parent=context)


@pytest.mark.parametrize(("page", "runs", "text"), blocks("yaml"))
def test_a_part_of_a_sweep_file_is_valid(page: Path, runs: str | None, text: str) -> None:
    """By the published schema, which need not be whole."""
    schema = _without_required(copy.deepcopy(sweep_schema()))
    jsonschema.Draft202012Validator(schema).validate(yaml.load(text, Loader=Loader))


def _without_required(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _without_required(value) for key, value in tree.items() if key != "required"}
    return [_without_required(it) for it in tree] if isinstance(tree, list) else tree


def test_tests_that_are_said_to_run_code_do() -> None:
    """They read the page."""
    for block in blocks("python", "diff"):
        page, runs, _ = block.values
        if runs is not None:
            assert page.name in (ROOT / runs).read_text(), (page.name, runs)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A small run with copies in it."""
    return pbt.Sweep(
        trainable="quadratic",
        space={name: {"type": "float", "low": 0.0, "high": 1.0} for name in ("h0", "h1")},
        objective="Q",
        budget={"members": 6, "generations": 5, "steps": 4},
        strategy="pbt",
        hosts={"kind": "local"},
        tracking={"enabled": False},
        storage=str(tmp_path_factory.mktemp("toys")),
    ).run(progress=False)


@pytest.fixture
def names(toy: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What code on a page may take for granted; its sweeps are small, and train here."""
    plain = pbt.Sweep
    small = {
        "budget": {"members": 8, "generations": 5, "steps": 1},
        "hosts": {"kind": "local"},
        "tracking": {"enabled": False},
        "storage": str(tmp_path),
    }
    monkeypatch.setattr(pbt, "Sweep", lambda **given: plain(**{**given, **small}))
    monkeypatch.syspath_prepend(ROOT / "examples" / "own")
    modules = {name: import_module(name) for name in ("pbt", "pandas", "polars", "duckdb", "pyarrow.parquet")}
    modules["pyarrow"] = import_module("pyarrow")
    yield {**modules, "result": toy, "LedgerReader": LedgerReader, "Path": Path}
    sys.modules.pop("network", None)


@pytest.mark.full
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_runs(page: Path, toy: Result, names: dict[str, Any]) -> None:
    """Block after block of a page, but for those that a test of their own runs."""
    for block in blocks("python"):
        where, runs, text = block.values
        if where == page and runs is None:
            exec(compile(_A_RUN.sub(str(toy.run.path), text), block.id, "exec"), names)


@pytest.mark.full
def test_the_site_is_built(tmp_path: Path) -> None:
    """Without a warning: every link leads somewhere, every docstring is one."""
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "docs", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    reference = (tmp_path / "site" / "reference.html").read_text()
    for name in ("pbt.Sweep", "trainables.adapt.from_module", "searchspaces.Float", "pbt.strategy.SegmentReported"):
        assert f'id="{name}"' in reference
