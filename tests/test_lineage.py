"""The lineage: ancestry of weights, schedules and exploits, read from rows."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt.errors import LedgerError, PbtError
from pbt.lineage import Lineage, MemberNotFound, ScheduleStep, Segment, Standing, better, parse, tell, trained
from pbt.member import SegmentKey
from pbt.population import verdicts
from pbt.record.ledger import LedgerReader
from tests import ledgers
from tests.examples import examples

NAN, INF = math.nan, math.inf


def key(text):
    """`2:1` is the second segment of member 2."""
    return SegmentKey(*map(int, text.split(":")))


def segment(name, parent=None, lr=0.1, age=0, status="ended", start=None, score=0.5):
    """A segment of 10 steps."""
    where = key(name)
    start = start or ("fresh" if parent is None else "own" if key(parent).member == where.member else "copied")
    ended = status == "ended"
    return Segment(
        key=where,
        generation=where.index,
        start=start,
        parent=key(parent) if parent else None,
        hparams={"lr": lr},
        hparams_in_effect={"lr": lr} if ended else None,
        seed=0,
        age=(age, age + 10 if ended else None),
        consumed=(10 * where.index, 10 * where.index + 10 if ended else None),
        score=score if ended else None,
        status=status,
    )


#: Member 1 takes over member 0 after the first generation, member 2 begins again after it, member 3 fails in it.
POPULATION = [
    segment("0:0", lr=0.1),
    segment("0:1", "0:0", lr=0.1, age=10),
    segment("0:2", "0:1", lr=0.1, age=20),
    segment("1:0", lr=0.2),
    segment("1:1", "0:0", lr=0.3, age=10),
    segment("1:2", "1:1", lr=0.3, age=20, status="running"),
    segment("2:0", lr=0.4),
    segment("2:1", lr=0.5),
    segment("2:2", "1:1", lr=0.5, age=20),
    segment("3:0", lr=0.6),
    segment("3:1", "3:0", lr=0.6, age=10, status="failed"),
    segment("4:0", lr=0.7, status="running"),
]


@pytest.fixture(params=[False, True], ids=["in order", "reversed"])
def lineage(request):
    return Lineage(reversed(POPULATION) if request.param else POPULATION)


def names(segments):
    return [f"{one.key.member}:{one.key.index}" for one in segments]


def test_members_and_their_segments(lineage):
    """In order of their ids, whatever order the rows were in."""
    assert lineage.members == [0, 1, 2, 3, 4]
    assert names(lineage.of(1)) == ["1:0", "1:1", "1:2"]
    assert lineage.of(9) == []


@pytest.mark.parametrize(("member", "expected"), [(0, "0:2"), (1, "1:1"), (2, "2:2"), (3, "3:0"), (4, "4:0")])
def test_the_last_segment_that_ended(lineage, member, expected):
    """Neither one under way nor a failed one; the first where none has ended."""
    assert names([lineage.last(member)]) == [expected]


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        ("0:0", ["0:0"]),
        ("0:2", ["0:0", "0:1", "0:2"]),
        ("1:2", ["0:0", "1:1", "1:2"]),
        ("2:1", ["2:1"]),
        ("2:2", ["0:0", "1:1", "2:2"]),
    ],
)
def test_the_ancestry_of_weights(lineage, end, expected):
    """Root first; a copy goes on in its donor's past, a fresh start has none."""
    assert names(lineage.path(key(end))) == expected


@pytest.mark.parametrize(
    ("member", "expected"),
    [
        (0, [(0, 30, 0.1, 0)]),
        (1, [(0, 10, 0.1, 0), (10, 20, 0.3, 1)]),
        (2, [(0, 10, 0.1, 0), (10, 20, 0.3, 1), (20, 30, 0.5, 2)]),
        (3, [(0, 10, 0.6, 3)]),
        (4, [(0, 0, 0.7, 4)]),
    ],
)
def test_schedules(lineage, member, expected):
    """What the present weights were trained with, from age 0 on, equal stretches of one member joined."""
    assert lineage.schedule(member) == [ScheduleStep(a, b, {"lr": lr}, who) for a, b, lr, who in expected]


def test_equal_values_of_two_members_are_two_steps():
    """A schedule says who trained, also where nothing else changed."""
    lineage = Lineage([segment("0:0"), segment("1:0"), segment("1:1", "0:0", age=10)])
    assert [step.member for step in lineage.schedule(1)] == [0, 1]


