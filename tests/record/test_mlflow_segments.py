"""Runs of segments, and models of weights: what they show, and when they are there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pbt.record.ledger import Ledger, LedgerReader
from pbt.record.mlflow_address import connect, quiet
from tests import ledgers, mirrors
from tests.fake_mlflow import FakeMlflow
from tests.mirrors import WINNER, Store, digest

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    uri = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
    with quiet():
        return Store(uri, connect(uri))


def tell(store: Store, folder: Path, experiment: str, segment_runs: int) -> None:
    mirror = store.mirror(mirrors.tell_eventful(folder / "made-up-1"), experiment, segment_runs=segment_runs)
    assert mirror.finish("finished", WINNER), mirror.last_error


@pytest.fixture(scope="module")
def runs(store: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The scripted sweep with runs for its segments: MLflow's runs by name."""
    tell(store, tmp_path_factory.mktemp("few"), "few", 9)
    return store.runs("few")


@pytest.fixture(scope="module")
def models(store: Store, runs: dict[str, Any]) -> dict[str, Any]:
    """Its models by name."""
    return store.models("few")


# ----------------------------------------------------------------------------------------------------------- segments


def test_every_segment_has_a_run_below_its_member_s(runs: dict[str, Any]) -> None:
    names = {f"member {member} segment {segment}" for member in range(3) for segment in range(3)}
    assert names == {name for name, run in runs.items() if run.data.tags["pbt.kind"] == "segment"}
    for name in names:
        parent = runs[name].data.tags["mlflow.parentRunId"]
        assert runs[name.partition(" segment")[0]].info.run_id == parent


def test_a_segment_s_params_are_its_hyperparameters(runs: dict[str, Any]) -> None:
    """They are constant in it, so that MLflow can compare segments by them."""
    assert {"lr": "0.02"} == runs["member 1 segment 1"].data.params
    assert {"lr": "0.008"} == runs["member 1 segment 2"].data.params


def test_hyperparameters_with_parts_have_a_param_for_each(store: Store, tmp_path: Path) -> None:
    run = ledgers.run_json(tmp_path / "parts", members=1, generations=1, steps=100)
    clock = ledgers.Clock()
    pen = ledgers.Pen(Ledger(run, clock), clock)
    pen.begin(0, 0, ledgers.hparams(0))
    pen.ledger.close(finished=False)
    store.mirror(run, "parts", segment_runs=1).sync()
    wanted = {"lr": "0.001", "optimizer": "sgd", "nesterov": "true", "mix.books": "0.25", "mix.web": "0.75"}
    assert wanted | {"momentum": "0.9"} == store.runs("parts")["member 0 segment 0"].data.params


def test_a_segment_s_tags_say_where_it_came_from_and_how_far_it_went(runs: dict[str, Any]) -> None:
    tags = runs["member 1 segment 2"].data.tags
    wanted = {
        "start": "copied",
        "parent_member": "0",
        "parent_segment": "1",
        "ancestry": '["0.0","0.1","1.2"]',
        "root_member": "0",
        "generation": "2",
        "stack": "1",
        "age_start": "200",
        "age_end": "300",
        "consumed_start": "200",
        "consumed_end": "300",
        "status": "ended",
    }
    assert wanted == {name: tags.get(f"pbt.{name}") for name in wanted}
    assert "pbt.parent_member" not in runs["member 1 segment 0"].data.tags


def test_a_segment_s_metrics_are_its_part_of_the_member_s(runs: dict[str, Any], store: Store) -> None:
    segment = runs["member 1 segment 2"]
    assert [(300, 1.3)] == store.history(segment, "score") == store.history(segment, "validation/bits_per_byte")
    assert [(200, 200.0), (300, 300.0)] == store.history(segment, "age")
    assert [(200, 0.008), (300, 0.008)] == store.history(segment, "hparams/lr")


def test_segments_end_when_and_as_the_ledger_says(runs: dict[str, Any]) -> None:
    ended, failed = runs["member 2 segment 1"].info, runs["member 2 segment 2"]
    assert ("FINISHED", 1_700_000_030_210, 1_700_000_060_340) == (ended.status, ended.start_time, ended.end_time)
    assert ("FAILED", ledgers.FAILURE) == (failed.info.status, failed.data.tags["pbt.reason"])


