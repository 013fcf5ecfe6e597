"""What a shell offers when somebody presses Tab."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from pbt.cli import main


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """Two runs, the second begun later, and a folder that is none."""
    for number, name in enumerate(("words-1", "digits-2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").touch()
        os.utime(tmp_path / name, (number, number))
    (tmp_path / "plots").mkdir()
    return tmp_path


def offered(words: str) -> list[str]:
    """By bash, behind some words."""
    environment = {"_PBT_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    told = CliRunner().invoke(main, prog_name="pbt", env=environment).output
    return [line.partition(",")[2] for line in told.splitlines() if line]


def test_commands_and_options_are_offered() -> None:
    """Those that begin so."""
    assert offered("pbt sh") == ["show"]
    assert "--strategy" not in offered("pbt show --")
    assert "--storage" in offered("pbt show --")


def test_runs_are_offered_the_latest_first(storage: Path) -> None:
    """Of the folder that `--storage` names; what is no run is not."""
    assert offered(f"pbt why --storage {storage} ") == ["latest", "digits-2", "words-1"]
    assert offered(f"pbt why --storage {storage} wo") == ["words-1"]
    assert offered(f"pbt why --storage {storage}/nowhere ") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_told_how_to_ask(shell: str) -> None:
    """By a script that it evaluates; which names the command and the variable."""
    told = CliRunner().invoke(main, ["completion", shell])
    assert told.exit_code == 0
    assert "_PBT_COMPLETE" in told.output


def test_bash_takes_the_script() -> None:
    """No syntax error, and `pbt` completes by it."""
    script = CliRunner().invoke(main, ["completion", "bash"]).output
    command = ["bash", "-c", 'eval "$(cat)"; complete -p pbt']
    asked = subprocess.run(command, input=script, capture_output=True, text=True, check=True)
    assert "_pbt_completion" in asked.stdout


def test_an_unknown_shell_is_refused() -> None:
    """With those that are known."""
    told = CliRunner().invoke(main, ["completion", "tcsh"])
    assert told.exit_code == 2
    assert "'bash', 'zsh', 'fish'" in told.output
