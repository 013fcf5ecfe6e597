"""A member's story, on the scripted sweep of `tests.ledgers` and on rows made for the purpose."""

import json
import math
from dataclasses import asdict

import pytest

from pbt.lineage import Lineage, MemberNotFound, Standing
from pbt.member import SegmentKey
from pbt.record.ledger import LedgerReader
from pbt.record.story import Entry, differing, story
from tests import ledgers

OBJECTIVE = {"mode": "min", "split": ledgers.SPLIT, "metric": ledgers.METRIC}


@pytest.fixture
def rows(tmp_path):
    """Those of the scripted sweep."""
    return LedgerReader(ledgers.tell(tmp_path)).rows()


def tell(rows, reference):
    """The story of a member."""
    return story(Lineage.from_rows(rows), rows, reference, OBJECTIVE)


def kinds(entries):
    return [entry.kind for entry in entries]


def the(entries, kind):
    """The one entry of that kind."""
    (found,) = [entry for entry in entries if entry.kind == kind]
    return found


def later(rows):
    """A time after all that is recorded."""
    return 1.0 + max(row["at"] for table in rows.values() for row in table)


def test_the_winners_story(rows):
    """From its start to the checkpoint, in order of time."""
    entries = tell(rows, 1)
    assert [
        ("start", 0, 0),
        ("ended", 0, 100),
        ("donate", 0, 100),
        ("ended", 1, 200),
        ("ended", 2, 300),
        ("copy", 3, 300),
        ("ended", 3, 400),
        ("won", 3, 400),
        ("evaluated", 3, 400),
        ("saved", 3, 400),
    ] == [(entry.kind, entry.generation, entry.age) for entry in entries]
    assert [entry.at for entry in entries] == sorted(entry.at for entry in entries)


def test_a_start_has_all_hyperparameters(rows):
    """And nothing before it."""
    start = the(tell(rows, 1), "start")
    assert (start.before, start.hparams, start.segment) == (None, ledgers.hparams(1), 0)
    assert (start.generation, start.age, start.consumed) == (0, 0, 0)


def test_a_copy_has_donor_reason_and_both_hyperparameters(rows):
    """And the score of what was copied; the age is the donor's, the steps run are its own."""
    copy = the(tell(rows, 1), "copy")
    assert (copy.other, copy.score, copy.reason) == (SegmentKey(5, 2), 1.5, "member 5 is better")
    assert (copy.before, copy.hparams) == (ledgers.hparams(1), ledgers.hparams(5, 1))
    assert (copy.segment, copy.generation, copy.age, copy.consumed) == (3, 3, 300, 300)


def test_a_donor_is_told_who_has_its_weights(rows):
    """At the end of the segment that was copied."""
    given = the(tell(rows, 5), "donate")
    assert (given.other, given.segment, given.age, given.score) == (SegmentKey(1, 3), 2, 300, 1.5)


def test_scores_have_their_rank(rows):
    """Among all of the generation; who failed in it is not counted, who diverged comes last."""
    assert [Standing(2, 6, 0), Standing(3, 5, 0), Standing(4, 5, 0), Standing(1, 5, 0)] == [
        entry.standing for entry in tell(rows, 1) if entry.kind == "ended"
    ]
    diverged = next(entry for entry in tell(rows, 4) if entry.kind == "ended")
    assert math.isnan(diverged.score)
    assert diverged.standing == Standing(6, 6, 0)


def test_a_declined_exploit_has_its_reason(rows):
    """It is told where the member then was."""
    declined = the(tell(rows, 2), "decline")
    assert (declined.reason, declined.segment, declined.age) == (ledgers.DECLINED, 1, 200)


def test_a_failure_has_its_reason_and_place(rows):
    """And the sweep went on without it."""
    entries = tell(rows, 3)
    assert ["start", "ended", "failed", "finish"] == kinds(entries)
    assert (entries[2].reason, entries[2].age, entries[2].consumed) == (ledgers.FAILURE, 140, 140)
    assert entries[2].standing is None
    assert (entries[3].other, entries[3].reason) == (SegmentKey(1, 3), "budget spent")


def test_a_sweep_that_ends_without_a_winner(rows):
    """Everybody is told."""
    next(row for row in rows["decisions"] if row["kind"] == "finish").update(member=None)
    assert (the(tell(rows, 1), "finish").other, the(tell(rows, 3), "finish").other) == (None, None)