def test_a_segment_that_came_to_no_end_is_killed_with_its_sweep_and_runs_again(store: Store, tmp_path: Path) -> None:
    story = mirrors.eventful(tmp_path / "stopped")
    next(story)
    mirror = store.mirror(tmp_path / "stopped", "stopped", segment_runs=9)
    mirror.sync()
    assert "RUNNING" == store.runs("stopped")["member 1 segment 0"].info.status
    mirror.finish("stopped", {})
    segment = store.runs("stopped")["member 1 segment 0"]
    assert ("KILLED", "stopped") == (segment.info.status, segment.data.tags["pbt.status"])
    for _ in story:
        mirror.sync()
    segment = store.runs("stopped")["member 1 segment 0"]
    assert ("FINISHED", "ended") == (segment.info.status, segment.data.tags["pbt.status"])


@pytest.mark.parametrize(("segment_runs", "kinds"), [(9, {"sweep", "member", "segment"}), (8, {"sweep", "member"})])
def test_segments_have_runs_while_they_are_few(
    store: Store, tmp_path: Path, segment_runs: int, kinds: set[str]
) -> None:
    """Three members, three generations."""
    tell(store, tmp_path, f"limit-{segment_runs}", segment_runs)
    assert kinds == {run.data.tags["pbt.kind"] for run in store.runs(f"limit-{segment_runs}").values()}


def test_the_first_mirror_settles_whether_segments_have_runs(store: Store, tmp_path: Path) -> None:
    """A sweep that goes on, or is mirrored from elsewhere, is shown as it was begun."""
    story = mirrors.eventful(tmp_path / "settled")
    next(story)
    store.mirror(tmp_path / "settled", "settled", segment_runs=9).sync()
    for _ in story:
        pass
    store.mirror(tmp_path / "settled", "settled", segment_runs=0).finish("finished", WINNER)
    assert 9 == len(store.search("settled", "tags.`pbt.kind` = 'segment'"))


@pytest.mark.parametrize("name", ["member 0", "member 0 segment 0"])
def test_a_run_that_somebody_deleted_is_made_again_where_it_is_needed(store: Store, tmp_path: Path, name: str) -> None:
    """For what is new; what it had is gone. The mirror does not stop at it."""
    experiment = f"deleted {name}"
    for number, _ in enumerate(mirrors.eventful(tmp_path / "deleted")):
        mirror = store.mirror(tmp_path / "deleted", experiment, segment_runs=9)
        mirror.sync()
        if number == 1:  # it has ended, and is not saved yet
            store.client.delete_run(store.runs(experiment)[name].info.run_id)
    assert mirror.finish("finished", WINNER), mirror.last_error
    assert "member-0-segment-0" in store.models(experiment)
    assert name in store.runs(experiment)


@pytest.mark.parametrize("version", ["ledger-v1", "ledger-v2"])
def test_ledgers_of_every_version_are_mirrored(tmp_path: Path, version: str) -> None:
    """All of their segments, and the weights that were copied."""
    run = ledgers.run_json(tmp_path / "old", members=4, generations=4, steps=10, space={"lr": ledgers.SPACE["lr"]})
    shutil.copytree(GOLDEN / version / "ledger", run / "ledger")
    store = Store("sqlite:////nowhere/mlflow.db", FakeMlflow())  # type: ignore[arg-type]
    mirror = store.mirror(run, "old", segment_runs=16)
    assert mirror.finish("finished", {}), mirror.last_error
    rows = LedgerReader(run).rows(("segments",))["segments"]
    names = {f"member {row['member']} segment {row['segment']}" for row in rows}
    assert names == store.search("old", "tags.`pbt.kind` = 'segment'")
    copied = {
        f"member-{row['parent_member']}-segment-{row['parent_segment']}" for row in rows if row["start"] == "copied"
    }
    assert copied
    assert copied <= set(store.models("old"))


# ------------------------------------------------------------------------------------------------------------- models


