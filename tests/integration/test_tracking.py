"""MLflow is a mirror: a sweep does without it, and catches up."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from pbt import Hosts, Result, Sweep, Tracking, load
from pbt.cli import main

#: Nothing listens on the discard port.
NOWHERE = "http://127.0.0.1:9"


def toy(storage: Path, tracking: Tracking | bool) -> Result:
    """A small sweep of the paper's toy."""
    return Sweep(
        name="toy",
        trainable="quadratic",
        space={"lr": {"type": "float", "low": 1e-3, "high": 1e-1, "log": True}},
        objective="Q",
        budget={"members": 3, "generations": 2, "steps": 5},
        hosts=Hosts(kind="local", stacks=1),
        storage=storage,
        tracking=tracking,
    ).run()


@pytest.fixture(scope="module")
def unmirrored(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A sweep whose MLflow server never answered."""
    return toy(tmp_path_factory.mktemp("runs"), Tracking(uri=NOWHERE))


def test_a_sweep_finishes_while_mlflow_is_down(unmirrored: Result) -> None:
    """Training does not wait, and the ledger has everything."""
    assert unmirrored.finished
    assert 6 == unmirrored.segments.num_rows


def test_show_says_that_mlflow_does_not_have_the_sweep(unmirrored: Result) -> None:
    """Beside the address, where nothing is; with why, and the mend."""
    outcome = CliRunner().invoke(main, ["show", str(unmirrored.path)])
    said = "Not all of the run is there: MLflow was behind at its end (127.0.0.1:9: connection refused)."
    assert f"{said} `pbt sync {unmirrored.path}` brings it." in outcome.stdout
    facts = json.loads(CliRunner().invoke(main, ["show", str(unmirrored.path), "--json"]).stdout)
    assert "127.0.0.1:9: connection refused" == facts["mlflow"]["error"]


def test_sync_says_that_the_server_is_still_down(unmirrored: Result) -> None:
    """One line, and the exit code of something that went wrong outside."""
    outcome = CliRunner().invoke(main, ["sync", str(unmirrored.path)])
    assert 1 == outcome.exit_code
    assert "MLflow is still behind" in outcome.stderr
    assert 1 == len(outcome.stderr.strip().splitlines())


def test_sync_says_as_json_that_the_server_is_still_down(unmirrored: Result) -> None:
    """For programs, with the same exit code."""
    outcome = CliRunner().invoke(main, ["sync", str(unmirrored.path), "--json"])
    assert 1 == outcome.exit_code
    told = json.loads(outcome.stdout)
    behind = sum(table.num_rows for table in unmirrored.tables.values())
    assert {"run": unmirrored.run.id, "uri": NOWHERE, "experiment_id": None, "run_id": None, "rows": 0} == {
        name: told[name] for name in ("run", "uri", "experiment_id", "run_id", "rows")
    }
    assert (behind, None, f"{NOWHERE}/#/experiments?workflowType=machine_learning") == (
        told["behind"],
        told["command"],
        told["url"],
    )
    assert "127.0.0.1" in told["error"]


def test_sync_brings_everything_once_mlflow_answers(unmirrored: Result) -> None:
    """The same run, mirrored from its ledger alone, into a database that answers."""
    database = f"sqlite:///{unmirrored.path.parent / 'later.db'}"
    info = json.loads((unmirrored.path / "run.json").read_text())
    info["spec"]["tracking"]["uri"] = database
    (unmirrored.path / "run.json").write_text(json.dumps(info))

    outcome = CliRunner().invoke(main, ["sync", str(unmirrored.path), "--json"])
    assert 0 == outcome.exit_code, outcome.output
    told = json.loads(outcome.stdout)
    client = MlflowClient(tracking_uri=database)
    runs = client.search_runs([client.get_experiment_by_name("toy").experiment_id])
    assert {"sweep": 1, "member": 3, "segment": 6} == Counter(run.data.tags["pbt.kind"] for run in runs)
    assert {"FINISHED"} == {run.info.status for run in runs}
    best = load(unmirrored.path).best
    (parent,) = [run for run in runs if run.data.tags["pbt.kind"] == "sweep"]
    assert best.score == parent.data.metrics["best/score"]
    assert unmirrored.digest() == parent.data.tags["pbt.digest"]
    page = json.loads((unmirrored.path / "mlflow.json").read_text())
    assert {
        "run": unmirrored.run.id,
        "uri": database,
        "experiment_id": parent.info.experiment_id,
        "run_id": parent.info.run_id,
        "rows": sum(table.num_rows for table in unmirrored.tables.values()),
        "behind": 0,
        "error": None,
        **page,
    } == told


def test_sync_shows_no_password(unmirrored: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the environment's address holds one."""
    info = json.loads((unmirrored.path / "run.json").read_text())
    info["spec"]["tracking"]["uri"] = None
    (unmirrored.path / "run.json").write_text(json.dumps(info))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@127.0.0.1:9")
    outcome = CliRunner().invoke(main, ["sync", str(unmirrored.path), "--json"])
    assert "http://***@127.0.0.1:9" == json.loads(outcome.stdout)["uri"]
    assert "hunter2" not in outcome.output


def test_the_models_of_a_sweep_are_the_checkpoints_it_left(tmp_path: Path) -> None:
    """Their files are there, and say of themselves what MLflow says of them."""
    database = f"sqlite:///{tmp_path / 'mlflow.db'}"
    result = toy(tmp_path / "runs", Tracking(uri=database))
    client = MlflowClient(tracking_uri=database)
    models = client.search_logged_models([client.get_experiment_by_name("toy").experiment_id])
    kept = {model.tags["pbt.file"] for model in models if model.tags["pbt.weights"] == "kept"}
    assert {str(file.relative_to(result.path)) for file in result.path.glob("checkpoints/*.safetensors")} == kept


def test_tracking_may_be_switched_off(tmp_path: Path) -> None:
    """No database, no artifacts, no mention."""
    result = toy(tmp_path, tracking=False)
    assert [result.path] == list(tmp_path.iterdir())
    assert not (result.path / "mlflow.json").exists()


def test_the_environment_names_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`MLFLOW_TRACKING_URI` is honoured, as everywhere."""
    database = f"sqlite:///{tmp_path / 'mine.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    toy(tmp_path / "runs", tracking=True)
    assert MlflowClient(tracking_uri=database).get_experiment_by_name("toy") is not None
    assert not (tmp_path / "runs" / "mlflow.db").exists()
