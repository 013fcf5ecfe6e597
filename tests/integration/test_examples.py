"""The examples do what they say."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

import pbt
from pbt import Sweep
from pbt.errors import SpecError

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_example_sweep_file_is_valid(tmp_path: Path) -> None:
    """It is resolved whole: trainable built, corpus read, space and metric checked."""
    text = tmp_path / "text.txt"
    text.write_text("a byte-level model reads bytes. " * 1000)
    sweep = Sweep.from_file(EXAMPLES / "language.yaml", {"trainable.options.data": str(text)})
    assert sweep.spec.budget.member_steps == 6_400
    assert {"lr", "weight_decay", "beta2", "dropout"} == set(sweep.spec.space)


def test_the_examples_of_searches_are_valid() -> None:
    """The second tries smaller models first, and counts their steps for less."""
    assert Sweep.from_file(EXAMPLES / "search.yaml").spec.strategy.name == "freeze_thaw"
    sweep = Sweep.from_file(EXAMPLES / "widths.yaml")
    search = sweep.resolved.strategy.begin(sweep.resolved.task)
    assert search.target_steps == 225  # type: ignore[attr-defined]
    rates = dict(search.fidelity["rates"])  # type: ignore[attr-defined]
    assert {16: 0.25, 32: 0.5, 64: 1.0} == rates


def test_the_example_on_images_is_valid() -> None:
    """The same for the digits, whose running statistics have a hyperparameter of their own."""
    sweep = Sweep.from_file(EXAMPLES / "vision.yaml")
    assert sweep.spec.budget.member_steps == 5_120
    assert {"lr", "weight_decay", "label_smoothing", "bn_momentum", "shift"} == set(sweep.spec.space)


def test_the_example_of_a_gang_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its functions lie beside it."""
    monkeypatch.syspath_prepend(EXAMPLES)
    sweep = Sweep.from_file(EXAMPLES / "gang.yaml")
    assert sweep.spec.hosts.ranks == 2
    assert sweep.resolved.capabilities.tokens_per_step == 64


@pytest.mark.full
def test_the_example_of_a_gang_learns(tmp_path: Path) -> None:
    """Two processes for each member, one member after another where there is no more room."""
    command = [str(Path(sys.executable).with_name("pbt")), "run", "gang.yaml", "--storage", str(tmp_path)]
    subprocess.run(command, cwd=EXAMPLES, check=True, timeout=300)
    (run,) = tmp_path.glob("gang-*")
    result = pbt.load(run)
    assert result.finished
    assert [] == result.rows["incidents"]
    assert result.best.score < 0.5


def test_the_example_of_a_mixture_is_valid(tmp_path: Path) -> None:
    """On the standard library's text, whose domains it names; on other text once it names these."""
    sweep = Sweep.from_file(EXAMPLES / "mixture.yaml")
    assert {"mixture", "lr"} == set(sweep.spec.space)
    assert sweep.resolved.capabilities.hparams["mixture"].parts == ("encodings", "modules", "prose")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "text.txt").write_text(f"{name} text is bytes. " * 1000)
    own = {"trainable.options.data": str(tmp_path), "trainable.options.domains": ["a", "b"]}
    with pytest.raises(SpecError, match=r"parts: \[a, b\]"):
        Sweep.from_file(EXAMPLES / "mixture.yaml", own)
    assert Sweep.from_file(EXAMPLES / "mixture.yaml", own | {"space.mixture.parts": ["a", "b"]})


@pytest.mark.full
def test_the_python_example_finds_the_optimum_and_shows_it_in_mlflow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The winner is printed, and MLflow has one run for the sweep, one for each member, and one for each segment."""
    definition = importlib.util.spec_from_file_location("python_api", EXAMPLES / "python_api.py")
    assert definition is not None
    assert definition.loader is not None
    module = importlib.util.module_from_spec(definition)
    definition.loader.exec_module(module)

    result = module.main(storage=str(tmp_path))

    assert result.best.score == pytest.approx(1.2, abs=1e-3)
    assert f"member {result.best.member} reached" in capsys.readouterr().out
    page = json.loads((result.path / "mlflow.json").read_text())
    assert "sqlite:///" in page["command"]

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("toy")
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    assert len(runs) == 1 + 8 + 8 * 10
    (parent,) = [run for run in runs if run.data.tags["pbt.kind"] == "sweep"]
    assert parent.info.run_id in page["url"]
    assert {"FINISHED"} == {run.info.status for run in runs}
    (winner,) = [run for run in runs if run.data.tags.get("pbt.winner") == "yes"]
    assert str(result.best.member) == winner.data.tags["pbt.member"]
    history = client.get_metric_history(winner.info.run_id, "hparams/lr")
    own = {(segment.consumed[0], segment.hparams["lr"]) for segment in result.lineage.of(result.best.member)}
    assert len(own) == 10
    assert own <= {(point.step, point.value) for point in history}
    plots = {item.path for item in client.list_artifacts(parent.info.run_id, "plots")}
    assert any(path.endswith("lineage.png") for path in plots), plots