def test_models_are_weights_that_are_kept_or_were_copied(models: dict[str, Any]) -> None:
    """What is gone and nobody took over is gone from MLflow, too: member 1's first segment, member 2's second."""
    wanted = {
        "member-0-segment-0": ("removed", "FAILED"),
        "member-0-segment-1": ("never saved", "FAILED"),
        "member-0-segment-2": ("kept", "READY"),
        "member-1-segment-2": ("kept", "READY"),
        "member-2-segment-0": ("kept", "READY"),
    }
    assert wanted == {name: (model.tags["pbt.weights"], str(model.status)) for name, model in models.items()}


def test_a_model_says_where_its_weights_are_and_how_to_load_them(models: dict[str, Any]) -> None:
    tags = models["member-2-segment-0"].tags
    file = f"checkpoints/{digest(2, 0)}.safetensors"
    assert (digest(2, 0), file) == (tags["pbt.digest"], tags["pbt.file"])
    assert f'safetensors.torch.load_file("RUN/{file}")' == tags["pbt.load"]
    assert ("2", "0", "100", "2.6") == tuple(tags[f"pbt.{name}"] for name in ("member", "segment", "age", "score"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("member-2-segment-0", f"at age 100: 2.6. They are in the run's folder, in `checkpoints/{digest(2, 0)}"),
        (
            "member-0-segment-0",
            "They were saved, and are removed. *Failed* is MLflow's word for a model without its file",
        ),
        ("member-0-segment-0", "nothing went wrong in training. Taken over by member 2."),
        ("member-0-segment-1", "They were never saved. *Failed* is"),
    ],
)
def test_a_model_s_description_says_what_its_page_does_not(models: dict[str, Any], name: str, words: str) -> None:
    """MLflow's page of a model shows no tags, and not who took it over."""
    assert words in models[name].tags["mlflow.note.content"]


def test_a_model_s_description_by_a_person_is_kept(store: Store, tmp_path: Path) -> None:
    """Whatever happens to the model afterwards."""
    story = mirrors.eventful(tmp_path / "mine")
    for _ in range(3):
        next(story)
    store.mirror(tmp_path / "mine", "mine", segment_runs=9).sync()
    store.client.set_logged_model_tags(
        store.models("mine")["member-0-segment-0"].model_id, {"mlflow.note.content": "Mine."}
    )
    for _ in story:
        pass
    store.mirror(tmp_path / "mine", "mine", segment_runs=9).sync()
    tags = store.models("mine")["member-0-segment-0"].tags
    assert (tags["mlflow.note.content"], tags["pbt.weights"]) == ("Mine.", "removed")


def test_a_model_that_is_gone_no_longer_says_how_to_load_it(store: Store, tmp_path: Path) -> None:
    """It did while it was there."""
    story = mirrors.eventful(tmp_path / "gone")
    mirror = None
    said = []
    for _ in story:
        mirror = mirror or store.mirror(tmp_path / "gone", "gone", segment_runs=9)
        mirror.sync()
        model = store.models("gone").get("member-0-segment-0")
        said.append(model and (str(model.status), "pbt.load" in model.tags, "pbt.file" in model.tags))
    assert [None, None, ("READY", True, True), ("FAILED", False, False)] == said[:4]


def test_a_model_s_params_and_metrics_are_those_of_the_segment_that_ended_in_it(models: dict[str, Any]) -> None:
    model = models["member-1-segment-2"]
    assert {"lr": "0.008"} == model.params
    found = {metric.key: (metric.value, metric.step, metric.dataset_name) for metric in model.metrics}
    wanted = {"score": 1.3, "train/loss": 1.2, "validation/bits_per_byte": 1.3, "test/bits_per_byte": 1.35}
    assert {name: (value, 300, "corpus/") for name, value in wanted.items()} == found


def test_a_score_that_is_no_number_is_not_a_model_s(store: Store, tmp_path: Path) -> None:
    """MLflow would keep 0 of it, which is better than any other."""
    run = ledgers.run_json(tmp_path / "diverged", members=1, generations=1, steps=100)
    clock = ledgers.Clock()
    pen = ledgers.Pen(Ledger(run, clock), clock)
    pen.begin(0, 0, {"lr": 0.1})
    pen.settle()
    pen.report(0, 0, score=ledgers.NAN, train=1.0)
    pen.ledger.append("checkpoints", member=0, segment=0, digest=digest(0, 0), size_bytes=1, status="saved")
    pen.ledger.close(finished=False)
    store.mirror(run, "diverged", segment_runs=1).sync()
    assert ["train/loss"] == [metric.key for metric in store.models("diverged")["member-0-segment-0"].metrics]


