"""A run as typed results: the winner, its schedule and its weights, and everything as Arrow and pandas."""

import math
import re
import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from pbt.errors import LedgerError, RunNotFound
from pbt.lineage import ScheduleStep
from pbt.record import schema
from pbt.record.ledger import Ledger, LedgerReader
from pbt.record.result import Result, load
from pbt.record.runs import open_run
from tests import ledgers

GOLDEN = Path(__file__).parents[1] / "golden" / "ledger-v1"


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The scripted sweep, told to its end."""
    return load(ledgers.tell(tmp_path_factory.mktemp("story") / "run"))


def half(tmp_path, commits):
    """The scripted sweep, stopped in the middle."""
    return load(ledgers.tell(tmp_path / "run", commits))


def finished(tmp_path, *rows, winner):
    """A finished run with these rows and an announced winner."""
    ledgers.run_json(tmp_path / "run", members=1, generations=1, steps=1)
    ledger = Ledger(tmp_path / "run")
    for table, row in rows:
        ledger.append(table, **row)
    ledger.append("decisions", kind="finish", member=winner, reason="done")
    ledger.close(finished=True)
    return load(tmp_path / "run")


# --- the winner


def test_the_winner(told):
    """Its last score, its metrics on all splits, what it ended with and where its weights are."""
    best = told.best
    assert (told.finished, told.winner, best.member) == (True, 1, 1)
    assert best.score == 1.3
    assert best.hparams == ledgers.hparams(5, 1)
    assert best.metrics == {
        "train/loss": pytest.approx(1.2),
        "validation/bits_per_byte": 1.3,
        "test/bits_per_byte": 1.35,
    }
    assert best.checkpoint == told.path / "checkpoints" / f"{'cd' * 32}.safetensors"


def test_the_winners_schedule(told):
    """Its weights came 0 -> 5 -> 5 -> 1, each stretch at its own hyperparameters."""
    assert told.best.schedule == (
        ScheduleStep(0, 100, ledgers.hparams(0), 0),
        ScheduleStep(100, 300, ledgers.hparams(0, 1), 5),
        ScheduleStep(300, 400, ledgers.hparams(5, 1), 1),
    )
    assert told.best.schedule == tuple(told.lineage.schedule(1))


def test_of_several_checkpoints_the_last_is_the_winners(tmp_path):
    """The one saved when it was announced."""
    segment = {"member": 0, "segment": 0, "generation": 0, "start": "fresh", "hparams": "{}", "seed": 1, "age_start": 0}
    saved = [("checkpoints", {"member": 0, "segment": 0, "digest": digest * 32}) for digest in ("ab", "cd")]
    best = finished(tmp_path, ("segments", segment | {"consumed_start": 0}), *saved, winner=0).best
    assert best.checkpoint == tmp_path / "run" / "checkpoints" / f"{'cd' * 32}.safetensors"


def test_without_a_checkpoint_there_is_no_path(tmp_path):
    """Where the winner's weights were not saved."""
    segment = {"member": 0, "segment": 0, "generation": 0, "start": "fresh", "hparams": "{}", "seed": 1, "age_start": 0}
    rows = [
        ("segments", segment | {"consumed_start": 0}),
        (
            "outcomes",
            {"member": 0, "segment": 0, "status": "ended", "age_end": 1, "consumed_end": 1, "score": math.nan},
        ),
        ("checkpoints", {"member": 3, "segment": 0, "digest": "ab" * 32}),
    ]
    best = finished(tmp_path, *rows, winner=0).best
    assert best.checkpoint is None
    assert math.isnan(best.score)
    assert best.metrics == {}


def test_a_sweep_without_survivors_has_no_winner(tmp_path):
    """The error says so, and what to try."""
    result = finished(tmp_path, winner=None)
    assert (result.finished, result.winner) == (True, None)
    with pytest.raises(LedgerError) as raised:
        _ = result.best
    assert str(raised.value) == "run has no winner: no member survived; try smaller learning rates."


@pytest.mark.parametrize("commits", [1, 2, 5, 8])
def test_a_sweep_under_way_has_no_winner(tmp_path, commits):
    """But everything else can be asked for."""
    result = half(tmp_path, commits)
    assert (result.finished, result.winner) == (False, None)
    with pytest.raises(LedgerError) as raised:
        _ = result.best
    going_on = f"`pbt resume {result.path}` goes on with it"
    assert str(raised.value) == f"run has no winner: it has not finished; {going_on}."
    assert result.segments.num_rows == len(result.lineage.segments)
    assert result.to_pandas()["member"].nunique() == ledgers.MEMBERS


# --- tables


def test_one_row_for_each_segment(told):
    """In order of member and segment, decision and outcome joined, hyperparameters in columns of their own."""
    table = told.segments
    keys = list(zip(table["member"].to_pylist(), table["segment"].to_pylist(), strict=True))
    assert keys == sorted((key.member, key.index) for key in told.lineage.segments)
    assert len(keys) == 22
    row = table.to_pylist()[keys.index((1, 3))]
    assert (row["start"], row["parent_member"], row["parent_segment"]) == ("copied", 5, 2)
    assert (row["score"], row["status"], row["age_end"], row["tokens"]) == (1.3, "ended", 400, 51_200)
    for name, value in ledgers.hparams(5, 1).items():
        assert row[f"hparams/{name}"] == value
    assert table.schema.field("decided_at").type == table.schema.field("ended_at").type == pa.timestamp("us", "UTC")


