"""What importing loads, and what is public."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import pbt
import searchspaces
import trainables


def loaded_after(statement: str) -> set[str]:
    """Top-level modules a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return set(json.loads(output.splitlines()[-1]))


@pytest.mark.parametrize(
    "statement",
    [
        "import pbt",
        "import pbt.cli",
        "import pbt.population, pbt.surrogates",
        "import trainables",
        "import searchspaces",
    ],
)
def test_importing_loads_nothing_heavy(statement: str) -> None:
    """`import pbt` and `pbt --help` answer at once: no torch, ray, mlflow, botorch, matplotlib or pyarrow."""
    heavy = {"torch", "ray", "mlflow", "botorch", "optuna", "matplotlib", "pyarrow", "pandas"}
    assert set() == heavy & loaded_after(statement)


def test_running_a_sweep_in_process_does_not_load_ray() -> None:
    """`hosts.kind: local` does without Ray."""
    assert "ray" not in loaded_after("import pbt.sweep, pbt.runtime.local")


def test_python_dash_m_is_the_command_line() -> None:
    """Where the script is not on the path."""
    told = subprocess.run([sys.executable, "-m", "pbt", "run", "-h"], capture_output=True, text=True, check=True).stdout
    assert told.startswith("Usage: python -m pbt run [OPTIONS] SWEEP")


@pytest.mark.parametrize("package", [pbt, searchspaces, trainables])
def test_every_exported_name_exists_and_is_listed(package: object) -> None:
    """`__all__`, `dir()` and what can be imported agree."""
    names = package.__all__  # type: ignore[attr-defined]
    assert sorted(names) == sorted(set(names))
    assert set(names) <= set(dir(package))
    for name in names:
        assert getattr(package, name) is not None


def test_the_public_names_of_pbt() -> None:
    """A name is added here on purpose, or not at all."""
    expected = """
    ASHA Arm Budget Checkpoints Component Fixed FreezeThaw Halving Hosts IPBT MFMES MFPB2 MFPBT MedianRule Objective
    OptunaSearch PB2 PBT PbtError RandomSearch Replay Result RungEnsemble Sweep
    SweepSpec Tracking export extend load optuna_sampler replay resume stop tune_scheduler tune_searcher
    write_report"""
    assert sorted(expected.split()) == sorted(pbt.__all__)
