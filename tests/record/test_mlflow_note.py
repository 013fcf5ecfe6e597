"""A sweep's description in MLflow: what a person wants to know first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import RunTag

from pbt.record import mlflow_note
from pbt.record.ledger import LedgerReader, Tail
from pbt.record.mirrored import Story
from pbt.record.mlflow_note import OURS, note
from tests import ledgers, mirrors
from tests.fake_mlflow import FakeMlflow
from tests.mirrors import Store

BEST = {"member": 1, "score": 1.3, "test/bits_per_byte": 1.35}


def _told(run: Path, best: dict[str, Any]) -> list[str]:
    info = json.loads((run / "run.json").read_text())
    story = Story(info["objective"]["mode"], info["hparams"])
    story.add(Tail(LedgerReader(run)).poll())
    return note(story, info, best).splitlines()


def test_it_says_who_won_and_what_its_weights_were_trained_with(tmp_path: Path) -> None:
    """Stretches with one member and one set of hyperparameters are one row; fixed hyperparameters are left out."""
    lines = _told(ledgers.tell(tmp_path / "made-up"), BEST)
    assert lines == [
        f"{OURS} was won by member 1**: validation bits_per_byte 1.3 (lower is better); on the test split 1.35.",
        "",
        "Its weights came 0 → 5 → 1. They were trained with:",
        "",
        "| age | trained by | lr | mix.books | mix.web | nesterov | optimizer |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| 0 to 100 | member 0 | 0.001 | 0.25 | 0.75 | true | sgd |",
        "| 100 to 300 | member 5 | 0.002 | 0.25 | 0.75 | true | adamw |",
        "| 300 to 400 | member 1 | 0.012 | 0.25 | 0.75 | false | sgd |",
        "",
        "Browse the lineage: *Artifacts*, `lineage.html`.",
        "",
        "Again: `pbt schedule made-up 1`, `pbt why made-up 1`; the weights are among the *Models*.",
    ]


def test_without_a_winner_it_says_so(tmp_path: Path) -> None:
    """Nobody survived, or the sweep was stopped."""
    (line,) = _told(ledgers.tell(tmp_path / "made-up", commits=4), {})
    assert line == f"{OURS} has no winner.** `pbt show made-up` tells how it stands."


def test_a_long_schedule_is_cut_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow takes 8,000 characters; the beginning and the end are what is asked for."""
    run = ledgers.tell(tmp_path / "made-up")
    whole = _told(run, BEST)
    monkeypatch.setattr(mlflow_note, "_STRETCHES", 2)
    cut = _told(run, BEST)
    assert cut == [*whole[:7], "| ... 1 more |  |  |  |  |  |  |", *whole[8:]]


def test_a_persons_own_description_is_kept(tmp_path: Path) -> None:
    """Whoever wrote it meant it."""
    run, store = mirrors.tell_eventful(tmp_path / "made-up-1"), Store("sqlite:////nowhere/mlflow.db", FakeMlflow())
    for described, kept in ((None, OURS), (f"{OURS} is old news", OURS), ("Do not delete!", "Do not delete!")):
        mirror = store.mirror(run, "e")
        mirror.sync()
        if described is not None:
            store.client.log_batch(mirror.parent_id, tags=[RunTag("mlflow.note.content", described)])
            mirror = store.mirror(run, "e")
        assert mirror.finish("finished", mirrors.WINNER), mirror.last_error
        assert store.runs("e")["made-up-1"].data.tags["mlflow.note.content"].startswith(kept)
    assert "is old news" not in str(store.everything("e"))


def test_of_records_of_one_moment_only_the_best_is_told(tmp_path: Path) -> None:
    """Of values at one step and one millisecond MLflow shows the largest, which is the worst where small is good."""
    run = ledgers.run_json(tmp_path / "run", members=4, generations=1, steps=100)
    info = json.loads((run / "run.json").read_text())
    story, where = Story("min", info["hparams"]), {"segment": 0, "status": "ended"}
    begun = {"segment": 0, "start": "fresh", "hparams": "{}", "age_start": 0, "consumed_start": 0, "at": 1.0}
    ends = [(0, 3.0, 5.0), (1, 2.0, 5.0), (2, 1.5, 5.0004), (3, 1.0, 6.0)]
    rows: list[Any] = [("segments", {**begun, "member": member}) for member, _, _ in ends]
    rows += [
        ("outcomes", {**where, "member": member, "score": score, "at": at, "consumed_end": 100, "age_end": 100})
        for member, score, at in ends
    ]
    story.add(rows)
    assert [(1.5, 5000), (1.0, 6000)] == [(point.value, point.timestamp_ms) for point in story.metrics(rows)[None]]