def test_metrics_of_other_splits_are_an_evaluation(rows):
    """In a ledger that has no table of evaluations, too; those of segments are not."""
    found = the(tell(rows, 1), "evaluated")
    assert (found.detail, found.metrics) == ("test", {ledgers.METRIC: 1.35})


def test_the_system_is_no_part_of_a_story(rows):
    """How fast a member trained is no decision and no reason for one."""
    before = tell(rows, 1)
    where = {"member": 1, "segment": 1, "age": 200, "consumed": 200, "at": later(rows)}
    rows["metrics"] += [{**where, "split": "system", "name": "tokens_per_s", "value": 5e3}]
    assert before == tell(rows, 1)


def test_the_score_is_told_before_what_else_was_evaluated_at_the_end_of_its_segment(rows):
    """Though the ledger has the metrics of a report first."""
    ended = next(row for row in rows["outcomes"] if (row["member"], row["segment"]) == (1, 1))
    where = {"member": 1, "segment": 1, "age": 200, "consumed": 200, "at": ended["at"] - 0.001}
    rows["metrics"].append({**where, "split": "books", "name": ledgers.METRIC, "value": 1.7})
    told = [entry for entry in tell(rows, 1) if entry.segment == 1]
    assert [("ended", ""), ("evaluated", "books")] == [(entry.kind, entry.detail) for entry in told]
    assert {200} == {entry.age for entry in told}


def test_a_member_is_told_the_plan_of_its_own_stack_only(rows):
    """Not those of the stacks it is not on."""
    stack = next(row["stack"] for row in rows["segments"] if row["member"] == 1)
    for number in range(3):
        plan = {"kind": "plan", "member": None, "reason": f"stack {number}: all together"}
        rows["decisions"].append({**plan, "data": json.dumps({"stack": number}), "at": later(rows)})
    assert [f"stack {stack}: all together"] == [entry.reason for entry in tell(rows, 1) if entry.kind == "plan"]


def test_an_evaluation_is_told_once_with_its_own_metrics(rows):
    """Also on the split that decides, where the segment has some as well."""
    where = {"member": 2, "segment": 3, "split": ledgers.SPLIT, "age": 400, "consumed": 400}
    now = later(rows)
    rows["decisions"].append({"kind": "evaluate", "member": 2, "segment": 3, "reason": "again", "at": now})
    rows["metrics"].append({**where, "name": ledgers.METRIC, "value": 1.79, "at": now + 1})
    rows["evaluations"].append({**where, "at": now + 2})
    entries = tell(rows, 2)
    assert (the(entries, "evaluate").reason, the(entries, "evaluated").metrics) == ("again", {ledgers.METRIC: 1.79})
    assert the(entries, "evaluated").at == now + 2


def test_checkpoints_are_told_from_writing_to_removal(rows):
    """Each at the age of the weights in it. Without a status it was saved."""
    saved = the(tell(rows, 1), "saved")
    assert (saved.detail, saved.segment, saved.age) == ("cd" * 32, 3, 400)
    now = later(rows)
    for number, status in enumerate(("saved", "damaged", "removed")):
        row = {"member": 1, "segment": 1, "digest": "ab" * 32, "size_bytes": 1, "status": status, "at": now + number}
        rows["checkpoints"].append(row)
    told = [(e.kind, e.segment, e.age) for e in tell(rows, 1) if e.detail == "ab" * 32]
    assert [("saved", 1, 200), ("damaged", 1, 200), ("removed", 1, 200)] == told


def test_incidents_of_the_member_of_its_stack_and_of_all(rows):
    """But not those of others. One of a segment is told where that ended."""
    now = later(rows)
    on = {row["member"]: row["stack"] for row in rows["segments"]}
    incidents = [
        {"kind": "differs", "member": 2, "segment": 1, "stack": None, "message": "in 2:1"},
        {"kind": "host_lost", "member": None, "stack": on[2], "message": "gone"},
        {"kind": "host_lost", "member": None, "stack": on[2] + 1, "message": "another"},
        {"kind": "differs", "member": 4, "segment": 1, "stack": on[2], "message": "another"},
        {"kind": "recovered", "member": None, "stack": None, "message": "all is well"},
    ]
    rows["incidents"] += [{**row, "at": now + number} for number, row in enumerate(incidents)]
    told = [entry for entry in tell(rows, 2) if entry.kind == "incident"]
    assert [("differs", "in 2:1", 1, 200), ("host_lost", "gone", 3, 400), ("recovered", "all is well", 3, 400)] == [
        (entry.detail, entry.reason, entry.generation, entry.age) for entry in told
    ]


