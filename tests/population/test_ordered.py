"""Many things in order, that come and go."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt.population import ordered
from pbt.population.ordered import Ordered
from tests.examples import examples

EXAMPLES = examples(200)


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch):
    """Blocks of four: they are cut, and fall empty, all the time."""
    monkeypatch.setattr(ordered, "_BLOCK", 4)


def agree(expected, found):
    """It answers every question as a sorted list does."""
    assert expected == list(found)
    assert len(expected) == len(found)
    assert expected == [found[index] for index in range(len(expected))]
    for item in {*expected, -1, 5, 99}:
        assert sum(other < item for other in expected) == found.count_below(item)
        assert (item in expected) == (item in found)


@EXAMPLES
@given(begin=st.lists(st.integers(0, 9)), moves=st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=40))
def test_it_is_a_sorted_list(begin, moves):
    """Whatever is put in and taken out, many of the same too, it holds what a sorted list would."""
    items = sorted(begin)
    found = Ordered(begin)
    agree(items, found)
    for is_added, item in moves:
        if is_added:
            found.add(item)
            items = sorted([*items, item])
        elif item in items:
            found.remove(item)
            items.remove(item)
        agree(items, found)


def test_a_thousand_at_random():
    """Blocks of all lengths, come about in any order."""
    rng = random.Random(0)
    items = [(rng.random(), number) for number in range(1000)]
    found = Ordered()
    for item in items:
        found.add(item)
    rng.shuffle(items)
    for item in items[:700]:
        found.remove(item)
    agree_on = sorted(items[700:])
    assert agree_on == list(found)
    assert agree_on == [found[index] for index in range(300)]
    assert list(range(300)) == [found.count_below(item) for item in agree_on]


@pytest.mark.parametrize("item", [-1, 2, 99])
def test_what_is_not_there_cannot_be_removed(item):
    """It is refused, below, between and above the rest, and nothing else goes."""
    found = Ordered([1, 3, 5, 7, 9, 11])
    with pytest.raises(ValueError, match=f"{item} is not there"):
        found.remove(item)
    assert [1, 3, 5, 7, 9, 11] == list(found)


@pytest.mark.parametrize("index", [-1, 2, 99])
def test_there_are_not_so_many(index):
    """Counting begins at 0 and ends with the greatest."""
    with pytest.raises(IndexError):
        Ordered([1, 3])[index]