def test_segments_under_way_have_nulls(tmp_path):
    """Instead of an outcome."""
    rows = half(tmp_path, 3).segments.to_pylist()
    running = [row for row in rows if row["segment"] == 1]
    assert len(running) == ledgers.MEMBERS
    for row in running:
        assert [row[name] for name in ("status", "score", "age_end", "ended_at")] == [None] * 4


def test_metrics_are_long_rows(told):
    """One for each value, with member, segment, split, name, age and consumed."""
    rows = told.metrics.to_pylist()
    assert told.metrics.num_rows == 2 * 21 + 1
    assert [row for row in rows if row["split"] == "test"] == [rows[-1]]
    assert (rows[-1]["name"], rows[-1]["value"], rows[-1]["member"]) == ("bits_per_byte", 1.35, 1)


def test_tables_and_rows_are_the_same_picture(told):
    """Every table of the ledger, in Arrow and as dictionaries."""
    assert told.tables.keys() == told.rows.keys() == schema.TABLES.keys()
    for name, table in told.tables.items():
        assert table.schema == schema.TABLES[name]
        assert repr(schema.to_rows(table)) == repr(told.rows[name])


def test_metrics_stay_in_arrow(told, monkeypatch):
    """Ten million of them are a table, not ten million dictionaries."""
    monkeypatch.setattr("pbt.record.result.to_rows", None)
    assert load(told.path).metrics["at"] == told.metrics["at"]


def test_a_ledger_of_version_1_is_a_result(tmp_path):
    """With nulls where it says nothing."""
    run = Path(shutil.copytree(GOLDEN, tmp_path / "run"))
    ledgers.run_json(run, members=2, generations=3, steps=10)
    result = load(run)
    assert result.segments["flops"].to_pylist() == [None] * 5
    assert result.metrics.num_rows == 8
    assert result.tables["sessions"].num_rows == 0
    assert result.lineage.members == [0, 1]


def test_pandas(told):
    """The same rows, with types pandas can plot."""
    frame = told.to_pandas()
    assert list(frame.columns) == told.segments.column_names
    assert len(frame) == told.segments.num_rows
    assert pd.api.types.is_float_dtype(frame["hparams/lr"])
    assert pd.api.types.is_bool_dtype(frame["hparams/nesterov"])
    assert frame.groupby("member")["score"].last()[1] == 1.3


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.1, 0.2], [0.1, 0.2]),
        ([1, 0.5], [1.0, 0.5]),
        (["sgd", "adamw"], ["sgd", "adamw"]),
        ([True, 7], ["True", "7"]),
        (["sgd", 7], ["sgd", "7"]),
        ([{"a": 0.5, "b": 0.5}, {"a": 1.0, "b": 0.0}], [{"a": 0.5, "b": 0.5}, {"a": 1.0, "b": 0.0}]),
        ([0.1, None], [0.1, None]),
    ],
)
def test_hyperparameters_of_every_kind_become_columns(tmp_path, values, expected):
    """Options of mixed types become words; a hyperparameter that is not active is null."""
    from pbt.record.schema import canonical

    ledger = Ledger(tmp_path)
    for member, value in enumerate(values):
        hparams = {"other": 1} if value is None else {"x": value, "other": 1}
        ledger.append("segments", member=member, segment=0, hparams=canonical(hparams))
    ledger.close(finished=False)
    ledgers.run_json(tmp_path, members=2, generations=1, steps=1)
    table = load(tmp_path).segments
    assert table["hparams/x"].to_pylist() == expected
    assert table["hparams/other"].to_pylist() == [1] * len(values)


def test_an_empty_ledger_has_empty_tables(tmp_path):
    """A sweep that was interrupted before its first decision."""
    ledgers.run_json(tmp_path, members=2, generations=1, steps=1)
    Ledger(tmp_path).close(finished=False)
    result = load(tmp_path)
    assert (result.segments.num_rows, result.metrics.num_rows, len(result.to_pandas())) == (0, 0, 0)
    assert result.lineage.members == []


# --- the run


def test_the_digest_is_the_ledgers(told):
    """Of the decisions as they are now."""
    assert told.digest() == LedgerReader(told.path).digest()


def test_rows_stay_as_they_were_first_seen(tmp_path):
    """A result under way is one picture, not several; a new one sees what came since."""
    story = ledgers.story(tmp_path / "run")
    next(story)
    result = load(tmp_path / "run")
    assert result.segments.num_rows == 6
    assert result.metrics.num_rows == 0
    next(story)
    assert result.metrics.num_rows == 0
    assert Result(result.run).metrics.num_rows == 12
    for _ in story:
        pass


def test_load_takes_text_and_paths(told):
    """And gives the same run."""
    assert load(str(told.path)).run == load(told.path).run == open_run(told.path) == told.run


@pytest.mark.parametrize("name", ["", "missing"])
def test_what_is_no_run_is_refused(tmp_path, name):
    """With its path."""
    with pytest.raises(RunNotFound, match=rf"^no run at {re.escape(str(tmp_path / name))} "):
        load(tmp_path / name)


def test_a_run_without_a_ledger_is_refused(tmp_path):
    """`run.json` alone is no result."""
    ledgers.run_json(tmp_path, members=2, generations=1, steps=1)
    with pytest.raises(RunNotFound, match=r": nothing is recorded yet\. `pbt resume .*` begins it\.$"):
        load(tmp_path)
