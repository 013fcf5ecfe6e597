"""Provenance as Arrow: what `Result` answers about the scripted sweep."""

import json
import math

import pyarrow as pa
import pytest

from pbt.lineage import MemberNotFound
from pbt.record.provenance import JSON_COLUMNS
from pbt.record.result import load
from tests import ledgers


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The scripted sweep, told to its end."""
    return load(ledgers.tell(tmp_path_factory.mktemp("story") / "run"))


def keys(table):
    return [f"{row['member']}:{row['segment']}" for row in table.to_pylist()]


def test_ancestors(told):
    """Root first, the member's present segment last."""
    table = told.ancestors(1)
    assert ["0:0", "5:1", "5:2", "1:3"] == keys(table)
    row = table.to_pylist()[-1]
    assert (row["start"], row["parent_member"], row["parent_segment"], row["generation"]) == ("copied", 5, 2, 3)
    assert (row["age_start"], row["age_end"], row["consumed_start"], row["consumed_end"]) == (300, 400, 300, 400)
    assert (row["score"], row["status"], row["fate"], row["living"], row["seed"]) == (1.3, "ended", "held", True, 1001)
    assert json.loads(row["hparams"]) == json.loads(row["hparams_in_effect"]) == ledgers.hparams(5, 1)
    assert row["hparams/lr"] == ledgers.hparams(5, 1)["lr"]
    assert row["hparams/mix"] == {"books": 0.25, "web": 0.75}


def test_descendants(told):
    """In order of age, with what became of each."""
    table = told.descendants("5:1")
    assert ["5:1", "5:2", "1:3", "5:3"] == keys(table)
    assert ["trained on", "trained on", "held", "held"] == table["fate"].to_pylist()
    assert [False, False, True, True] == table["living"].to_pylist()


def test_the_whole_lineage(told):
    """Every segment, with the root of its ancestry."""
    table = told.lineage_table()
    assert sorted(keys(table)) == keys(table) == keys(told.segments)
    roots = {f"{r['member']}:{r['segment']}": (r["root_member"], r["root_segment"]) for r in table.to_pylist()}
    assert (roots["1:2"], roots["1:3"], roots["4:3"], roots["3:1"]) == ((1, 0), (0, 0), (1, 0), (3, 0))
    failed = table.to_pylist()[keys(table).index("3:1")]
    assert (failed["status"], failed["reason"], failed["score"]) == ("failed", ledgers.FAILURE, None)
    assert (failed["fate"], failed["living"]) == ("failed", False)


def test_a_schedule(told):
    """What can be replayed."""
    rows = told.schedule(1).to_pylist()
    assert [(0, 100, 0), (100, 300, 5), (300, 400, 1)] == [(r["age_start"], r["age_end"], r["member"]) for r in rows]
    assert [ledgers.hparams(0), ledgers.hparams(0, 1), ledgers.hparams(5, 1)] == [
        json.loads(r["hparams"]) for r in rows
    ]
    assert [row["hparams/lr"] for row in rows] == [json.loads(row["hparams"])["lr"] for row in rows]


def test_why(told):
    """One row for everything that happened."""
    table = told.why(1)
    assert [entry.kind for entry in told.story(1)] == table["kind"].to_pylist()
    assert table.schema.field("at").type == pa.timestamp("us", "UTC")
    rows = {row["kind"]: row for row in table.to_pylist()}
    copy = rows["copy"]
    assert (copy["other_member"], copy["other_segment"], copy["reason"]) == (5, 2, "member 5 is better")
    assert json.loads(copy["hparams_before"])["lr"] == 0.002
    assert json.loads(copy["hparams"])["lr"] == 0.012
    assert (rows["ended"]["rank"], rows["ended"]["ranked"], rows["ended"]["awaited"]) == (1, 5, 0)
    assert json.loads(rows["evaluated"]["metrics"]) == {"bits_per_byte": 1.35}
    assert copy["at"].timestamp() == next(entry.at for entry in told.story(1) if entry.kind == "copy")


def test_what_goes_on_has_no_time(tmp_path):
    """Null, in a column of times."""
    rows = load(ledgers.tell(tmp_path / "run", commits=3)).why(0).to_pylist()
    assert ("running", None) == (rows[-1]["kind"], rows[-1]["at"])


def test_diff(told):
    """By age: shared at first, then side by side."""
    rows = told.diff(1, 5).to_pylist()
    assert [True, True, True, False] == [row["shared"] for row in rows]
    assert [[], [], [], ["lr", "nesterov", "optimizer"]] == [row["differs"] for row in rows]
    last = rows[-1]
    assert (last["age_start"], last["age_end"]) == (300, 400)
    assert (last["a_member"], last["a_segment"], last["a_score"]) == (1, 3, 1.3)
    assert (last["b_member"], last["b_segment"], last["b_score"]) == (5, 3, 1.4)
    assert json.loads(last["a_hparams"]) == ledgers.hparams(5, 1)


def test_diff_where_one_ancestry_is_over(told):
    """The rest is the other's alone; scores are told where a segment ends."""
    rows = told.diff("5:1", 1).to_pylist()
    assert [(5, 5), (None, 5), (None, 1)] == [(row["a_member"], row["b_member"]) for row in rows[1:]]
    assert [[], None, None] == [row["differs"] for row in rows[1:]]
    assert [1.6, None, None] == [row["a_score"] for row in rows[1:]]
    early = told.diff("3:1", 0).to_pylist()  # which failed at age 140, where 0:1 had not ended
    assert [(100, 140, None, None), (140, 200, None, 1.8)] == [
        (row["age_start"], row["age_end"], row["a_score"], row["b_score"])
        for row in early
        if 100 <= row["age_start"] < 200
    ]


def test_json_columns_hold_json(told):
    """Or nothing."""
    tables = [told.lineage_table(), told.schedule(1), told.why(1), told.diff(1, 2)]
    for table in tables:
        for name in JSON_COLUMNS & set(table.column_names):
            assert all(isinstance(json.loads(text), dict) for text in table[name].to_pylist() if text is not None)
    assert {name for table in tables for name in table.column_names} >= JSON_COLUMNS


def test_an_empty_lineage_is_an_empty_table(tmp_path):
    """With all its columns."""
    from pbt.record.ledger import Ledger

    ledgers.run_json(tmp_path, members=2, generations=1, steps=1)
    Ledger(tmp_path).close(finished=False)
    table = load(tmp_path).lineage_table()
    assert (table.num_rows, "root_member" in table.column_names) == (0, True)
    with pytest.raises(MemberNotFound):
        load(tmp_path).why(0)


def test_options_of_mixed_types_become_words(tmp_path):
    """As in `Result.segments`."""
    ledgers.run_json(tmp_path, members=2, generations=1, steps=1)
    pen = ledgers.Pen(ledgers.Ledger(tmp_path), ledgers.Clock())
    for member, value in enumerate(["sgd", 7]):
        pen.begin(member, 0, {"x": value})
    pen.ledger.close(finished=False)
    assert ["sgd", "7"] == load(tmp_path).lineage_table()["hparams/x"].to_pylist()


def test_a_diverged_score_stays_nan(told):
    """Arrow has NaN, unlike JSON."""
    rows = told.lineage_table().to_pylist()
    assert [f"{r['member']}:{r['segment']}" for r in rows if r["score"] is not None and math.isnan(r["score"])] == [
        "4:0"
    ]
