"""Plans: measured once, recorded before they are used, kept to ever after."""

import json

import pytest

from pbt.record.ledger import LedgerReader
from pbt.runtime import planning
from pbt.runtime.planning import ToBuild, in_words, settled
from tests.runtime.test_brain import make_brain as make_brain  # the fixture
from trainables import Place, Plan, TrainableError
from trainables.core.plan import Ahead

PLACE = Place(compile="never")
AHEAD = Ahead(steps=900)
MEASURED = Plan(chunk=2, compiled=False, rates={"2 eager": 30.0, "1 eager": 20.0})
TEXT = '{"accumulate":1,"chunk":2,"compiled":false,"rates":{"1 eager":20.0,"2 eager":30.0}}'


@pytest.fixture
def asked(monkeypatch):
    """What the planner is asked; its answer is always the same."""
    questions = []

    def measured(*question):
        questions.append(question)
        return MEASURED

    monkeypatch.setattr(planning, "measured", measured)
    return questions


def test_a_stack_without_a_plan_is_measured(asked):
    """And the plan comes back as text, to be recorded."""
    place, new = settled(ToBuild(0, 4, None, True), "trainable", "bucket", PLACE, AHEAD)
    assert [("trainable", "bucket", 4, PLACE, AHEAD)] == asked
    assert place == Place(compile="never", plan=MEASURED)
    assert new == TEXT


def test_a_plan_on_record_is_kept_to(asked):
    """Nothing is measured, nothing recorded again."""
    place, new = settled(ToBuild(0, 4, TEXT), "trainable", "bucket", PLACE, AHEAD)
    assert (place.plan, place.plan.rates, new, asked) == (MEASURED, MEASURED.rates, None, [])


@pytest.mark.parametrize(("item", "ahead"), [(ToBuild(0, 4, None, False), AHEAD), (ToBuild(0, 4, None, True), None)])
def test_nothing_is_measured_where_it_must_not_be(asked, item, ahead):
    """A stack that has trained without a plan stays as it was, and planning can be switched off."""
    assert settled(item, "trainable", "bucket", PLACE, ahead) == (PLACE, None)
    assert [] == asked


def test_a_plan_is_told_in_words():
    """The fastest first."""
    assert in_words(TEXT) == "2 members train together, eagerly (member-steps per second: 2 eager 30, 1 eager 20)"
    split = json.dumps({"chunk": 1, "compiled": True, "accumulate": 4})
    assert in_words(split) == (
        "one member trains at a time, compiled; each batch in 4 parts, to fit the memory "
        "(member-steps per second: not measured)"
    )


def test_impossible_plans_are_refused():
    """By name."""
    with pytest.raises(TrainableError, match="plan chunk is 0"):
        Plan(chunk=0, compiled=False)


def test_the_brain_records_a_plan_and_gives_it_to_stacks_alike(make_brain, tmp_path):
    """Before anything trains; another session finds it, and measures nothing again."""
    brain = make_brain()
    brain.start()
    assert brain.to_build(0) == ToBuild(0, 2, None, True)
    brain.planned(0, TEXT)
    assert [brain.to_build(stack) for stack in (0, 1)] == [ToBuild(stack, 2, TEXT) for stack in (0, 1)]
    found = [row for row in LedgerReader(tmp_path).rows()["decisions"] if row["kind"] == "plan"]
    assert [(json.loads(row["data"])["stack"], row.get("member")) for row in found] == [(0, None), (1, None)]
    assert found[0]["reason"] == f"stack 0: {in_words(TEXT)}"
    brain.close()
    again = make_brain(again=True)
    again.start()
    assert again.to_build(1) == ToBuild(1, 2, TEXT)
