"""Ranking, and what synchronous generations do beyond the contract of every strategy."""

import math

import pytest

from pbt.population import Fixed
from pbt.population.roster import Roster
from pbt.population.verdicts import Standing, rank
from pbt.strategy import Evaluate, EvaluationEnded, Finish, MemberFailed, SegmentReported
from tests.contracts.strategy_contract import Case, make_task, of_kind, play

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("mode", "scores", "expected"),
    [
        ("max", {0: 1.0, 1: 3.0, 2: 2.0}, [1, 2, 0]),
        ("min", {0: 1.0, 1: 3.0, 2: 2.0}, [0, 2, 1]),
        ("max", {2: 1.0, 0: 1.0, 1: 1.0}, [0, 1, 2]),
        ("min", {2: 1.0, 0: 1.0, 1: 1.0}, [0, 1, 2]),
        ("max", {0: NAN, 1: -5.0, 2: 4.0}, [2, 1, 0]),
        ("min", {0: NAN, 1: -5.0, 2: 4.0}, [1, 2, 0]),
        ("max", {0: NAN, 1: -INF, 2: INF}, [2, 1, 0]),
        ("min", {0: NAN, 1: -INF, 2: INF}, [1, 2, 0]),
        ("max", {1: NAN, 0: NAN}, [0, 1]),
        ("max", {0: 0.0, 1: -0.0}, [0, 1]),
        ("min", {7: 1.0}, [7]),
        ("min", {}, []),
    ],
)
def test_rank(mode, scores, expected):
    """Best first in either mode, ties in member order, NaN behind even infinity."""
    standings = [Standing(member, score, {}, age=10) for member, score in scores.items()]
    assert expected == [standing.member for standing in rank(standings, mode)]


def test_a_winner_that_fails_while_evaluated_makes_way_for_the_next():
    """The second best is evaluated in its place, and wins."""
    case = Case(task=make_task(members=3, generations=1), scores=[[0.1], [0.9], [0.5]], late=frozenset({1}))
    actions = play(Fixed(), case).actions[-3:]
    cause = "evaluation:2:0:test"
    assert [
        Evaluate(cause="report:1:0", member=1, split="test"),
        Evaluate(cause="report:2:0", member=2, split="test"),
        Finish(cause=cause, best=2, reason="best score at the end of the last generation"),
    ] == actions


def test_nobody_wins_where_everybody_diverged():
    """With NaN everywhere at the end there is nothing to evaluate."""
    case = Case(task=make_task(members=2, generations=1), scores=[[NAN], [NAN]])
    assert Finish(cause="report:0:0", best=None, reason="every member diverged") == play(Fixed(), case).actions[-1]


@pytest.mark.parametrize(
    "event",
    [
        SegmentReported(id="r", member=0, segment=1, age=20, consumed=20, metrics={"Q": 1.0}, wall_s=0.0),
        SegmentReported(id="r", member=9, segment=0, age=10, consumed=10, metrics={"Q": 1.0}, wall_s=0.0),
        MemberFailed(id="f", member=9, reason="made up"),
        EvaluationEnded(id="e", member=0, split="test", metrics={"Q": 1.0}),
    ],
)
def test_what_was_not_asked_for_is_ignored(event):
    """Reports of other segments, strangers and evaluations nobody asked for change nothing."""
    story = play(Fixed(), Case(task=make_task(members=2, generations=3), scores=[[0.0] * 3] * 2))
    strategy = Fixed().begin(make_task(members=2, generations=3))
    strategy.handle(story.events[:1])
    before = strategy.snapshot()
    assert strategy.handle([event]) == []
    assert before == strategy.snapshot()


def test_a_failure_may_complete_a_generation():
    """The last to be heard of may be heard of by its failure; the others then go on."""
    case = Case(
        task=make_task(members=3, generations=2),
        scores=[[0.0] * 2] * 3,
        fails={2: 0},
    )
    story = play(Fixed(), case)
    *_, last = story.told_of(0)
    assert last.event.id == "failed:2:0"
    assert [action.member for action in last.actions] == [0, 1]
    assert of_kind(story.actions_of(0), Finish) == []


def test_all_members_are_looked_at_once_a_generation(monkeypatch):
    """Not after every report: with a hundred thousand members that would take hours."""
    looks = []
    idle = Roster.idle
    monkeypatch.setattr(Roster, "idle", lambda roster: looks.append(roster) or idle(roster))
    play(Fixed(), Case(task=make_task(members=9, generations=4), scores=[[0.0] * 4] * 9))
    assert 3 == len(looks)
