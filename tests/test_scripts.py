"""The set-up: what was tested is what is installed, and doing it again does nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def pins() -> dict[str, str]:
    """Package and version of every line of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("package", ["ray", "torch", "optuna", "botorch", "mlflow", "pyarrow"])
def test_the_installed_version_is_the_pinned_one(package: str) -> None:
    """The suite vouches for the versions in constraints.txt and no others."""
    assert pins()[package] == metadata.version(package).split("+")[0]


def test_every_dependency_is_pinned() -> None:
    """Nothing that pyproject.toml asks for is left to chance."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["test"]
    names = {re.split(r"[\[>=<~! ]", entry)[0].lower() for entry in wanted} - {"pbt"}
    assert set() == names - {name.lower() for name in pins()}


def test_setting_up_again_does_nothing() -> None:
    """A second `scripts/setup` finds its stamp and is done."""
    stamp = ROOT / ".venv" / "stamp"
    if not stamp.exists():
        pytest.skip("this environment was not made by scripts/setup")
    before = stamp.stat().st_mtime_ns
    # The interpreter that made .venv: from inside it, another `python3` would come first on the PATH.
    environment = {**os.environ, "PYTHON": str(Path(sys.base_prefix) / "bin" / "python3")}
    done = subprocess.run([ROOT / "scripts" / "setup"], capture_output=True, text=True, check=True, env=environment)
    assert "" == done.stdout
    assert before == stamp.stat().st_mtime_ns


@pytest.mark.parametrize("script", ["scripts/setup", "scripts/demo", "scripts/test", ".ci/run"])
def test_scripts_are_executable_and_parse(script: str) -> None:
    """Plain sh is enough."""
    path = ROOT / script
    assert os.access(path, os.X_OK)
    subprocess.run(["sh", "-n", str(path)], check=True)


def test_a_python_that_is_too_old_is_refused_with_the_mend(tmp_path: Path) -> None:
    """Where no Python 3.11 is found, one line says what to do."""
    tools = ["dirname", "cat"]
    for name in tools:
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    done = subprocess.run(
        ["/bin/sh", str(ROOT / "scripts" / "setup")],
        capture_output=True,
        text=True,
        env={"PATH": str(tmp_path)},
        check=False,
    )
    assert 2 == done.returncode
    assert "Install one" in done.stderr
