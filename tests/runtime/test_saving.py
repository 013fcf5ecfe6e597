"""When members are saved, and which files may go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt.member import SegmentKey
from pbt.runtime.saving import Saving, key_of, token_of
from pbt.spec import Checkpoints
from tests.examples import examples
from tests.runtime.stage import Clock


class Hands:
    """Takes orders to save and to remove."""

    def __init__(self):
        self.saving, self.removed = [], []

    def save(self, token, about):
        self.saving.append((token, dict(about)))

    def remove(self, digest):
        self.removed.append(digest)


@pytest.fixture
def hands():
    return Hands()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make(hands, clock):
    def make(saved=None, **options):
        return Saving(Checkpoints(**{"every_minutes": None} | options), hands, clock, saved or {})

    return make


def key(index, member=0):
    return SegmentKey(member, index)


@pytest.mark.parametrize("one", [SegmentKey(0, 0), SegmentKey(7, 123), SegmentKey(99999, 1)])
def test_a_token_names_a_segment(one):
    """And back."""
    assert one == key_of(token_of(one))
    assert "7:123" == token_of(SegmentKey(7, 123))


# --- when


def test_by_steps(make):
    """Once so many have been trained since the member was saved last, or began."""
    saving = make(every_steps=25)
    assert [False, False, True, True] == [
        saving.is_due(key(index), consumed) for index, consumed in enumerate((10, 24, 25, 40))
    ]
    saving.begin(key(3), 40, {})
    assert [False, False, True] == [
        saving.is_due(key(index), consumed) for index, consumed in ((4, 50), (5, 64), (6, 65))
    ]


def test_by_minutes(make, clock):
    """Once so many have gone by since the member was saved last, or the session began."""
    saving = make(every_minutes=2.0)
    clock.now += 119.0
    assert not saving.is_due(key(0), 10)
    clock.now += 1.0
    assert saving.is_due(key(0), 10)
    saving.begin(key(0), 10, {})
    clock.now += 119.9
    assert not saving.is_due(key(1), 20)
    clock.now += 0.1
    assert saving.is_due(key(1), 20)


def test_by_whichever_comes_first(make, clock):
    """Steps and minutes each have their say."""
    saving = make(every_steps=100, every_minutes=1.0)
    assert saving.is_due(key(0), 100)
    assert not saving.is_due(key(0), 99)
    clock.now += 60.0
    assert saving.is_due(key(0), 1)


def test_never(make, clock):
    """Where neither is counted, members are saved at the end only."""
    saving = make()
    clock.now += 1e9
    assert not saving.is_due(key(0), 10**9)


def test_members_are_counted_each_for_itself(make, clock):
    """That one was saved says nothing of another."""
    saving = make(every_steps=10, every_minutes=1.0)
    clock.now += 60.0
    saving.begin(key(0, member=1), 10, {})
    assert not saving.is_due(key(1, member=1), 15)
    assert saving.is_due(key(0, member=2), 10)


def test_what_is_saved_or_being_saved_is_not_saved_again(make, clock):
    """However long it takes."""
    far = 10**9
    saving = make({key(0): "ab"}, every_steps=1, every_minutes=1.0)
    saving.begin(key(1), 1, {})
    clock.now += far
    assert (True, True, False) == tuple(saving.is_safe(key(index)) for index in range(3))
    assert (False, False, True) == tuple(saving.is_due(key(index), far) for index in range(3))
    saving.end(key(1), "cd")
    assert not saving.is_due(key(1), far)
    assert {key(0): "ab", key(1): "cd"} == saving.saved


def test_what_could_not_be_saved_is_not_safe(make, clock):
    """It is tried again when the member is due next, not at once: the disk is likely full still."""
    saving = make(every_steps=10)
    saving.begin(key(0), 10, {})
    saving.end(key(0), None)
    assert not saving.is_safe(key(0))
    assert ({}, set()) == (saving.saved, saving.pending)
    assert [False, True] == [saving.is_due(key(1), consumed) for consumed in (19, 20)]


def test_what_is_to_be_remembered_is_handed_on(make, hands):
    """Under the state's token."""
    make().begin(key(3, member=5), 10, {"member": 5})
    assert [("5:3", {"member": 5})] == hands.saving


# --- removing


def test_files_go_with_the_last_segment_that_shares_them(make, hands):
    """Two segments that ended in the same state have one file."""
    saving = make({key(0): "ab", key(1): "ab", key(2): "cd"})
    saving.remove([key(0)])
    assert [] == hands.removed
    saving.remove([key(1)])
    assert ["ab"] == hands.removed
    assert {key(2): "cd"} == saving.saved


def test_files_that_go_together_go_once(make, hands):
    """However many segments shared one."""
    saving = make({key(0): "ab", key(1): "ab"})
    saving.remove([key(0), key(1)])
    assert ["ab"] == hands.removed


@examples(100)
@given(st.lists(st.sampled_from("abc"), max_size=6), st.data())
def test_whoever_is_left_has_a_file(digests, data):
    """Whatever is removed, in whatever portions."""
    hands, saved = Hands(), {key(index): digest for index, digest in enumerate(digests)}
    saving = Saving(Checkpoints(), hands, Clock(), saved)
    while saving.saved and data.draw(st.booleans()):
        gone = data.draw(st.sets(st.sampled_from(sorted(saving.saved)), min_size=1))
        saving.remove(sorted(gone))
        assert set(digests) - set(saving.saved.values()) == set(hands.removed)
        assert len(hands.removed) == len(set(hands.removed))
