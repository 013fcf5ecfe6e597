"""Which checkpoints may go: never one that a living member might go on from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt.lineage import Lineage
from pbt.runtime.retention import removable
from tests.examples import examples
from tests.runtime.test_recovery import HISTORY, digest, ended, keys, lineages, segment


def names(found):
    return " ".join(f"{key.member}:{key.index}" for key in found)


def chosen(frontier, saved, keep=1, pinned="", lineage=HISTORY):
    checkpoints = {one: digest(one) for one in keys(saved)}
    return names(removable(lineage, keys(frontier), checkpoints, keep, set(keys(pinned))))


EVERY = "0:0 0:1 0:2 1:0 1:1 1:2 2:0 2:1 2:2 3:0"


@pytest.mark.parametrize(
    ("frontier", "saved", "keep", "expected"),
    [
        ("0:2 1:2 2:2", EVERY, 1, "0:0 0:1 1:0 1:1 2:0 2:1 3:0"),
        ("0:2 1:2 2:2", EVERY, 2, "0:0 1:0 2:0 2:1 3:0"),
        ("0:2 1:2 2:2", EVERY, 3, "1:0 2:0 2:1 3:0"),
        ("0:2 1:2 2:2", "0:0 1:0 2:1", 1, "1:0 2:1"),
        ("0:3 1:2 2:2", "0:0 0:1 1:1", 1, "0:0"),
        ("0:3 1:2 2:2", "0:0 0:1 1:1", 2, ""),
        ("0:2", "1:1", 1, "1:1"),
        ("", "0:0 1:1", 5, "0:0 1:1"),
        ("0:2", "", 1, ""),
    ],
)
def test_the_newest_in_every_ancestry_stay(frontier, saved, keep, expected):
    """Through donors; segments that are not saved do not count; other members' and older ones go."""
    assert expected == chosen(frontier, saved, keep)


def test_a_donor_is_kept_for_its_receivers():
    """Also after it has gone on, failed or begun again itself: `0:0` is all that is saved of 1's and 2's ancestry."""
    assert chosen("1:2 2:2", "0:0 0:1 0:2") == "0:1 0:2"


def test_pinned_checkpoints_stay():
    """The winner's, though nothing goes on from it; pinning what is not saved changes nothing."""
    assert chosen("0:2", "0:1 0:2 1:1 2:2", pinned="1:1 3:0") == "0:1 2:2"


def test_two_segments_with_one_checkpoint():
    """It stays for both, whichever of them is needed, and goes when neither is."""
    lineage = Lineage([segment("0:0"), segment("0:1", "0:0", 10), segment("1:0"), segment("2:0")])
    shared = dict.fromkeys(keys("0:1 1:0"), "one digest")
    checkpoints = {**shared, keys("0:0")[0]: "older", keys("2:0")[0]: "other"}
    assert "0:0 2:0" == names(removable(lineage, keys("1:0"), checkpoints, 1))
    assert "0:0 2:0" == names(removable(lineage, keys("0:1"), checkpoints, 1))
    assert "0:0 0:1 1:0" == names(removable(lineage, keys("2:0"), checkpoints, 1))


def met(lineage, start, checkpoints):
    """The checkpoints in an ancestry, newest first."""
    return [one.key for one in reversed(lineage.path(start)) if one.key in checkpoints]


@st.composite
def stores(draw):
    """A lineage, what of it is saved (sometimes two segments share a checkpoint), and where its members stand."""
    lineage = draw(lineages())
    known = ended(lineage)
    checkpoints = {one: draw(st.sampled_from([digest(one), "shared"])) for one in known if draw(st.booleans())}
    frontier = draw(st.lists(st.sampled_from(sorted(lineage.segments)), max_size=6))
    pinned = draw(st.sets(st.sampled_from(known), max_size=2)) if known else set()
    return lineage, frontier, checkpoints, draw(st.integers(1, 4)), pinned


@examples(300)
@given(stores())
def test_every_member_can_still_go_on_from_its_newest_checkpoints(told):
    """From the same ones as before, up to `keep`, in their order."""
    lineage, frontier, checkpoints, keep, pinned = told
    gone = removable(*told)
    left = checkpoints.keys() - set(gone)
    for start in frontier:
        assert met(lineage, start, checkpoints)[:keep] == met(lineage, start, left)[:keep]
    assert pinned & checkpoints.keys() <= left


@examples(300)
@given(stores())
def test_nothing_else_is_kept(told):
    """What stays is pinned, or among some member's newest, or is one of those under another name."""
    lineage, frontier, checkpoints, keep, pinned = told
    gone = removable(*told)
    assert sorted(set(gone)) == gone
    needed = {
        one for start in frontier for one in met(lineage, start, checkpoints)[:keep]
    } | pinned & checkpoints.keys()
    digests = {checkpoints[one] for one in needed}
    assert {one for one, found in checkpoints.items() if found in digests} == checkpoints.keys() - set(gone)


@examples(100)
@given(stores())
def test_removing_twice_is_removing_once(told):
    """What is left after a removal is what the next one keeps."""
    lineage, frontier, checkpoints, keep, pinned = told
    gone = removable(*told)
    left = {one: found for one, found in checkpoints.items() if one not in gone}
    assert [] == removable(lineage, frontier, left, keep, pinned)


def test_ancestries_that_have_joined_are_walked_once():
    """A thousand members that descend from one long chain cost no more than the chain: each segment is read once."""

    class Counted(dict):
        reads = 0

        def __getitem__(self, key):
            self.reads += 1
            return super().__getitem__(key)

    chain = [segment("0:0"), *(segment(f"0:{i}", f"0:{i - 1}") for i in range(1, 500))]
    lineage = Lineage([*chain, *(segment(f"{member}:0", "0:499") for member in range(1, 1001))])
    lineage.segments = Counted(lineage.segments)
    saved = keys("0:0")[0]
    assert [] == removable(lineage, keys(" ".join(f"{m}:0" for m in range(1, 1001))), {saved: "a"}, keep=2)
    assert lineage.segments.reads == 500 + 1000
