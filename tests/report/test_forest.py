"""Lines of descent as a forest in text."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt.lineage import Line, Segment
from pbt.member import SegmentKey
from pbt.report.forest import ASCII, UNICODE, Branch, forest
from tests.examples import examples


def _line(member: int, parent: int | None, age: int) -> Line:
    """A line of one segment, begun at that age on the weights of another member's only segment."""
    segment = Segment(
        key=SegmentKey(member, 0),
        generation=0,
        start="fresh" if parent is None else "copied",
        parent=None if parent is None else SegmentKey(parent, 0),
        hparams={},
        hparams_in_effect=None,
        seed=0,
        age=(age, age + 1),
        consumed=(0, 1),
        score=None,
        status="ended",
    )
    return Line((segment,))


#: 0 handed on to 1 and 3, 1 to 2; 4 and 5 stand apart, 5 handed on to 6.
LINES = [_line(0, None, 0), _line(1, 0, 1), _line(2, 1, 2), _line(3, 0, 2), _line(4, None, 0), _line(5, None, 0)]
LINES.append(_line(6, 5, 1))


def _drawn(branches: list[Branch]) -> list[str]:
    return [f"{branch.guides}{branch.line.first.key.member}" for branch in branches]


def test_each_line_stands_below_the_one_its_weights_came_from() -> None:
    assert _drawn(forest(LINES, None, 20)) == ["0", "├╴1", "│ └╴2", "└╴3", "4", "5", "└╴6"]


def test_in_ascii() -> None:
    assert _drawn(forest(LINES, None, 20, ASCII)) == ["0", "|-1", "| `-2", "`-3", "4", "5", "`-6"]


def test_the_tree_of_the_most_interesting_line_is_first_and_children_are_in_order_of_age() -> None:
    order = [LINES[6], LINES[2], LINES[3], *LINES[:2], *LINES[4:6]]
    assert _drawn(forest(order, None, 20)) == ["5", "└╴6", "0", "├╴1", "│ └╴2", "└╴3", "4"]


@pytest.mark.parametrize(
    ("limit", "drawn", "hidden"),
    [
        (7, ["0", "├╴1", "│ └╴2", "└╴3", "5", "└╴6", "4"], [0] * 7),
        (5, ["0", "└╴1", "  └╴2", "5", "└╴6"], [1, 0, 0, 0, 0]),
        (4, ["0", "└╴1", "  └╴2", "4"], [1, 0, 0, 0]),
        (3, ["0", "└╴1", "  └╴2"], [1, 0, 0]),
        (1, ["0", "└╴1", "  └╴2"], [1, 0, 0]),
    ],
)
def test_where_there_is_no_room_the_most_interesting_are_shown_with_their_ancestors(
    limit: int, drawn: list[str], hidden: list[int]
) -> None:
    """And each says how many of its own are not."""
    branches = forest([LINES[2], LINES[6], LINES[4], *LINES[:2], LINES[3], LINES[5]], limit, 20)
    assert _drawn(branches) == drawn
    assert [branch.hidden for branch in branches] == hidden


def test_guides_that_are_too_wide_lose_their_left() -> None:
    deep = [_line(member, member - 1 if member else None, member) for member in range(6)]
    assert _drawn(forest(deep, None, 6)) == ["0", "└╴1", "  └╴2", "    └╴3", "…   └╴4", "…   └╴5"]
    assert {len(branch.guides) for branch in forest(deep, None, 6)} == {0, 2, 4, 6}


def test_thousands_of_lines_below_each_other_are_no_recursion() -> None:
    deep = [_line(member, member - 1 if member else None, member) for member in range(5000)]
    assert len(forest(deep[::-1], None, 12)) == 5000
    assert forest(deep, 3, 12)[-1].hidden == 4997


def test_a_line_whose_parent_is_not_among_them_is_a_root() -> None:
    assert _drawn(forest(LINES[1:3], None, 20)) == ["1", "└╴2"]


def test_no_lines() -> None:
    assert forest([], None, 20) == forest([], 5, 20) == []


@examples(100)
@given(
    st.lists(st.one_of(st.none(), st.integers(0, 30)), max_size=30),
    st.randoms(),
    st.one_of(st.none(), st.integers(1, 30)),
)
def test_any_forest(parents: list[int | None], order: random.Random, limit: int | None) -> None:
    """All lines are shown or counted, ancestors are shown with their lines, and guides tell the depth."""
    known = [parent if parent is None or parent < child else None for child, parent in enumerate(parents)]
    depth: list[int] = []
    for parent in known:
        depth.append(0 if parent is None else depth[parent] + 1)
    lines = [_line(child, parent, depth[child]) for child, parent in enumerate(known)]
    order.shuffle(lines)
    branches = forest(lines, limit, 1000)
    shown = [branch.line.first.key.member for branch in branches]
    first = depth[lines[0].first.key.member] + 1 if lines else 0
    assert len(set(shown)) == len(shown) <= (len(lines) if limit is None else max(limit, first))
    assert {line.first.key.member for line in lines[:1]} <= set(shown)
    assert all(parent is None or parent in shown for child, parent in enumerate(known) if child in shown)
    assert [len(branch.guides) for branch in branches] == [2 * depth[member] for member in shown]
    for before, branch in itertools.pairwise(branches):
        parent = known[branch.line.first.key.member]
        assert (len(branch.guides) <= len(before.guides)) or parent == before.line.first.key.member
    roots_left_out = [
        child for child in range(len(known)) if child not in shown and not _shown_above(child, known, shown)
    ]
    assert sum(branch.hidden for branch in branches) + len(shown) + len(roots_left_out) == len(lines)
    if limit is None:
        assert len(shown) == len(lines)


def _shown_above(child: int, known: list[int | None], shown: list[int]) -> bool:
    above = known[child]
    return above is not None and (above in shown or _shown_above(above, known, shown))


def test_both_styles_are_equally_wide() -> None:
    """So that tables are."""
    assert [len(part) for part in (UNICODE.fork, UNICODE.last, UNICODE.beside, UNICODE.beyond, UNICODE.cut)] == [
        len(part) for part in (ASCII.fork, ASCII.last, ASCII.beside, ASCII.beyond, ASCII.cut)
    ]