def test_weights_that_come_home_are_three_steps():
    """Who trained last decides whether a step goes on, not who began."""
    lineage = Lineage([segment("0:0"), segment("1:0"), segment("1:1", "0:0", age=10), segment("0:1", "1:1", age=20)])
    assert [step.member for step in lineage.schedule(0)] == [0, 1, 0]


def test_exploits_by_generation_and_member(lineage):
    """Segments that began with a copy, and no others."""
    assert names(lineage.exploits()) == ["1:1", "2:2"]
    crowd = [segment("0:0"), segment("1:1", "0:0"), segment("0:2", "1:1"), segment("2:1", "0:0")]
    assert names(Lineage(crowd).exploits()) == ["1:1", "2:1", "0:2"]


def test_no_segments():
    """An empty ledger has an empty lineage."""
    assert (Lineage([]).members, Lineage([]).exploits()) == ([], [])


@pytest.mark.parametrize(
    ("mode", "score", "other", "expected"),
    [
        ("max", 2.0, 1.0, True),
        ("max", 1.0, 2.0, False),
        ("min", 1.0, 2.0, True),
        ("min", 2.0, 1.0, False),
        ("max", 1.0, 1.0, False),
        ("min", 1.0, 1.0, False),
        ("max", -INF, NAN, True),
        ("min", INF, NAN, True),
        ("max", NAN, -INF, False),
        ("min", NAN, INF, False),
        ("max", NAN, NAN, False),
        ("max", INF, 1.0, True),
        ("min", -INF, 1.0, True),
    ],
)
def test_better(mode, score, other, expected):
    """Strictly, in the mode's direction; NaN beats nothing, and everything else beats NaN."""
    assert better(mode, score, other) is expected


@given(st.sampled_from(["min", "max"]), st.floats(), st.floats())
def test_better_is_an_order(mode, score, other):
    """Never both, and neither only where the two are equal or both NaN."""
    forwards, backwards = better(mode, score, other), better(mode, other, score)
    assert not (forwards and backwards)
    assert (forwards or backwards) is not (score == other or (math.isnan(score) and math.isnan(other)))


# --- naming members and segments


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        (3, (3, None)),
        ("3", (3, None)),
        (" 3 ", (3, None)),
        ("3:5", (3, 5)),
        ("003:05", (3, 5)),
        (SegmentKey(3, 5), (3, 5)),
        (np.int64(3), (3, None)),
    ],
)
def test_members_and_segments_are_named(reference, expected):
    """A number is a member, two are one of its segments."""
    assert expected == parse(reference)


@pytest.mark.parametrize("text", ["", "x", "-1", "3:", ":5", "3:5:1", "3.5", "1e3", "9" * 5000, "٣", None, 2.5])
def test_what_names_no_member_is_refused(text):
    """In one line that says what to write."""
    with pytest.raises(MemberNotFound) as raised:
        parse(text)
    assert str(raised.value).startswith("MEMBER: ")
    assert str(raised.value).endswith("names no member. Write its number (3), or a segment of it (3:5).")
    assert isinstance(raised.value, PbtError)


@pytest.mark.parametrize(
    ("reference", "expected"),
    [(0, "0:2"), (1, "1:2"), (2, "2:2"), (3, "3:0"), (4, "4:0"), ("1", "1:2"), ("1:1", "1:1"), ("3:1", "3:1")],
)
def test_a_member_stands_for_its_present_segment(lineage, reference, expected):
    """Its newest, also one under way; a failed member's is the last that ended."""
    assert expected == tell(lineage.find(reference).key)


def test_a_member_can_stand_for_all_its_segments(lineage):
    """And a segment for itself."""
    assert ["3:0", "3:1"] == names(lineage.meant(3))
    assert ["3:1"] == names(lineage.meant("3:1"))


@pytest.mark.parametrize(
    "ask", ["find", "meant", "ancestors", "descendants", "schedule", "last", "present", "is_living"]
)
def test_an_unknown_member_is_named_with_those_there_are(lineage, ask):
    """One line with the range."""
    with pytest.raises(MemberNotFound) as raised:
        getattr(lineage, ask)(9)
    assert str(raised.value) == "MEMBER: the sweep has no member 9. Its members are 0 to 4."


