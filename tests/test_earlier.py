"""What was trained before, from wherever it was recorded."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import pytest

import pbt
from pbt import Budget, FreezeThaw, Hosts, Sweep
from pbt.earlier import Setting, Source, expanded, read
from pbt.errors import SpecError
from pbt.spec import Objective
from searchspaces import Choice, Float, Int, Simplex, Space
from trainables import Quadratic

SPACE = Space({"lr": Float(1e-4, 1.0, log=True), "layers": Int(1, 8), "optimizer": Choice(["sgd", "adam"])})
LOSS = Objective(metric="loss", mode="min")
SETTING = Setting(space=SPACE, objective=LOSS)
ROWS: list[dict[str, Any]] = [
    {"lr": 0.1, "layers": 2, "optimizer": "sgd", "epoch": 1, "loss": 3.0},
    {"lr": 0.1, "layers": 2, "optimizer": "sgd", "epoch": 2, "loss": 2.0},
    {"lr": 0.01, "layers": 4, "optimizer": "adam", "epoch": 1, "loss": 2.5},
    {"lr": 9.0, "layers": 4, "optimizer": "adam", "epoch": 1, "loss": 2.4},
]
WANTED = [
    {"hparams": {"lr": 0.1, "layers": 2, "optimizer": "sgd"}, "curve": [[50.0, 3.0], [100.0, 2.0]]},
    {"hparams": {"lr": 0.01, "layers": 4, "optimizer": "adam"}, "curve": [[50.0, 2.5]]},
]
WRITERS = {
    ".csv": pyarrow.csv.write_csv,
    ".parquet": pyarrow.parquet.write_table,
    ".feather": pyarrow.feather.write_feather,
}


@pytest.mark.parametrize("ending", WRITERS)
def test_rows_of_a_table_are_points_of_curves(tmp_path: Path, ending: str) -> None:
    """Those that lie outside the space are left out."""
    file = tmp_path / f"runs{ending}"
    WRITERS[ending](pa.Table.from_pylist(ROWS), file)
    source = {"source": str(file), "steps": "epoch", "steps_each": 50}
    assert WANTED == expanded([source], SETTING)
    rows = [{**row, "loss": -1.0} for row in ROWS[:1]]
    WRITERS[ending](pa.Table.from_pylist(rows).drop(["epoch"]), file)
    ((run,),) = [expanded([str(file)], SETTING)]
    assert run["curve"] == [[None, -1.0]]


def test_what_diverged_is_known_too(tmp_path: Path) -> None:
    """Without a score. Further columns make no other run of it."""
    rows = [{**ROWS[0], "train": 1.0}, {**ROWS[1], "loss": math.nan, "train": 2.0}]
    pyarrow.csv.write_csv(pa.Table.from_pylist(rows), tmp_path / "a.csv")
    (run,) = expanded([{"source": str(tmp_path / "a.csv"), "steps": "epoch"}], SETTING)
    assert run["curve"] == [[1.0, 3.0], [2.0, None]]
    assert expanded([run], SETTING) == [run]


def test_steps_of_others_are_sums_of_floats(tmp_path: Path) -> None:
    space = Space({"s": Float(0.0, 1.0, step=0.1)})
    pyarrow.csv.write_csv(pa.table({"s": [0.30000000000000004, 0.35], "loss": [1.0, 2.0]}), tmp_path / "a.csv")
    assert expanded([str(tmp_path / "a.csv")], Setting(space=space, objective=LOSS)) == [
        {"hparams": {"s": 0.3}, "curve": [[None, 1.0]]}
    ]


@pytest.mark.parametrize("source", ["optuna:foo.db", "optuna:sqlite:////nowhere/at/all.db", "mlflow:x"])
def test_what_others_readers_raise_is_told_in_one_line(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "gopher://nowhere")
    with pytest.raises(SpecError, match="cannot be read"):
        expanded([source], SETTING)


def test_a_table_may_hold_mixtures(tmp_path: Path) -> None:
    """A column for each part, or one that holds them all; they need not sum to one exactly."""
    space = Space({"mix": Simplex(["web", "code"])})
    pyarrow.csv.write_csv(pa.table({"mix[web]": [3.0], "mix[code]": [1.0], "loss": [2.0]}), tmp_path / "a.csv")
    assert expanded([str(tmp_path / "a.csv")], Setting(space=space, objective=LOSS))[0]["hparams"] == {
        "mix": {"web": 0.75, "code": 0.25}
    }


def test_trials_of_ray_tune(tmp_path: Path) -> None:
    """Nested configurations too."""
    for trial, rows in {"a": ROWS[:2], "b": ROWS[2:3]}.items():
        (tmp_path / trial).mkdir()
        lines = [
            {
                "config": {"optim": {"lr": row["lr"], "optimizer": row["optimizer"]}, "layers": row["layers"]},
                "training_iteration": row["epoch"],
                "loss": row["loss"],
            }
            for row in rows
        ]
        (tmp_path / trial / "result.json").write_text("\n".join(map(json.dumps, lines)) + "\n")
    assert WANTED == expanded([{"source": str(tmp_path), "steps_each": 50}], SETTING)


def test_an_inner_name_that_two_have_is_nobodys(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    config = {"enc": {"lr": 0.01}, "dec": {"lr": 0.09}}
    line = {"config": config, "training_iteration": 1, "loss": 1.0}
    (tmp_path / "a" / "result.json").write_text(json.dumps(line) + "\n")
    space = Space({"lr": Float(1e-4, 1.0, log=True)})
    with pytest.raises(SpecError, match="none of the 1 runs"):
        expanded([str(tmp_path)], Setting(space=space, objective=LOSS))
    outer = Space({"dec/lr": Float(1e-4, 1.0, log=True)})
    assert expanded([str(tmp_path)], Setting(space=outer, objective=LOSS))[0]["hparams"] == {"dec/lr": 0.09}


def test_trials_of_optuna(tmp_path: Path) -> None:
    """Complete ones, and what pruned ones had reported."""
    url = f"sqlite:///{tmp_path}/study.db"
    study = optuna.create_study(storage=url, study_name="first")

    def objective(trial: optuna.Trial) -> float:
        row = ROWS[trial.number * 2]
        trial.suggest_float("lr", row["lr"], row["lr"])
        trial.suggest_int("layers", row["layers"], row["layers"])
        trial.suggest_categorical("optimizer", ("sgd", "adam"))
        trial.report(row["loss"], 10)
        if trial.number:
            raise optuna.TrialPruned
        trial.report(1.5, 20)
        return 1.25

    study.sampler = optuna.samplers.RandomSampler(seed=0)
    study.optimize(objective, n_trials=2)
    for source in (f"optuna:{url}", f"optuna:{url}#first"):
        complete, pruned = read(Source(source=source, score="loss"), SETTING)
        assert complete["curve"] == [[10.0, 3.0], [None, 1.25]]
        assert pruned["curve"] == [[10.0, 2.5]]
        assert pruned["hparams"]["lr"] == 0.01


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow 3.17 uses what SQLAlchemy 2.1 deprecates
def test_runs_of_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose parameters are text."""
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    client = MlflowClient()
    experiment = client.create_experiment("theirs", artifact_location=(tmp_path / "artifacts").as_uri())
    for rows in (ROWS[:2], ROWS[2:3]):
        run = client.create_run(experiment).info.run_id
        for name in SPACE:
            client.log_param(run, name, rows[0][name])
        for row in rows:
            client.log_metric(run, "val_loss", row["loss"], step=row["epoch"])
    source = {"source": "mlflow:theirs", "score": "val_loss", "steps_each": 50}
    found = expanded([source], SETTING)
    assert sorted(WANTED, key=repr) == sorted(found, key=repr)
    with pytest.raises(SpecError, match="no such experiment"):
        expanded(["mlflow:nobody's"], SETTING)


