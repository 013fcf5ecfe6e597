"""What a ledger tells of a sweep is what its strategy heard and decided, and what it cost."""

import math
import random

import pytest

from pbt.member import SegmentKey, member_seed
from pbt.population import PBT, Fixed
from pbt.record.ledger import Ledger, LedgerReader
from pbt.record.schema import canonical
from pbt.runtime.budget import Usage
from pbt.runtime.history import Extension, SegmentEnded, Told, read_history
from pbt.spec import Budget
from pbt.strategy import (
    BudgetEnded,
    EvaluationEnded,
    Extended,
    MemberFailed,
    SegmentReported,
    SweepStarted,
    Task,
    Together,
)
from tests.runtime.miniature import SPACE, Clear, ClearStack
from tests.runtime.stage import Stage, new_run

pytestmark = pytest.mark.usefixtures("no_sync")


class Spying:
    """Options of a strategy that is another, and remembers what it heard."""

    def __init__(self, options):
        self._options = options
        self.synchronous = options.synchronous

    def begin(self, task):
        return Spy(self._options.begin(task))


class Spy:
    def __init__(self, strategy):
        self._strategy = strategy
        self.heard = []

    def handle(self, events):
        self.heard += events
        return self._strategy.handle(events)


class Troubled(ClearStack):
    """A stack on which one member diverges to infinity, one to NaN, and one fails in its second segment."""

    def __init__(self, capacity):
        super().__init__(capacity)
        self._infinite, self._nan, self._failing = (member_seed(0, member) for member in (1, 2, 3))

    def run(self, until):
        means = super().run(until)
        return {**means, "grad": [math.nan, math.inf, *means["loss"]][: self.capacity]}

    def evaluate(self, split, slots):
        found = super().evaluate(split, slots)["Q"]
        for slot, seat in enumerate(self.seats):
            if seat and seat.seed in (self._infinite, self._nan):
                found[slot] = math.inf if seat.seed == self._infinite else math.nan
        return {"Q": found, "other": found * 0.1}

    def hparams(self, slot):
        seat = self.seats[slot]
        fails = seat.seed == self._failing and seat.consumed == 10
        return super().hparams(slot) | ({"gain": -1.0} if fails else {})


def troubled():
    trainable = Clear()
    trainable.build = lambda bucket, capacity, place: Troubled(capacity)
    return trainable


def told(history, extended=(), together=False):
    """The events of a history, as the strategy is told them."""
    extended = iter(extended)
    events = []
    for moment in history.happened:
        parts = tuple(next(extended) if isinstance(it, Extension) else it.event for it in moment)
        events += [Together(reports=parts)] if together and len(parts) > 1 else parts
    return events


def parts(events):
    """Events, those that were told together one by one."""
    return [part for event in events for part in (event.reports if isinstance(event, Together) else (event,))]


def read(stage):
    return read_history(LedgerReader(stage.run), "Q", "validation")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("options", [PBT(quantile=0.4), PBT(quantile=0.4, synchronous=False), Fixed()], ids=repr)
def test_events_are_those_the_strategy_heard(tmp_path, options, seed):
    """The same, in the same order, with the same numbers, NaN too: before the parts are sealed, and after.

    Where members do not wait for each other, those that were told together stand together.
    """
    sweep = {"members": 6, "generations": 4, "seed": 0, "trainable": troubled()}
    stage = Stage(new_run(tmp_path), Spying(options), **sweep)
    choose, together = random.Random(seed).choice, not options.synchronous
    while not stage.brain.done:
        stage.turn(choose)
        heard = stage.strategy.heard[1:]
        assert repr(heard) == repr(told(read(stage), together=together))
    stage.brain.close()
    assert repr(heard) == repr(told(read(stage), together=together))
    assert isinstance(stage.strategy.heard[0], SweepStarted)
    assert together == (Together in {type(event) for event in heard})
    assert {SegmentReported, MemberFailed, EvaluationEnded} == {type(event) for event in parts(heard)}
    reports = [event for event in parts(heard) if isinstance(event, SegmentReported)]
    assert {True, False} == {math.isnan(event.metrics["Q"]) for event in reports}


