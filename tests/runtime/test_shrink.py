"""Weights that are shrunk and perturbed: recorded, carried out once, and again where they were lost."""

import json
import random
import shutil

import pytest

from pbt.lineage import Lineage
from pbt.member import SegmentKey, Shrinkage
from pbt.population import IPBT
from pbt.record.ledger import LedgerReader
from pbt.record.validity import violations
from pbt.spec import Checkpoints
from tests.runtime.stage import Stage, new_run, photographs
from tests.runtime.test_brain import is_sound

pytestmark = pytest.mark.usefixtures("no_sync")

#: With a curve as straight as a `ClearStack`'s, restarted after every fourth generation. One of four gets new weights.
OPTIONS = IPBT(quantile=0.4, slow=2, growth=1, fresh_weights=0.25)
SWEEP = {"members": 5, "generations": 10, "seed": 2}
EVERY, NONE = Checkpoints(every_steps=10), Checkpoints(every_minutes=None)


def played(run, choose=min, checkpoints=NONE, **more):
    return Stage(run, OPTIONS, checkpoints=checkpoints, **SWEEP, **more).play(choose)


def made(folder, number):
    """A folder of its own for each of several runs."""
    (folder / str(number)).mkdir()
    return folder / str(number)


def facts(stage):
    """All that was decided, and what came of it."""
    scores = {(row["member"], row["segment"]): (row["score"], row["age_end"]) for row in stage.rows("outcomes")}
    told = [(row["kind"], row["member"], row["donor"], row["reason"], row["data"]) for row in stage.rows("decisions")]
    return stage.digest(), scores, told


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Two restarts, across two stacks."""
    return played(new_run(tmp_path_factory.mktemp("undisturbed")))


def test_a_restart_is_on_record(undisturbed):
    """As a decision with its reason, and with the segment that begins so; in the lineage, and in schedules."""
    segments = [row for row in undisturbed.rows("segments") if row["shrink"] is not None]
    decided = [row for row in undisturbed.rows("decisions") if row["kind"] == "shrink"]
    assert len(segments) == len(decided) == 6  # twice three of four: the best goes on, and one gets new weights
    assert {row["start"] for row in segments} == {"own", "copied"}
    assert all("restart" in row["reason"] and "20 % of the weights" in row["reason"] for row in decided)
    known = {(row["member"], row["segment"] - 1): row["shrink"] for row in segments}
    assert known == {(row["member"], row["segment"]): row["data"] for row in decided}
    lineage = Lineage.from_rows(LedgerReader(undisturbed.run).rows(("segments", "outcomes")))
    for row in segments:
        key = SegmentKey(row["member"], row["segment"])
        how = Shrinkage(**json.loads(row["shrink"]))
        assert lineage.segments[key].shrink == how
        assert lineage.schedule(key)[-1].shrink == how
        assert lineage.schedule(key)[-1].age_start == row["age_start"] > 0


def test_a_fifth_of_the_weights_is_kept(undisturbed):
    """A `ClearStack` begins at 0 and adds `gain` in every step: what it scores can be computed from the record."""
    rows = LedgerReader(undisturbed.run).rows(("segments", "outcomes"))
    ends = {(row["member"], row["segment"]): row["score"] for row in rows["outcomes"]}
    for row in rows["segments"]:
        before = 0.0 if row["start"] == "fresh" else ends[row["parent_member"], row["parent_segment"]]
        steps, gain = row["until"] - row["consumed_start"], json.loads(row["hparams"])["gain"]
        kept = 0.2 if row["shrink"] else 1.0
        assert ends[row["member"], row["segment"]] == pytest.approx(kept * before + gain * steps)


def test_the_order_of_reports_changes_nothing(undisturbed, tmp_path):
    """Whoever comes first."""
    for seed in range(4):
        assert facts(undisturbed) == facts(played(new_run(made(tmp_path, seed)), random.Random(seed).choice))


@pytest.mark.parametrize(
    "checkpoints", [pytest.param(EVERY, marks=pytest.mark.full), NONE], ids=["every segment", "none"]
)
def test_killed_after_every_commit(undisturbed, tmp_path, checkpoints):
    """What is trained again is shrunk again, once."""
    run = new_run(tmp_path)
    played(run, checkpoints=checkpoints, ledger=photographs(run, tmp_path / "album"))
    photos = sorted((tmp_path / "album").iterdir())
    assert len(photos) > 40
    for photo in photos:
        stage = played(shutil.copytree(photo, tmp_path / photo.name / "run"), checkpoints=checkpoints)
        assert facts(undisturbed) == facts(stage), photo.name
        assert is_sound(stage)
        assert [] == [row for row in stage.rows("incidents") if row["kind"] == "differs"]


@pytest.mark.parametrize("checkpoints", [EVERY, NONE], ids=["every segment", "none"])
def test_hosts_are_lost(undisturbed, tmp_path, checkpoints):
    """At any moment, with what they had begun to do."""
    for moment in range(0, 24, 2):
        stage = Stage(new_run(made(tmp_path, moment)), OPTIONS, checkpoints=checkpoints, **SWEEP)
        for _ in range(moment):
            stage.turn()
        stage.take()
        stage.lose(moment % 4 // 2)
        stage.play()
        assert facts(undisturbed) == facts(stage), moment
        assert is_sound(stage)


def test_the_record_of_a_shrinking_that_was_not_decided_is_false(undisturbed):
    """Nor may one that was decided be missing."""
    rows = LedgerReader(undisturbed.run).rows()
    assert [] == violations(rows, lambda digest: True)
    for change in ("forget", "invent"):
        segments = [dict(row) for row in rows["segments"]]
        row = next(row for row in segments if bool(row["shrink"]) is (change == "forget") and row["segment"] > 0)
        row["shrink"] = None if change == "forget" else '{"keep":0.5,"noise":0.5,"seed":1}'
        (problem,) = violations({**rows, "segments": segments}, lambda digest: True)
        assert f"segment {row['member']}:{row['segment']} is shrunk by" in problem


def test_the_digest_tells_how_much_was_kept(undisturbed, tmp_path):
    """Two runs with equal hyperparameters that kept different shares decided differently."""
    options = IPBT(quantile=0.4, slow=2, growth=1, fresh_weights=0.25, noise=0.3)  # a `ClearStack`'s new weights are 0
    other = Stage(new_run(tmp_path), options, checkpoints=NONE, **SWEEP).play(min)
    assert facts(undisturbed)[1] == facts(other)[1]
    assert undisturbed.digest() != other.digest()