def test_an_unknown_segment_is_named_with_those_there_are(lineage):
    """One line with the range."""
    with pytest.raises(MemberNotFound) as raised:
        lineage.find("3:2")
    assert str(raised.value) == "MEMBER: member 3 has no segment 2. Its segments are 3:0 to 3:1."


def test_where_there_is_only_one_it_is_named_alone(lineage):
    """No range of one."""
    alone = Lineage([lineage.of(0)[0]])
    with pytest.raises(MemberNotFound, match=r"has no member 9\. Its only member is 0\.$"):
        alone.find(9)
    with pytest.raises(MemberNotFound, match=r"has no segment 7\. Its only segment is 0:0\.$"):
        alone.find("0:7")


def test_in_an_empty_lineage_nobody_is_found():
    """And the error says why."""
    with pytest.raises(MemberNotFound) as raised:
        Lineage([]).find(0)
    assert str(raised.value) == "MEMBER: the sweep has no member 0. Nothing was trained yet."


def test_a_failed_member_is_not_living(lineage):
    """All others are."""
    assert [True, True, True, False, True] == [lineage.is_living(member) for member in lineage.members]


# --- descent


def test_the_schedule_of_a_copy_under_way_is_its_donors():
    """Those are the weights it has; what it had before is gone."""
    lineage = Lineage([segment("0:0"), segment("1:0", lr=0.2), segment("1:1", "0:0", age=10, status="running")])
    assert [ScheduleStep(0, 10, {"lr": 0.1}, 0)] == lineage.schedule(1)
    assert ["0:0", "1:1"] == names(lineage.ancestors(1))


def test_the_schedule_of_a_segment_ends_with_it(lineage):
    """A segment stands for the weights it ended in."""
    assert [ScheduleStep(0, 10, {"lr": 0.1}, 0)] == lineage.schedule("0:0")


@pytest.mark.parametrize(
    ("end", "expected"), [("0:0", ["0:1", "1:1"]), ("0:1", ["0:2"]), ("1:1", ["1:2", "2:2"]), ("2:2", []), ("1:0", [])]
)
def test_the_children_of_a_segment(lineage, end, expected):
    """Those that start from its weights, its own next one first."""
    assert expected == names(lineage.children(key(end)))


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        (0, ["0:0", "0:1", "1:1", "0:2", "1:2", "2:2"]),
        ("0:1", ["0:1", "0:2"]),
        (1, ["1:0", "1:1", "1:2", "2:2"]),
        ("1:0", ["1:0"]),
        (4, ["4:0"]),
    ],
)
def test_descendants_in_order_of_age(lineage, reference, expected):
    """All that has the segment, or any of the member's, in its ancestry; itself included."""
    assert expected == names(lineage.descendants(reference))


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        ("0:2", "held"),
        ("1:2", "held"),
        ("0:0", "trained on"),
        ("1:0", "replaced"),
        ("2:0", "restarted"),
        ("2:1", "replaced"),
        ("3:0", "trained on"),
        ("3:1", "failed"),
    ],
)
def test_the_fate_of_weights(lineage, end, expected):
    """What their own member did next."""
    assert expected == lineage.fate(key(end))


def test_lines_of_one_members_weights(lineage):
    """A line ends where its member goes on from other weights."""
    assert [
        ["0:0", "0:1", "0:2"],
        ["1:0"],
        ["1:1", "1:2"],
        ["2:0"],
        ["2:1"],
        ["2:2"],
        ["3:0", "3:1"],
        ["4:0"],
    ] == [names(line.segments) for line in lineage.lines()]


def test_a_line_has_two_ends(lineage):
    """Its first segment and its last."""
    line = lineage.lines()[0]
    assert (line.first.key, line.last.key) == (key("0:0"), key("0:2"))


def test_lines_of_some_segments(lineage):
    """A gap parts them."""
    chosen = [segment for segment in lineage.segments.values() if segment.key != key("0:1")]
    assert [["0:0"], ["0:2"]] == [names(line.segments) for line in lineage.lines(chosen)][:2]


# --- comparing


