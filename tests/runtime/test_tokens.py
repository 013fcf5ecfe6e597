"""A published state is dropped once its last reader is through: not before, and not later."""

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt.runtime.tokens import Tokens
from tests.examples import examples


@pytest.fixture
def dropped():
    return []


@pytest.fixture
def tokens(dropped):
    return Tokens(dropped.append)


@pytest.mark.parametrize("readers", [1, 2, 5])
def test_a_state_is_dropped_after_its_last_reader(tokens, dropped, readers):
    """However many there are."""
    for reader in range(readers):
        tokens.reads("a", str(reader))
    tokens.published_all(["a"])
    for reader in range(readers):
        assert [] == dropped
        assert tokens.is_published("a")
        tokens.read("a", str(reader))
    assert ["a"] == dropped
    assert not tokens.is_published("a")


def test_a_state_may_be_read_before_it_is_known_to_be_published(tokens, dropped):
    """The reader's report may overtake the publisher's: the state is dropped once both have come."""
    tokens.reads("a", "stack")
    tokens.read("a", "stack")
    assert [] == dropped
    tokens.published_all(["a"])
    assert ["a"] == dropped


def test_what_nobody_reads_is_dropped_at_once(tokens, dropped):
    """As when a stack that was thought lost publishes what has been given up."""
    tokens.published_all(["a", "b"])
    assert ["a", "b"] == dropped


def test_a_reader_counts_once(tokens, dropped):
    """Whoever says twice that it will read, reads once."""
    tokens.reads("a", "stack")
    tokens.reads("a", "stack")
    tokens.published_all(["a"])
    tokens.read("a", "stack")
    assert ["a"] == dropped


def test_reading_what_was_not_asked_for_changes_nothing(tokens, dropped):
    """Others still wait for it, or it was never published."""
    tokens.reads("a", "stack")
    tokens.published_all(["a"])
    tokens.read("a", "stranger")
    tokens.read("b", "stranger")
    assert [] == dropped
    assert tokens.is_read_by("a", "stack")
    assert not tokens.is_read_by("a", "stranger")


def test_a_state_may_be_published_again(tokens, dropped):
    """After a recovery; who reads it then reads it then."""
    tokens.reads("a", "one")
    tokens.published_all(["a"])
    tokens.read("a", "one")
    tokens.reads("a", "other")
    assert not tokens.is_published("a")
    tokens.published_all(["a"])
    assert tokens.is_published("a")
    tokens.read_all(["a"], "other")
    assert ["a", "a"] == dropped


class Naive:
    """What there is, and who reads it, written down in full."""

    def __init__(self):
        self.readers = defaultdict(set)
        self.there = set()
        self.dropped = []

    def reads(self, token, reader):
        self.readers[token].add(reader)

    def read(self, token, reader):
        self.readers[token].discard(reader)
        self._look()

    def publish(self, token):
        self.there.add(token)
        self._look()

    def _look(self):
        for token in sorted(token for token in self.there if not self.readers[token]):
            self.there.discard(token)
            self.dropped.append(token)


TOKEN, READER = st.sampled_from("abc"), st.sampled_from("xyz")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("reads"), TOKEN, READER),
        st.tuples(st.just("read"), TOKEN, READER),
        st.tuples(st.just("publish"), TOKEN, st.none()),
    ),
    max_size=40,
)


@examples(300)
@given(STEPS)
def test_in_whatever_order(steps):
    """Tokens keep what a naive list of readers says is to be kept, and drop the rest at the same moments."""
    naive, dropped = Naive(), []
    tokens = Tokens(dropped.append)
    for what, token, reader in steps:
        if what == "publish":
            naive.publish(token)
            tokens.published_all([token])
        else:
            getattr(naive, what)(token, reader)
            getattr(tokens, what)(token, reader)
        assert naive.dropped == dropped
        assert {it for it in "abc" if it in naive.there} == {it for it in "abc" if tokens.is_published(it)}
        for it in "abc":
            assert {one for one in "xyz" if tokens.is_read_by(it, one)} == naive.readers[it]


@examples(200)
@given(st.permutations(["reads x", "reads y", "publish"]), st.permutations(["read x", "read y", "again"]))
def test_everything_is_dropped_in_the_end(first, then):
    """Once everybody who reads has read and whoever publishes has published, nothing is kept."""
    dropped = []
    tokens = Tokens(dropped.append)
    for step in [*first, *then]:
        match step.split():
            case ["reads", reader]:
                tokens.reads("a", reader)
            case ["read", reader]:
                tokens.read("a", reader)
            case _:
                tokens.published_all(["a"])
    assert dropped
    assert not tokens.is_published("a")