@pytest.mark.parametrize("options", [Fixed(), PBT(synchronous=False)], ids=["synchronous", "asynchronous"])
def test_the_end_of_a_budget_is_told_where_it_was_told(tmp_path, options):
    """Before the reports after which there was not enough; each time under its own number."""
    limit, together = 4 * 2 * 10 * 7, not options.synchronous
    stage = Stage(new_run(tmp_path), Spying(options), tokens=limit).play()
    heard = stage.strategy.heard[1:]
    assert repr(heard) == repr(told(read(stage), together=together))
    assert ["budget:1"] == [event.id for event in heard if isinstance(event, BudgetEnded)]

    def extend(spec):
        budget = Budget(members=4, generations=4, steps=10, tokens=3 * limit // 2)
        return Task(space=SPACE, metric="Q", mode="max", budget=budget, seed=0)

    data = canonical({"spec": {}, "slots": [[0, 0], [0, 1], [1, 0], [1, 1]]})
    again = Stage(stage.run, Spying(options), tokens=limit, extension=(1, data), extend=extend).play()
    heard = again.strategy.heard[1:]
    (extended,) = [event for event in heard if isinstance(event, Extended)]
    history = read(again)
    assert repr(heard) == repr(told(history, [extended], together))
    assert [data] == [it.data for (it, *_) in history.happened if isinstance(it, Extension)]
    assert ["budget:1", "budget:2"] == [event.id for event in heard if isinstance(event, BudgetEnded)]


def test_what_training_itself_saw_is_told_where_that_split_decides(tmp_path):
    """On the training split its means are on record beside the evaluation, and are told beside it."""
    stage = Stage(new_run(tmp_path), Spying(Fixed()), members=2, split="train").play()
    heard = stage.strategy.heard[1:]
    assert repr(heard) == repr(told(read_history(LedgerReader(stage.run), "Q", "train")))
    assert {"Q", "loss"} == set(heard[0].metrics)


def test_where_a_segment_left_its_member(tmp_path):
    """Beside the event: which segment it was, and how far the member had come."""
    stage = Stage(new_run(tmp_path), PBT(quantile=0.4), members=5, trainable=troubled()).play()
    happened = [it for moment in read(stage).happened for it in moment]
    ended = [it for it in happened if isinstance(it, SegmentEnded)]
    rows = [(row["member"], row["segment"], row["age_end"], row["consumed_end"]) for row in stage.rows("outcomes")]
    assert rows == [(it.event.member, it.segment, it.age, it.consumed) for it in ended]
    assert [Told] == [type(it) for it in happened if not isinstance(it, SegmentEnded)]


def test_decisions_are_those_on_record(tmp_path):
    """In order; what people and budgets decided is not among them, as the strategy was told that."""
    stage = Stage(new_run(tmp_path), PBT(quantile=0.5), tokens=4 * 2 * 10 * 7).play()
    history = read(stage)
    times = [row["at"] for _, row in history.decided]
    assert times == sorted(set(times))
    kinds = [row["kind"] for table, row in history.decided if table == "decisions"]
    assert kinds == [row["kind"] for row in stage.rows("decisions") if row["kind"] != "budget"]
    assert 8 == len([row for table, row in history.decided if table == "segments"])


def test_nothing_has_happened_in_a_new_run(tmp_path):
    """An empty ledger has no history, and cost nothing."""
    ledger = Ledger(tmp_path)
    history = read_history(LedgerReader(tmp_path), "Q", "validation")
    ledger.abandon()
    assert ((), (), {}, 0, Usage()) == (
        history.happened,
        history.decided,
        history.checkpoints,
        history.sessions,
        history.usage,
    )


# --- from rows


@pytest.fixture
def write(tmp_path):
    """Writes rows; the history that they make."""
    ledger = Ledger(tmp_path)

    def write(*rows):
        for table, row in rows:
            ledger.append(table, **row)
        ledger.commit()
        return read_history(LedgerReader(tmp_path), "Q", "validation")

    yield write
    ledger.abandon()


def checkpoint(segment, digest, status, member=0):
    return "checkpoints", {"member": member, "segment": segment, "digest": digest, "status": status}


@pytest.mark.parametrize(
    ("statuses", "there"),
    [
        (["saved"], True),
        ([None], True),  # as before there were statuses
        (["saved", "removed"], False),
        (["saved", "damaged"], False),
        (["saved", "damaged", "saved"], True),
        (["saved", "removed", "saved"], True),
        (["saved", "saved"], True),
    ],
    ids=str,
)
def test_which_checkpoints_there_are(write, statuses, there):
    """Saved and neither removed nor found damaged since; others are not touched."""
    history = write(checkpoint(1, "other", "saved"), *(checkpoint(0, "ab", status) for status in statuses))
    assert {SegmentKey(0, 1): "other"} | ({SegmentKey(0, 0): "ab"} if there else {}) == history.checkpoints


def test_the_last_digest_counts(write):
    """A segment trained again elsewhere may end in other bits."""
    history = write(checkpoint(0, "ab", "saved"), checkpoint(0, "cd", "saved"))
    assert {SegmentKey(0, 0): "cd"} == history.checkpoints


def test_sessions_are_counted(write):
    """Each time the sweep was taken up, whatever the reason."""
    reasons = enumerate(("start", "resume", "restart"), start=1)
    assert 3 == write(*(("sessions", {"session": number, "reason": reason}) for number, reason in reasons)).sessions


def usage(session, wall_s, tokens, joules=1.0):
    row = {"session": session, "wall_s": wall_s, "device_s": 2 * wall_s, "joules": joules, "tokens": tokens}
    return "usage", row


def test_the_last_row_of_each_session_counts(write):
    """What the sweep cost is their sum."""
    history = write(usage(1, 5.0, 10), usage(1, 8.0, 20), usage(2, 1.0, 5), usage(3, 2.0, 5), usage(3, 4.0, 7))
    assert Usage(wall_s=13.0, device_s=26.0, joules=3.0, tokens=32) == history.usage


def test_energy_that_was_not_read_is_not_known(write):
    """A session that could not read it used some all the same."""
    assert write(usage(1, 5.0, 10), usage(2, 5.0, 10, joules=None)).usage.joules is None


def test_metrics_belong_to_the_evaluation_they_stand_before(write):
    """A split that is evaluated twice is told twice, each time with its own."""
    at = {"member": 0, "segment": 0, "split": "test", "age": 10, "consumed": 10}
    rows = [
        ("metrics", at | {"name": "Q", "value": 1.0}),
        ("evaluations", at),
        ("metrics", at | {"name": "Q", "value": 2.0}),
        ("metrics", at | {"name": "other", "value": math.nan}),
        ("evaluations", at),
    ]
    first, second = told(write(*rows))
    assert {"Q": 1.0} == first.metrics
    assert ("Q", 2.0, True) == ("Q", second.metrics["Q"], math.isnan(second.metrics["other"]))


def test_what_training_saw_is_not_told_as_an_evaluation(write):
    """A member that is evaluated on the training split later has those metrics alone."""
    at = {"member": 0, "segment": 0, "split": "train", "age": 10, "consumed": 10}
    outcome = {"member": 0, "segment": 0, "status": "ended", "age_end": 10, "consumed_end": 10, "wall_s": 1.0}
    rows = [
        ("metrics", at | {"name": "loss", "value": 1.0}),
        ("outcomes", outcome | {"score": 0.5}),
        ("metrics", at | {"name": "Q", "value": 2.0}),
        ("evaluations", at),
    ]
    reported, evaluated = told(write(*rows))
    assert ({"Q": 0.5}, {"Q": 2.0}) == (reported.metrics, evaluated.metrics)


def test_a_commit_that_lacks_its_outcome_is_no_news(write):
    """Metrics alone are not an end."""
    at = {"member": 0, "segment": 0, "split": "validation", "age": 10, "consumed": 10}
    assert () == write(("metrics", at | {"name": "Q", "value": 1.0})).happened


# --- at one moment


def order(number, *segments, kind="work"):
    return "orders", {"order": f"order:{number}", "stack": 0, "kind": kind, "segments": canonical(segments)}


def outcome(member, segment=0):
    row = {"member": member, "segment": segment, "status": "ended", "age_end": 10, "consumed_end": 10}
    return "outcomes", row | {"wall_s": 1.0, "score": 0.5}


EVALUATION = "evaluations", {"member": 0, "segment": 0, "split": "test", "age": 10, "consumed": 10}
DECISION = "decisions", {"kind": "set", "member": 0}


@pytest.mark.parametrize(
    ("rows", "together"),
    [
        ([order(1, [0, 0], [1, 0]), outcome(0), outcome(1)], [2]),
        ([order(1, [0, 0]), order(2, [1, 0]), outcome(0), outcome(1)], [1, 1]),  # two stacks
        ([order(1, [0, 0], [1, 0]), outcome(0), DECISION, outcome(1)], [2]),
        ([order(1, [0, 0], [1, 0]), outcome(0), outcome(1), EVALUATION], [2, 1]),
        ([order(1, [0, 0]), outcome(0), order(2, [0, 1]), outcome(0, 1)], [1, 1]),  # the same stack again
        # One that was given up, then in halves.
        ([order(1, [0, 0], [1, 0]), order(2, [0, 0]), outcome(0), order(3, [1, 0]), outcome(1)], [1, 1]),
        # What was trained again after is no news.
        ([order(1, [0, 0], [1, 0]), outcome(0), outcome(1), order(2, [0, 0], kind="recovery")], [2]),
        ([outcome(0), outcome(1)], [1, 1]),  # before orders were on record
    ],
    ids=["one", "stacks", "decided", "evaluated", "again", "halves", "recovery", "unknown"],
)
def test_what_one_order_trained_ended_at_one_moment(write, rows, together):
    """Whatever stands in between, or does not."""
    assert together == [len(moment) for moment in write(*rows).happened]