@pytest.mark.parametrize(("mode", "ranks"), [("min", [2, 1, 3, 5, 4]), ("max", [3, 4, 1, 5, 2])])
def test_standing_in_a_generation(mode, ranks):
    """Best first, ties in member order, NaN last."""
    scores = [0.5, 0.3, 0.7, NAN, 0.7]
    crowd = Lineage(segment(f"{member}:0", score=score) for member, score in enumerate(scores))
    assert [Standing(rank, 5, 0) for rank in ranks] == [crowd.standing(key(f"{m}:0"), mode) for m in range(5)]


@given(st.lists(st.sampled_from([NAN, -INF, 0.0, 1.0, INF]), min_size=1, max_size=8), st.sampled_from(["min", "max"]))
def test_standing_is_as_strategies_rank(scores, mode):
    """So that the story's ranks are those in the strategy's reasons."""
    crowd = Lineage(segment(f"{member}:0", score=score) for member, score in enumerate(scores))
    order = sorted(range(len(scores)), key=lambda member: crowd.standing(SegmentKey(member, 0), mode).rank)
    standings = [verdicts.Standing(member, score, {}, 10) for member, score in enumerate(scores)]
    assert [standing.member for standing in verdicts.rank(standings, mode)] == order


def test_standing_while_others_train(lineage):
    """They are still to come; who failed is not waited for, and who has no score has no standing."""
    assert lineage.standing(key("0:2"), "min") == Standing(1, 2, 1)
    assert lineage.standing(key("0:1"), "min") == Standing(1, 3, 0)
    assert lineage.standing(key("1:2"), "min") is None
    assert lineage.standing(key("3:1"), "min") is None


@pytest.mark.parametrize(
    ("a", "b", "expected"), [(0, 1, "0:0"), (1, 2, "1:1"), (1, 1, "1:2"), ("0:0", 0, "0:0"), (0, 4, None)]
)
def test_the_last_common_ancestor(lineage, a, b, expected):
    """Up to its end both are one and the same."""
    for pair in ((a, b), (b, a)):
        found = lineage.common(*pair)
        assert expected == (None if found is None else tell(found.key))


def test_ancestries_side_by_side(lineage):
    """By age; shared until they part, and one alone where the other is over."""
    assert [
        (0, 10, "0:0", "0:0", True),
        (10, 20, "0:1", "1:1", False),
        (20, 30, "0:2", None, False),
    ] == [
        (s.age_start, s.age_end, tell(s.a.key), None if s.b is None else tell(s.b.key), s.is_shared)
        for s in lineage.compare(0, 1)
    ]


# --- ledgers that are no lineage


@pytest.mark.parametrize(
    ("segments", "says"),
    [
        ([segment("0:1", "0:0")], "segment 0:1 starts from 0:0, which the ledger does not have."),
        ([segment("0:0"), segment("1:1", "7:3")], "segment 1:1 starts from 7:3, which the ledger does not have."),
        ([segment("0:0", "0:0")], "segment 0:0 descends from itself."),
        (
            [segment("0:0"), segment("1:0", "2:0"), segment("2:0", "1:0"), segment("0:1", "2:0")],
            "segment 2:0 descends from itself.",
        ),
        ([segment("0:0", "1:0", age=10), segment("1:0", "0:0", age=20)], "segment 0:0 descends from itself."),
    ],
)
def test_damage_is_an_error_and_no_endless_loop(segments, says):
    """One line that names the segment, and says what to do."""
    with pytest.raises(LedgerError) as raised:
        Lineage(segments)
    assert says in str(raised.value)
    assert str(raised.value).endswith("from a backup.")


def test_segments_without_steps_are_no_circle():
    """Ages that do not rise are followed to their root."""
    still = [replace(segment("0:0"), age=(0, 0)), segment("0:1", "0:0"), segment("1:0"), segment("1:1", "0:1", age=10)]
    assert ["0:0", "0:1", "1:1"] == names(Lineage(still).ancestors(1))


# --- any history