def test_a_member_that_moved_shares_the_fate_of_its_last_stack(rows):
    """Not of the one it was on at first."""
    segments = [row for row in rows["segments"] if row["member"] == 2]
    for segment, stack in zip(segments, (7, 7, 8, 8), strict=True):
        segment["stack"] = stack
    for number, stack in enumerate((7, 8)):
        gone = {"kind": "host_lost", "member": None, "stack": stack, "message": f"stack {stack}"}
        rows["incidents"].append({**gone, "at": later(rows) + number})
    assert "stack 8" == the(tell(rows, 2), "incident").reason


def test_what_was_lost_and_trained_again(rows):
    """Once for each of the member's segments in an order of a recovery."""
    now = later(rows)
    orders = [("work", [[2, 0]]), ("recovery", [[1, 1], [2, 1], [2, 2]]), ("recovery", [[1, 2]])]
    for number, (kind, segments) in enumerate(orders):
        row = {"order": f"order:{number}", "kind": kind, "segments": json.dumps(segments), "at": now + number}
        rows["orders"].append(row)
    again = [entry for entry in tell(rows, 2) if entry.kind == "retrained"]
    assert [("order:1", 1, 200), ("order:1", 2, 300)] == [(entry.detail, entry.segment, entry.age) for entry in again]
    assert "retrained" not in kinds(tell(rows, 3))


def test_an_incident_before_anything_was_trained_has_no_place(rows):
    """It is told first."""
    rows["incidents"].append({"kind": "differs", "member": 2, "message": "early", "at": 1.0})
    first = tell(rows, 2)[0]
    assert (first.kind, first.segment, first.generation, first.age) == ("incident", None, None, None)


def test_what_concerns_the_whole_sweep_is_in_every_story(rows):
    """Later sessions, extensions and the end of the budget; the first session is no news."""
    now = later(rows)
    rows["sessions"] += [{"session": n, "reason": word, "at": now + n} for n, word in ((1, "start"), (2, "resume"))]
    rows["decisions"] += [
        {"kind": "extend", "member": None, "reason": "8 generations", "at": now + 3},
        {"kind": "budget", "member": None, "reason": "tokens", "at": now + 4},
    ]
    for member in (1, 3):
        entries = tell(rows, member)
        assert ["session", "extend", "budget"] == kinds(entries)[-3:]
        assert kinds(entries).count("session") == 1
        assert ["resume", "8 generations", "tokens"] == [entry.detail or entry.reason for entry in entries[-3:]]


def test_what_concerned_all_before_a_member_joined_is_not_in_its_story(rows):
    """It was added when the sweep was extended."""
    now = later(rows)
    rows["sessions"].append({"session": 2, "reason": "extend", "at": now})
    rows["decisions"].append({"kind": "extend", "member": None, "reason": "asked for", "at": now + 1})
    rows["incidents"].append({"kind": "recovered", "member": None, "stack": None, "message": "", "at": now + 2})
    first = next(row for row in rows["segments"] if (row["member"], row["segment"]) == (0, 0))
    rows["segments"].append({**first, "member": 6, "at": now + 3})
    assert ["start", "running"] == kinds(tell(rows, 6))
    assert ["session", "extend", "incident"] == kinds(tell(rows, 0))[-3:]


def test_what_the_device_held_is_told_where_it_was_not_what_was_ordered(rows):
    """Rounding to float32 is none of it."""
    outcome = next(row for row in rows["outcomes"] if (row["member"], row["segment"]) == (2, 1))
    assert {None} == {entry.in_effect for entry in tell(rows, 2)}
    outcome["hparams_in_effect"] = outcome["hparams_in_effect"].replace('"lr":0.003', '"lr":0.0030000000026')
    assert {None} == {entry.in_effect for entry in tell(rows, 2)}
    outcome["hparams_in_effect"] = outcome["hparams_in_effect"].replace('"lr":0.0030000000026', '"lr":0.004')
    wrong = [entry for entry in tell(rows, 2) if entry.in_effect]
    assert [("ended", 1, {"lr": 0.004})] == [(entry.kind, entry.segment, entry.in_effect) for entry in wrong]
    assert wrong[0].hparams["lr"] == 0.003