@pytest.mark.parametrize(
    ("entry", "field", "told"),
    [
        ("nowhere.csv", "strategy.options.earlier[0]", "cannot be read"),
        ("nowhere", "strategy.options.earlier[0]", "no run"),
        (3, "strategy.options.earlier[0]", "neither a run nor a source"),
        ({"source": "a.csv", "scores": "x"}, "strategy.options.earlier[0].scores", "not a known key"),
        ({"source": "a.csv", "steps_each": 0}, "strategy.options.earlier[0].steps_each", "no positive number"),
        ({"hparams": {"lr": 0.1}, "curve": [[1, 2.0]]}, "strategy.options.earlier[0].hparams", "not in the space"),
        ({**WANTED[0], "curve": []}, "strategy.options.earlier[0].curve", "no scores"),
        ({**WANTED[0], "curve": [[0, 1.0]]}, "strategy.options.earlier[0].curve", "no scores"),
        ({**WANTED[0], "curve": 5}, "strategy.options.earlier[0].curve", "no scores"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    entry: Any, field: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError) as refused:
        expanded([entry], SETTING)
    assert refused.value.field == field
    assert told in str(refused.value)


def test_a_table_without_the_column_or_without_anything_that_fits_is_refused(tmp_path: Path) -> None:
    pyarrow.csv.write_csv(pa.Table.from_pylist(ROWS), tmp_path / "runs.csv")
    with pytest.raises(SpecError, match="no column val, only lr, layers"):
        expanded([{"source": str(tmp_path / "runs.csv"), "score": "val"}], SETTING)
    with pytest.raises(
        SpecError, match=r"none of the 1 runs .* fits: depth is missing.*\. They have epoch, layers, lr"
    ):
        expanded([str(tmp_path / "runs.csv")], Setting(space=Space({"depth": Int(1, 3)}), objective=LOSS))


def test_what_is_left_out_and_why_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What lies outside the space, and what was trained with something else that does not vary here."""
    rows = [{**row, "width": 64 if row["layers"] == 2 else 32} for row in ROWS]
    pyarrow.csv.write_csv(pa.Table.from_pylist(rows), tmp_path / "runs.csv")
    source = {"source": str(tmp_path / "runs.csv"), "steps": "epoch", "steps_each": 50}
    assert expanded([source], Setting(space=SPACE, objective=LOSS, fixed={"depth": 2, "width": 64})) == WANTED[:1]
    (told,) = caplog.messages
    assert "2 of the 3 runs" in told
    assert "2 because width was 32, and is 64 here" in told
    caplog.clear()
    assert expanded([source], SETTING) == WANTED
    assert "1 of the 3 runs" in caplog.text
    assert "lr" in caplog.text


def test_numbers_that_were_recorded_as_text_are_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pyarrow.csv.write_csv(pa.Table.from_pylist([{**ROWS[0], "decay": "1e-1", "name": "a"}]), tmp_path / "a.csv")
    fixed = {"decay": 0.1, "name": "a"}
    assert expanded([str(tmp_path / "a.csv")], Setting(space=SPACE, objective=LOSS, fixed=fixed))
    assert not caplog.messages


def test_a_score_that_is_no_number_is_named(tmp_path: Path) -> None:
    pyarrow.csv.write_csv(pa.Table.from_pylist([{**ROWS[0], "loss": "low"}]), tmp_path / "a.csv")
    with pytest.raises(SpecError, match=r"earlier\[0\]: .*loss holds 'low', which is no number"):
        expanded([str(tmp_path / "a.csv")], SETTING)
    with pytest.raises(SpecError, match=r"earlier\[0\]\.steps: .*no column step, only .*Write .*steps: NAME"):
        expanded([{"source": str(tmp_path / "a.csv"), "steps": "step"}], SETTING)


def search(storage: Path, earlier: Any, **options: Any) -> Sweep:
    return Sweep(
        name="toy",
        trainable=Quadratic(),
        space={"h0": Float(0.0, 1.0), "h1": Float(0.0, 1.0), "lr": Float(1e-3, 1e-1, log=True)},
        objective="Q",
        strategy=FreezeThaw(earlier=earlier, startup=4, **options),
        budget=Budget(members=2, generations=12, steps=4),
        hosts=Hosts(kind="local"),
        storage=storage,
        tracking=False,
    )


def test_a_search_knows_what_another_found(tmp_path: Path) -> None:
    """It asks its model at once, keeps what it was told in its own run, and ends the same when told again."""
    first = search(tmp_path / "first", []).run(progress=False)
    second = search(tmp_path / "second", [str(first.path)])
    told = second.spec.strategy.options["earlier"]
    assert len(told) == len({row["member"] for row in first.rows["segments"]})
    assert all(steps <= 12 for run in told for steps, _ in run["curve"])
    result = second.run(progress=False)
    reasons = [row["reason"] for row in result.rows["decisions"] if row["kind"] == "start"]
    assert "improvement" in reasons[0]
    assert not math.isnan(result.best.score)
    again = search(tmp_path / "third", told).run(progress=False)
    assert again.digest() == result.digest()
    for name in ("latest", first.run.id[:-2]):
        assert search(tmp_path / "first", [name]).spec.strategy.options["earlier"] == told


def test_scores_that_are_near_no_rung_would_count_for_nothing(tmp_path: Path) -> None:
    """Such as those of epochs, where rungs are steps."""
    run = {"hparams": {"h0": 0.5, "h1": 0.5, "lr": 0.01}, "curve": [[0.1, 1.0], [0.5, 2.0]]}
    with pytest.raises(SpecError, match=r"after 0.1 to 0.5 steps, none of them near a rung \(4, 12\)\. .*steps_each"):
        search(tmp_path, [run])
    search(tmp_path, [run, {**run, "curve": [[4, 1.0]]}])


def test_a_strategy_that_learns_nothing_has_no_such_option(tmp_path: Path) -> None:
    spec = search(tmp_path, []).spec
    with pytest.raises(SpecError, match=r"strategy.options.earlier: is not a known option"):
        Sweep.from_spec(replace(spec, strategy=pbt.Component(name="optuna", options={"earlier": ["nowhere"]})))


def test_less_of_the_same_is_no_experience(tmp_path: Path) -> None:
    """A run in which much was good knows nothing of one in which little is."""
    run = search(tmp_path, []).run(progress=False)
    spec = search(tmp_path, []).spec
    with pytest.raises(SpecError, match=r"earlier\[0\]\.source: .* mode is max, not min"):
        Sweep.from_spec(
            replace(
                spec,
                objective=Objective(metric="Q", mode="min"),
                strategy=pbt.Component(name="freeze_thaw", options={"earlier": [str(run.path)]}),
            )
        )


def test_trainable_and_strategy_may_be_mappings() -> None:
    """As in a file."""
    fields: dict[str, Any] = {
        "space": {"h0": Float(0.0, 1.0), "h1": Float(0.0, 1.0)},
        "objective": "Q",
        "strategy": {"name": "asha", "options": {"brackets": 2}},
        "budget": Budget(members=2, generations=4, steps=4),
    }
    spec = Sweep(trainable={"name": "quadratic"}, **fields).spec
    assert (spec.trainable.name, spec.strategy.options) == ("quadratic", {"brackets": 2})
    with pytest.raises(SpecError, match=r"trainable.option: is not a known key"):
        Sweep(trainable={"name": "quadratic", "option": {}}, **fields)