@st.composite
def histories(draw):
    """Whatever members may do, in any order: train on, copy whoever has ended, begin again, fail, or still be at it."""
    own = {member: [] for member in range(draw(st.integers(1, 5)))}
    moves = st.tuples(
        st.sampled_from(sorted(own)),
        st.sampled_from(["own", "own", "copied", "fresh", "fail"]),
        st.sampled_from(sorted(own)),
        st.integers(1, 3),
        st.sampled_from([0.1, 0.2]),
    )
    for member, how, donor, steps, lr in draw(
        st.lists(moves, min_size=draw(st.sampled_from([0, 10, 20])), max_size=40)
    ):
        before = own[member]
        if before and before[-1].status == "failed":
            continue
        start = "fresh" if not before or how == "fresh" else how if how == "copied" else "own"
        givers = [one for one in own[donor] if one.status == "ended"]
        if start == "copied" and (donor == member or not givers):
            continue
        parent = None if start == "fresh" else givers[-1] if start == "copied" else before[-1]
        age, consumed = (parent.age[1] if parent else 0), (before[-1].consumed[1] if before else 0)
        before.append(
            replace(
                segment(f"{member}:{len(before)}", tell(parent.key) if parent else None, lr=lr, start=start),
                age=(age, age + steps),
                consumed=(consumed, consumed + steps),
                status="failed" if how == "fail" else "ended",
            )
        )
    under_way = [member for member in own if own[member] and draw(st.booleans())]
    for member in under_way:
        last = own[member][-1]
        no_children = all(one.parent != last.key for mine in own.values() for one in mine)
        if last.status == "ended" and no_children:
            own[member][-1] = replace(
                last, status="running", age=(last.age[0], None), consumed=(last.consumed[0], None), score=None
            )
    return draw(st.permutations([one for mine in own.values() for one in mine]))


def naive_path(history, end):
    """Looked up one by one, from the end."""
    found = next(one for one in history if one.key == end)
    return [*naive_path(history, found.parent), found] if found.parent else [found]


def naive_present(history, member):
    """Its newest that has not failed, or its first."""
    own = sorted((one for one in history if one.key.member == member), key=lambda one: one.key)
    if own[-1].status != "failed":
        return own[-1]
    return ([one for one in own if one.status == "ended"] or own[:1])[-1]


def by_step(path):
    """For each step of age the segment that trained it; of a path without a segment under way."""
    return [one for one in path if one.age[1] is not None for _ in range(one.age[1] - one.age[0])]


anything = examples(150)


@anything
@given(histories())
def test_every_history_is_acyclic(history):
    """Every ancestry comes to a fresh start, and passes no segment twice."""
    lineage = Lineage(history)
    roots = lineage.roots()
    for one in history:
        path = lineage.path(one.key)
        assert len(path) == len({ancestor.key for ancestor in path}) <= len(history)
        assert path[0].start == "fresh"
        assert path[0].key == roots[one.key]


@anything
@given(histories())
def test_ancestry_and_descent_are_what_a_slow_look_finds(history):
    """Of every segment and every member."""
    lineage = Lineage(history)
    paths = {one.key: naive_path(history, one.key) for one in history}
    for one in history:
        assert paths[one.key] == lineage.path(one.key) == lineage.ancestors(one.key)
        below = {other.key for other in history if one in paths[other.key]}
        assert below == {other.key for other in lineage.descendants(one.key)}
        assert [other.key for other in lineage.children(one.key)] == sorted(
            (other.key for other in history if other.parent == one.key),
            key=lambda child: (
                child != SegmentKey(one.key.member, one.key.index + 1),
                [o.key for o in history].index(child),
            ),
        )
    for member in lineage.members:
        assert paths[naive_present(history, member).key] == lineage.ancestors(member)
        below = {other.key for other in history if any(one.key.member == member for one in paths[other.key])}
        found = lineage.descendants(member)
        assert below == {other.key for other in found}
        assert [one.age[0] for one in found] == sorted(one.age[0] for one in found)


@anything
@given(histories())
def test_schedules_are_what_a_slow_look_finds(history):
    """Step for step; a new stretch only where something changes."""
    lineage = Lineage(history)
    for member in lineage.members:
        path = naive_path(history, naive_present(history, member).key)
        steps = lineage.schedule(member)
        assert [(one.hparams, one.key.member) for one in by_step(path)] == [
            (step.hparams, step.member) for step in steps for _ in range(step.age_end - step.age_start)
        ]
        for before, after in itertools.pairwise(steps):
            assert before.age_end == after.age_start
            assert (before.hparams, before.member) != (after.hparams, after.member)
        assert steps[-1].age_end == (trained(path)[-1].age[1] or 0)