def test_the_run_that_made_a_model_has_it_as_output_and_who_copied_it_as_input(
    runs: dict[str, Any], models: dict[str, Any]
) -> None:
    """So MLflow's own pages show who descends from whom."""
    names = {model.model_id: name for name, model in models.items()}
    made = {
        name: [(names.get(out.model_id), out.step) for out in run.outputs.model_outputs] for name, run in runs.items()
    }
    assert {
        "member 0 segment 0": [("member-0-segment-0", 100)],
        "member 0 segment 1": [("member-0-segment-1", 200)],
        "member 0 segment 2": [("member-0-segment-2", 300)],
        "member 1 segment 2": [("member-1-segment-2", 300)],
        "member 2 segment 0": [("member-2-segment-0", 100)],
    } == {name: outputs for name, outputs in made.items() if outputs}
    took = {name: [names[entry.model_id] for entry in run.inputs.model_inputs] for name, run in runs.items()}
    assert {
        "member 1 segment 2": ["member-0-segment-1"],
        "member 2 segment 1": ["member-0-segment-0"],
    } == {name: inputs for name, inputs in took.items() if inputs}


def test_the_sweep_names_the_winner_s_model(runs: dict[str, Any], models: dict[str, Any]) -> None:
    assert models["member-1-segment-2"].model_id == runs["made-up-1"].data.tags["pbt.best_model_id"]


def test_without_runs_for_segments_the_members_make_and_take_models(store: Store, tmp_path: Path) -> None:
    """Copies of weights that went to no file are not shown then: there may be very many."""
    tell(store, tmp_path, "many", 0)
    runs, models = store.runs("many"), store.models("many")
    names = {model.model_id: name for name, model in models.items()}
    assert {"member-0-segment-0", "member-0-segment-2", "member-1-segment-2", "member-2-segment-0"} == set(models)
    made = {names[out.model_id]: name for name, run in runs.items() for out in run.outputs.model_outputs}
    assert {model: f"member {model[7]}" for model in models} == made
    took = {name: [names[entry.model_id] for entry in run.inputs.model_inputs] for name, run in runs.items()}
    assert {"member 2": ["member-0-segment-0"]} == {name: inputs for name, inputs in took.items() if inputs}


def test_a_model_made_twice_by_a_slow_server_is_left_once(store: Store, tmp_path: Path) -> None:
    """The one its run knows stays."""
    run = mirrors.tell_eventful(tmp_path / "made-up-1")
    store.mirror(run, "slow", segment_runs=9).sync()
    known = store.models("slow")["member-0-segment-2"]
    store.client.create_logged_model(known.experiment_id, name=known.name, tags=known.tags)
    store.mirror(run, "slow", segment_runs=9).sync()
    assert known.model_id == store.models("slow")["member-0-segment-2"].model_id


def test_more_hyperparameters_than_fit_into_one_call_all_arrive(store: Store, tmp_path: Path) -> None:
    """150 params of a segment's run and of its model; MLflow takes 100 at once."""
    run = ledgers.run_json(tmp_path / "wide", members=1, generations=1, steps=100)
    clock = ledgers.Clock()
    pen = ledgers.Pen(Ledger(run, clock), clock)
    values = {f"h{number:03d}": float(number) for number in range(150)}
    pen.begin(0, 0, values)
    pen.settle()
    pen.report(0, 0, score=1.0, train=1.0)
    pen.ledger.append("checkpoints", member=0, segment=0, digest=digest(0, 0), size_bytes=1, status="saved")
    pen.ledger.close(finished=False)
    mirror = store.mirror(run, "wide", segment_runs=1)
    mirror.sync()
    assert mirror.last_error is None
    wanted = {name: json.dumps(value) for name, value in values.items()}
    assert wanted == store.runs("wide")["member 0 segment 0"].data.params
    assert wanted == store.models("wide")["member-0-segment-0"].params
