"""Decisions are recorded once: what is on record is recognised, what differs is named, what is new is written."""

import pytest

from pbt.errors import LedgerError
from pbt.runtime.minutes import Minutes


class Page:
    """A ledger of which one sees what is written."""

    def __init__(self):
        self.rows = []

    def append(self, table, **row):
        self.rows.append((table, row))


COPY = {"kind": "copy", "member": 3, "donor": 1, "segment": 4, "reason": "rank 5 of 5", "hparams": None, "cause": "r"}
TRAIN = {"member": 3, "segment": 5, "hparams": '{"lr":0.1}', "until": 60, "start": "copied", "parent_member": 1}


@pytest.fixture
def page():
    return Page()


def test_what_is_new_is_written(page):
    """In the order in which it is decided, all columns."""
    minutes = Minutes(page)
    minutes.write("decisions", **COPY)
    minutes.write("segments", **TRAIN)
    minutes.close()
    assert [("decisions", COPY), ("segments", TRAIN)] == page.rows


def test_what_is_on_record_is_recognised(page):
    """As it is read back: with its time, and without columns that say nothing. Nothing is written twice."""
    there = {name: value for name, value in COPY.items() if value is not None} | {"at": 17.5}
    minutes = Minutes(page, [("decisions", there), ("segments", TRAIN | {"parent_segment": None, "at": 18.0})])
    minutes.write("decisions", **COPY)
    minutes.write("segments", **TRAIN)
    minutes.close()
    assert [] == page.rows


def test_what_goes_beyond_the_record_is_written(page):
    """It was decided before too, and the process died before it was written."""
    minutes = Minutes(page, [("decisions", COPY)])
    minutes.write("decisions", **COPY)
    minutes.write("segments", **TRAIN)
    minutes.close()
    assert [("segments", TRAIN)] == page.rows


@pytest.mark.parametrize("column", ["kind", "member", "donor", "segment", "reason", "cause"])
def test_a_decision_that_differs_is_an_error(page, column):
    """In whatever column; nothing is written."""
    minutes = Minutes(page, [("decisions", COPY)])
    with pytest.raises(LedgerError, match="the sweep cannot go on"):
        minutes.write("decisions", **COPY | {column: "another"})
    assert [] == page.rows


def test_a_column_that_is_missing_differs(page):
    """It says something on one side and nothing on the other."""
    minutes = Minutes(page, [("decisions", COPY)])
    with pytest.raises(LedgerError):
        minutes.write("decisions", **COPY | {"donor": None})
    minutes = Minutes(page, [("decisions", COPY)])
    with pytest.raises(LedgerError):
        minutes.write("decisions", **COPY | {"hparams": "{}"})


def test_a_decision_of_another_kind_differs(page):
    """A segment is no decision, whatever its columns."""
    with pytest.raises(LedgerError):
        Minutes(page, [("segments", TRAIN)]).write("decisions", **TRAIN)


def test_the_message_names_both_sides_and_the_mend(page):
    """Who reads it can see what the record says, what is said now, and where they part."""
    with pytest.raises(LedgerError) as caught:
        Minutes(page, [("segments", TRAIN)]).write("segments", **TRAIN | {"hparams": '{"lr":0.2}'})
    message = str(caught.value)
    assert "the record says train member 3 segment 5" in message
    assert "but now the strategy says train member 3 segment 5" in message
    assert message.index('{"lr":0.1}') < message.index('{"lr":0.2}')
    assert "Resume it with the versions it was begun with (`pbt show`)." in message
    assert "\n" not in message


def test_columns_that_are_not_always_told_are_told_where_they_differ(page):
    """A message whose sides look alike would help nobody."""
    with pytest.raises(LedgerError) as caught:
        Minutes(page, [("segments", TRAIN)]).write("segments", **TRAIN | {"until": 70, "parent_member": 2})
    recorded, now = str(caught.value).split("but now")
    assert ("parent_member 1" in recorded, "until 60" in recorded) == (True, True)
    assert ("parent_member 2" in now, "until 70" in now) == (True, True)


def test_a_record_that_is_left_over_is_an_error(page):
    """The strategy no longer decides all it did."""
    minutes = Minutes(page, [("decisions", COPY), ("segments", TRAIN)])
    minutes.write("decisions", **COPY)
    with pytest.raises(LedgerError) as caught:
        minutes.close()
    assert "the record says train member 3 segment 5" in str(caught.value)
    assert "which the strategy no longer says" in str(caught.value)