@anything
@given(histories())
def test_comparisons_are_what_a_slow_look_finds(history):
    """Step for step, for every two members, up to the end of the longer."""
    lineage = Lineage(history)
    for a, b in itertools.product(lineage.members, repeat=2):
        paths = [naive_path(history, naive_present(history, member).key) for member in (a, b)]
        shared = [one for one in paths[0] if one in paths[1]]
        assert (shared[-1] if shared else None) == lineage.common(a, b)
        stretches = lineage.compare(a, b)
        assert [(one.age_start, one.age_end) for one in stretches] == list(
            itertools.pairwise(
                sorted({age for path in paths for one in path if one.age[1] is not None for age in one.age})
            )
        )
        assert list(itertools.zip_longest(*map(by_step, paths))) == [
            (one.a, one.b) for one in stretches for _ in range(one.age_end - one.age_start)
        ]
        assert sum(one.age_end - one.age_start for one in stretches if one.is_shared) == len(by_step(shared))


@anything
@given(histories())
def test_lines_hold_every_segment_once(history):
    """Each goes on from its own weights, and begins where that cannot be said."""
    lines = Lineage(history).lines()
    assert sorted(one.key for one in history) == [one.key for line in lines for one in line.segments]
    for line in lines:
        assert line.first.start != "own"
        for before, after in itertools.pairwise(line.segments):
            assert (after.start, after.parent) == ("own", before.key)


@anything
@given(histories())
def test_members_are_what_a_slow_look_finds(history):
    """Their segments, the last that ended, and whether they live."""
    lineage = Lineage(history)
    for member in lineage.members:
        own = sorted((one for one in history if one.key.member == member), key=lambda one: one.key)
        assert own == lineage.of(member)
        assert ([one for one in own if one.status == "ended"] or own[:1])[-1] == lineage.last(member)
        assert naive_present(history, member) == lineage.present(member)
        assert all(one.status != "failed" for one in own) == lineage.is_living(member)
    held = [one for one in history if lineage.fate(one.key) == "held"]
    assert sorted(one.key.member for one in held) == [m for m in lineage.members if lineage.is_living(m)]


# --- from a ledger


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The lineage of the scripted sweep."""
    return Lineage.from_rows(LedgerReader(ledgers.tell(tmp_path_factory.mktemp("story"))).rows())


def test_the_scripted_sweep(told):
    """All that the rows say of a copied segment."""
    copied = told.segments[key("1:3")]
    assert copied == Segment(
        key=key("1:3"),
        generation=3,
        start="copied",
        parent=key("5:2"),
        hparams=ledgers.hparams(5, 1),
        hparams_in_effect=ledgers.hparams(5, 1),
        seed=1001,
        age=(300, 400),
        consumed=(300, 400),
        score=1.3,
        status="ended",
        reason="",
    )
    assert names(told.path(copied.key)) == ["0:0", "5:1", "5:2", "1:3"]


def test_the_scripted_failure(told):
    """A failed segment says why, and is not the member's last."""
    failed = told.segments[key("3:1")]
    assert (failed.status, failed.reason, failed.age) == ("failed", ledgers.FAILURE, (100, 140))
    assert told.last(3).key == key("3:0")


def test_a_sweep_under_way_has_running_segments(tmp_path):
    """Without outcomes there is no end, no score and nothing in effect."""
    lineage = Lineage.from_rows(LedgerReader(ledgers.tell(tmp_path, commits=1)).rows())
    assert len(lineage.segments) == ledgers.MEMBERS
    for one in lineage.segments.values():
        assert (one.status, one.score, one.hparams_in_effect) == ("running", None, None)
        assert (one.age, one.consumed) == ((0, None), (0, None))


@pytest.mark.parametrize("commits", range(1, 10))
def test_the_lineage_is_whole_at_any_time(tmp_path, commits):
    """Every parent exists and ended, no ancestry has a circle, and ages go on where the parent's stopped."""
    lineage = Lineage.from_rows(LedgerReader(ledgers.tell(tmp_path, commits)).rows())
    for one in lineage.segments.values():
        path = lineage.path(one.key)
        assert path[0].parent is None
        assert len({ancestor.key for ancestor in path}) == len(path)
        assert [ancestor.age[1] for ancestor in path[:-1]] == [ancestor.age[0] for ancestor in path[1:]]
        assert {ancestor.status for ancestor in path[:-1]} <= {"ended"}
