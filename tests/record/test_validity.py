"""What makes a ledger impossible: each way to break a good one is found, and said."""

import copy
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt.record.ledger import LedgerReader
from pbt.record.validity import violations
from pbt.spec import Budget
from tests import ledgers
from tests.examples import examples

GOLDEN = Path(__file__).parents[1] / "golden" / "ledger-v1"
BUDGET = Budget(members=ledgers.MEMBERS, generations=ledgers.GENERATIONS, steps=ledgers.STEPS)


def readable(digest):
    """A store that has lost nothing."""
    return True


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The rows of the scripted sweep, at its end, with an order for everything."""
    rows = LedgerReader(ledgers.tell(tmp_path_factory.mktemp("story"))).rows()
    for number, segment in enumerate(rows["segments"]):
        named = json.dumps([[segment["member"], segment["segment"]]])
        order = {"order": f"order:{number}", "kind": "work", "segments": named, "at": segment["at"] + 0.001}
        rows["orders"].append(order)
    return rows


@pytest.fixture
def rows(whole):
    """The same, to be spoilt."""
    return copy.deepcopy(whole)


def find(rows, table, **facts):
    """The one row with these facts."""
    (found,) = [row for row in rows[table] if facts.items() <= row.items()]
    return found


def change(table, facts, **values):
    """A way to spoil a row."""
    return lambda rows: find(rows, table, **facts).update(values)


def remove(table, **facts):
    """A way to lose a row."""
    return lambda rows: rows[table].remove(find(rows, table, **facts))


def add(table, facts, **values):
    """A way to add one much like another."""
    return lambda rows: rows[table].append({**find(rows, table, **facts), "at": 9e9, **values})


def at(member, segment):
    return {"member": member, "segment": segment}


WINNER = {"kind": "finish"}

#: How to spoil the scripted sweep, and what is said then. Member 1 is copied from 5:2 into 1:3; member 3 fails in 3:1.
SPOILT = [
    # segments and outcomes, one of each
    (add("segments", at(1, 2)), "segment 1:2 is in table segments 2 times"),
    (add("outcomes", at(1, 2)), "segment 1:2 is in table outcomes 2 times"),
    (remove("segments", **at(2, 1)), "member 2 has no segment 1, but one of index 3"),
    (remove("segments", **at(2, 1)), "segment 2:1 has an outcome, but was never begun"),
    (change("segments", at(2, 3), at=2.0), "segment 2:3 was begun before segment 2:2"),
    (change("outcomes", at(2, 3), at=1.0), "segment 2:3 ended before it was begun"),
    (lambda rows: rows["outcomes"][0].update(at=rows["segments"][0]["at"]), "2 rows have the same time, 1700000000.0"),
    # parents
    (remove("segments", **at(5, 2)), "segment 1:3 starts from 5:2, which does not exist"),
    (change("segments", at(1, 3), parent_member=7), "segment 1:3 starts from 7:2, which does not exist"),
    (remove("outcomes", **at(5, 2)), "segment 1:3 starts from 5:2, which has not ended"),
    (change("outcomes", at(5, 2), status="failed"), "segment 1:3 starts from 5:2, which failed"),
    (change("outcomes", at(5, 2), at=9e9), "segment 1:3 starts from 5:2, which ended only later"),
    (change("segments", at(1, 3), age_start=200), "segment 1:3 starts at age 200, but its parent 5:2 ended at 300"),
    (change("segments", at(1, 2), parent_segment=0), "segment 1:2 goes on from its own weights, but its parent is 1:0"),
    (
        change("segments", at(1, 3), parent_member=1),
        "segment 1:3 is a copy, but of its own member's segment 1:2",
    ),
    (change("segments", at(1, 3), parent_member=None), "segment 1:3 is copied, but has no parent"),
    (change("segments", at(1, 3), start="fresh"), "segment 1:3 is fresh, but has the parent 5:2"),
    (change("segments", at(1, 0), age_start=5), "segment 1:0 is fresh, but starts at age 5"),
    # counters
    (
        change("segments", at(1, 2), consumed_start=150),
        "segment 1:2 starts at 150 consumed steps, but the member had run 200",
    ),
    (
        change("segments", at(1, 0), consumed_start=10),
        "segment 1:0 starts at 10 consumed steps, but the member had run 0",
    ),
    (remove("outcomes", **at(1, 1)), "segment 1:2 was begun, but the segment before it has not ended"),
    (change("outcomes", at(1, 3), age_end=390), "segment 1:3 aged by 90 steps, but ran 100"),
    (change("outcomes", at(1, 3), consumed_end=390), "segment 1:3 aged by 100 steps, but ran 90"),
    (
        change("outcomes", at(1, 3), consumed_end=250, age_end=250),
        "segment 1:3 ended at 250 consumed steps, before its start at 300",
    ),
    (
        change("outcomes", at(1, 3), consumed_end=450, age_end=450),
        "segment 1:3 ran to 450 consumed steps, but was ordered to stop at 400",
    ),
    # the budget
    (change("segments", at(1, 3), until=500), "member 1 was to run 500 steps, but the budget has 400 for each member"),
    (add("segments", at(5, 0), member=6, slot=99), "7 slots were used, but the budget has 6 members"),
    (change("outcomes", at(5, 3), consumed_end=9000, age_end=9000), "steps were trained, but the budget has 2400"),
    # orders
    (
        change("orders", {"order": "order:0"}, segments="[[7, 0]]"),
        "order:0 names segment 7:0, which does not exist",
    ),
    (
        change("orders", {"order": "order:0"}, segments="[[0, 0], [0, 3]]"),
        "order:0 names segment 0:3, which was begun only later",
    ),
    (change("orders", {"order": "order:0"}, at=9e9), "segment 0:0 ended before any order named it"),
    # decisions
    (
        remove("decisions", kind="start", member=4),
        "segment 4:0 is fresh, but no decision of kind start came before it",
    ),
    (
        change("decisions", {"kind": "start", "member": 4}, at=9e9),
        "segment 4:0 is fresh, but no decision of kind start came before it",
    ),
    (
        remove("decisions", kind="copy", member=1),
        "segment 1:3 is copied, but no decision of kind copy came before it",
    ),
    (
        change("decisions", {"kind": "copy", "member": 1}, donor=0),
        "segment 1:3 starts from member 5, but member 0 was decided on",
    ),
    (
        change("decisions", {"kind": "set", "member": 1}, hparams='{"lr":7}'),
        '"optimizer":"sgd"}, but {"lr":7} was decided',
    ),
    (change("segments", at(2, 3), hparams='{"lr":7}'), 'segment 2:3 trains with {"lr":7}, but {'),
    # the end
    (change("decisions", WINNER, member=7), "the winner, member 7, does not exist"),
    (change("decisions", WINNER, member=3), "the winner, member 3, had failed"),
    # checkpoints
    (change("checkpoints", {}, segment=9), "checkpoint cdcdcdcdcdcd belongs to segment 1:9, which has not ended"),
    (change("checkpoints", {}, **at(3, 1)), "checkpoint cdcdcdcdcdcd belongs to segment 3:1, which has not ended"),
    (
        change("checkpoints", {}, status="removed"),
        "checkpoint cdcdcdcdcdcd of segment 1:3 is removed, but was never saved",
    ),
]


@pytest.mark.parametrize("commits", range(1, 12))
def test_a_good_ledger_has_no_violations(tmp_path, commits):
    """At any time: also one that was cut off after any commit."""
    rows = LedgerReader(ledgers.tell(tmp_path, commits)).rows()
    assert [] == violations(rows, readable, BUDGET)


def test_orders_of_a_good_ledger_are_no_violations(whole):
    """The ledger that is spoilt below has none before."""
    assert [] == violations(whole, readable, BUDGET)


def test_an_old_ledger_has_no_violations():
    """Tables it does not have are not missed, and columns neither."""
    rows = LedgerReader(GOLDEN).rows()
    tables = ("segments", "decisions", "outcomes", "metrics", "checkpoints")
    assert [] == violations({name: rows[name] for name in tables}, readable)


@pytest.mark.parametrize(("spoil", "says"), SPOILT, ids=[says[:60] for _, says in SPOILT])
def test_each_violation_is_found_and_said(rows, spoil, says):
    """In a line of plain English that names the segment."""
    spoil(rows)
    found = violations(rows, readable, BUDGET)
    assert [line for line in found if says in line]
    assert all("\n" not in line for line in found)


def test_a_circle_of_parents_is_found(rows):
    """For one of its segments ended only after it was copied."""
    find(rows, "segments", member=0, segment=0).update(start="copied", parent_member=5, parent_segment=1, age_start=200)
    assert "segment 0:0 starts from 5:1, which ended only later" in violations(rows, readable)


def test_a_checkpoint_that_cannot_be_read_is_found(rows):
    """Unless it was removed, or found damaged, since."""
    asked = []
    assert ["checkpoint cdcdcdcdcdcd of segment 1:3 cannot be read"] == violations(rows, asked.append, BUDGET)
    assert ["cd" * 32] == asked
    for status in ("removed", "damaged"):
        gone = copy.deepcopy(rows)
        add("checkpoints", {}, status=status)(gone)
        assert [] == violations(gone, lambda digest: False, BUDGET)
    add("checkpoints", {"status": None}, status="removed", at=8e9)(rows)
    add("checkpoints", {"status": None}, status="saved", at=9e9)(rows)
    assert violations(rows, lambda digest: False, BUDGET)


def test_of_several_decisions_the_last_counts(rows):
    """Of those since the segment before."""
    copied = find(rows, "segments", member=1, segment=3)
    for kind, values in (("copy", {"donor": 0}), ("set", {"hparams": '{"lr":7}'})):
        made = find(rows, "decisions", kind=kind, member=1)
        rows["decisions"].append({**made, **values, "at": made["at"] - 0.0001})
    assert [] == violations(rows, readable, BUDGET)
    find(rows, "decisions", kind="set", donor=None, hparams='{"lr":7}').update(at=copied["at"] - 0.0001)
    (found,) = violations(rows, readable, BUDGET)
    assert 'but {"lr":7} was decided' in found


def test_a_sweep_may_end_without_a_winner(rows):
    """Nobody is announced, and nobody is missed."""
    find(rows, "decisions", **WINNER).update(member=None)
    assert [] == violations(rows, readable, BUDGET)


def test_a_winner_may_fail_after_it_was_announced(rows):
    """When the sweep was extended."""
    find(rows, "outcomes", member=1, segment=3).update(status="failed", at=9e9)
    find(rows, "checkpoints").update(member=1, segment=2)
    assert [] == violations(rows, readable, BUDGET)


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        ({"tokens": 40 * 512}, "tokens were used, but the budget has 20480"),
        ({"wall_minutes": 2.0}, "3 minutes were used, but the budget has 2"),
        ({"gpu_hours": 0.1}, "0.15 GPU hours were used, but the budget has 0.1"),
        ({"joules": 999.0}, "1000 joules were used, but the budget has 999"),
    ],
)
def test_a_limit_that_was_passed_is_found(rows, limit, says):
    """Over all sessions; the last row of each counts."""
    sizes = {"members": ledgers.MEMBERS, "generations": ledgers.GENERATIONS, "steps": ledgers.STEPS}
    used = [(1, 50.0, 50.0, 5.0), (1, 100.0, 300.0, 400.0), (2, 80.0, 240.0, 600.0)]
    for number, (session, wall_s, device_s, joules) in enumerate(used):
        row = {"session": session, "wall_s": wall_s, "device_s": device_s, "joules": joules, "tokens": 7}
        rows["usage"].append({**row, "at": 8e9 + number})
    assert [] == violations(
        rows, readable, Budget(**sizes, **{name: 10 * value for name, value in limit.items()} | {"tokens": 10**9})
    )
    (found,) = violations(rows, readable, Budget(**sizes, **limit))
    assert found.endswith(says)


@examples(60)
@given(data=st.data())
def test_any_lost_decision_or_outcome_is_found(whole, data):
    """Of those that something was built on: all but evaluations, declined exploits, announcements and last outcomes."""
    rows = copy.deepcopy(whole)
    last = {row["member"]: row["segment"] for row in rows["segments"]}
    needed = [("segments", row) for row in rows["segments"]]
    needed += [("outcomes", row) for row in rows["outcomes"] if row["segment"] < last[row["member"]]]
    needed += [("decisions", row) for row in rows["decisions"] if row["kind"] in ("start", "copy", "set")]
    table, row = data.draw(st.sampled_from(needed))
    rows[table].remove(row)
    assert violations(rows, readable, BUDGET)
