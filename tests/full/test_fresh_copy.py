"""The README's first command in a fresh copy of the project, with nothing set up."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pbt import Result, load

ROOT = Path(__file__).parents[2]
NOT_IN_A_CLONE = shutil.ignore_patterns(
    ".git", ".venv", "*.egg-info", "__pycache__", ".*_cache", "pbt-runs", "pbt-demo"
)

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The copy in which `scripts/demo` has run, and what it printed. No git, make or compiler is on the PATH."""
    folder = tmp_path_factory.mktemp("fresh")
    copy, tools = folder / "pbt", folder / "tools"
    shutil.copytree(ROOT, copy, ignore=NOT_IN_A_CLONE)
    tools.mkdir()
    for name in ("sh", "bash", "dirname", "cat", "uname", "env"):
        (tools / name).symlink_to(shutil.which(name) or f"/bin/{name}")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("VIRTUAL_ENV", "RAY_"))}
    environment |= {"PATH": str(tools), "PYTHON": str(Path(sys.base_prefix) / "bin" / "python3")}
    done = subprocess.run(["scripts/demo"], cwd=copy, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    yield copy, done.stdout
    shutil.rmtree(folder)


def runs(copy: Path) -> dict[str, Result]:
    """The demo's two runs by strategy."""
    found = [load(path.parent) for path in (copy / "pbt-demo").glob("*/run.json")]
    return {result.run.info["spec"]["strategy"]["name"]: result for result in found}


def test_both_winners_are_printed_side_by_side(demo: tuple[Path, str]) -> None:
    """With the scores the ledgers hold."""
    copy, output = demo
    for label, strategy in (("population-based training", "pbt"), ("best fixed configuration", "fixed")):
        (line,) = [line for line in output.splitlines() if line.startswith(label)]
        assert f"{runs(copy)[strategy].best.score:.4f}" in line


def test_both_sweeps_are_whole_and_began_alike(demo: tuple[Path, str]) -> None:
    """16 members x 8 generations each, from the same initial hyperparameters and seeds."""
    found = runs(demo[0])
    first = {}
    for name, result in found.items():
        assert result.finished
        assert result.segments.num_rows == 16 * 8
        first[name] = [(s.seed, dict(s.hparams)) for s in result.lineage.segments.values() if s.generation == 0]
    assert first["pbt"] == first["fixed"]
    assert found["fixed"].lineage.exploits() == []
    assert found["pbt"].lineage.exploits() != []


def test_everything_was_written_below_one_folder(demo: tuple[Path, str]) -> None:
    """Besides the environment, the copy holds nothing new but the demo's folder, and that has all the results."""
    copy, _ = demo
    new = {path.name for path in copy.iterdir()} - {path.name for path in ROOT.iterdir()}
    assert new <= {"pbt-demo", "pbt.egg-info", ".venv"}
    assert (copy / "pbt-demo" / "mlflow.db").exists()
    for result in runs(copy).values():
        drawn = {picture.name for picture in (result.path / "plots").iterdir()}
        assert {"lineage.png", "curves.png", "schedules.png"} <= drawn  # of a sweep that takes longer, all are
        checkpoint = result.best.checkpoint
        assert checkpoint is not None
        assert checkpoint.exists()


def test_setting_up_again_says_nothing(demo: tuple[Path, str]) -> None:
    """The stamp is found."""
    environment = {**os.environ, "PYTHON": str(Path(sys.base_prefix) / "bin" / "python3")}
    done = subprocess.run(["scripts/setup"], cwd=demo[0], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == ""