@pytest.mark.parametrize(
    ("wanted", "held", "expected"),
    [
        ({"a": 1.0}, {"a": 1.0, "b": 2}, {}),
        ({"a": 1.0}, {}, {"a": None}),
        ({"a": 0.1}, {"a": 0.10000000149011612}, {}),
        ({"a": 0.1}, {"a": 0.1001}, {"a": 0.1001}),
        ({"a": "x"}, {"a": "y"}, {"a": "y"}),
        ({"mix": {"x": 0.1, "y": 0.9}}, {"mix": {"x": 0.10000000149, "y": 0.9}}, {}),
        ({"mix": {"x": 0.1, "y": 0.9}}, {"mix": {"x": 0.2, "y": 0.8}}, {"mix": {"x": 0.2, "y": 0.8}}),
    ],
)
def test_values_are_compared_as_a_device_holds_them(wanted, held, expected):
    """To one part in a million, also inside a simplex."""
    assert expected == differing(wanted, held)


def test_new_values_on_own_weights_and_a_new_beginning(rows):
    """Both are told with what was before."""
    segment = next(row for row in rows["segments"] if (row["member"], row["segment"]) == (2, 2))
    segment["hparams"] = segment["hparams"].replace('"lr":0.003', '"lr":0.03')
    entries = [entry for entry in tell(rows, 2) if entry.kind == "set"]
    assert [(2, 0.003, 0.03), (3, 0.03, 0.003)] == [(e.segment, e.before["lr"], e.hparams["lr"]) for e in entries]
    segment.update(start="fresh", parent_member=None, parent_segment=None, age_start=0)
    again = the(tell(rows, 2), "restart")
    assert (again.segment, again.age, again.consumed, again.before["lr"]) == (2, 0, 200, 0.003)


def test_a_segment_has_a_story_of_its_own(rows):
    """What it began with, and all that happened in it."""
    assert ["copy", "ended", "won", "evaluated", "saved"] == kinds(tell(rows, "1:3"))
    assert ["ended", "donate"] == kinds(tell(rows, "1:0"))[1:]
    assert ["ended"] == kinds(tell(rows, "1:1"))


def test_an_unfinished_story_ends_in_the_present(tmp_path):
    """The segment under way comes last, and has no time."""
    rows = LedgerReader(ledgers.tell(tmp_path, commits=5)).rows()
    last = tell(rows, 5)[-1]
    assert (last.kind, last.at, last.generation, last.age) == ("running", None, 2, 200)
    assert last.hparams == ledgers.hparams(0, 1)
    assert "" == last.detail
    assert "stopped" == story(Lineage.from_rows(rows), rows, 5, OBJECTIVE, is_trained=False)[-1].detail
    assert "running" not in kinds(tell(rows, 3))


def test_scores_of_a_generation_under_way_have_a_rank_so_far(tmp_path):
    """With those that are still to come."""
    rows = LedgerReader(ledgers.tell(tmp_path, commits=4)).rows()
    rows["outcomes"] = [row for row in rows["outcomes"] if (row["member"], row["segment"]) not in ((0, 1), (4, 1))]
    assert Standing(1, 3, 2) == tell(rows, 5)[-1].standing


def test_an_old_ledger_is_told_too(rows):
    """Without the tables and columns of today."""
    tables = ("segments", "decisions", "outcomes", "metrics", "checkpoints")
    assert tell(rows, 1) == tell({name: rows[name] for name in tables}, 1)


@pytest.mark.parametrize("reference", [9, "9", "1:7", "x"])
def test_an_unknown_member_has_no_story(rows, reference):
    """But an error that says who there is."""
    with pytest.raises(MemberNotFound):
        tell(rows, reference)


def test_an_outcome_without_a_segment_does_not_stop_the_story(rows):
    """The rest is told."""
    stray = {**rows["outcomes"][0], "member": 2, "segment": 40, "at": later(rows)}
    before = [asdict(entry) for entry in tell(rows, 2)]
    rows["outcomes"].append(stray)
    assert before == [asdict(entry) for entry in tell(rows, 2)]
    assert isinstance(tell(rows, 2)[0], Entry)
