"""The brain: actions become records first and work orders after, and reports count once."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import pytest

from pbt.errors import StorageError
from pbt.member import Slot
from pbt.population import PBT, Fixed
from pbt.record.ledger import Ledger, LedgerReader
from pbt.runtime.brain import Brain, Plan
from pbt.runtime.checkpoints import Checkpoint
from pbt.runtime.exchange import LocalExchange
from pbt.runtime.orders import (
    Admit,
    Examination,
    Examine,
    Fetch,
    Publish,
    SegmentResult,
    StackReport,
    Train,
    WorkOrder,
    perform,
)
from pbt.spec import Budget
from pbt.strategy import (
    Action,
    ContinueUntil,
    Copy,
    Decline,
    Evaluate,
    EvaluationEnded,
    Event,
    Finish,
    MemberFailed,
    SegmentReported,
    Set,
    Start,
    Task,
)
from tests.runtime.miniature import DEFAULTS, SPACE, Clear, ClearStack, in_time, make_plan

NAN = math.nan
#: Four members on two stacks of two.
SLOTS = (Slot(0, 0), Slot(0, 1), Slot(1, 0), Slot(1, 1))
PLAN = Plan(slots=SLOTS, bucket="clear", defaults=DEFAULTS, metric="Q", split="validation", tokens_per_step=7)


class Script:
    """A strategy that answers each event by its id, from a script, and remembers what it heard."""

    def __init__(self, answers: Mapping[str, Sequence[Action]]) -> None:
        self._answers = answers
        self.heard: list[Event] = []

    def handle(self, events):
        self.heard += events
        return [action for event in events for action in self._answers.get(event.id, ())]


def start(member: int, seed: int = 0, cause: str = "start", **hparams: float) -> Start:
    return Start(cause=cause, member=member, slot=SLOTS[member], hparams=hparams, seed=seed)


def go_on(member: int, consumed: int, generation: int = 0, cause: str = "start") -> ContinueUntil:
    return ContinueUntil(cause=cause, member=member, consumed=consumed, generation=generation)


#: Members 0 to 3 begin, with seeds 100 to 103.
BEGIN = [action for m in range(4) for action in (start(m, seed=100 + m, gain=1.0 + m), go_on(m, 10))]


@pytest.fixture
def make_brain(tmp_path):
    """A brain with a scripted strategy, its script, and what it keeps."""

    def make(answers=None, plan=PLAN):
        script = Script({"start": BEGIN} if answers is None else answers)
        kept = []

        def keep(token, about):
            kept.append((token, dict(about)))
            return Checkpoint("ab" * 32, 4096, tmp_path)

        ledger = Ledger(tmp_path)
        brain = Brain(plan, script, ledger, keep)
        brain.script, brain.kept = script, kept
        brains.append(brain)
        return brain

    brains = []
    yield make
    for brain in brains:
        brain.close()


def ended(order: WorkOrder, scores: Mapping[int, float], wall_s: float = 2.0, **changes) -> StackReport:
    """The report of a stack on which everything went well."""
    results = [
        SegmentResult(
            member=item.member,
            segment=item.segment,
            age=item.until,
            consumed=item.until,
            held=item.hparams,
            training={"loss": 0.5},
            evaluation={"Q": scores[item.member], "other": 1.0},
        )
        for item in order.train
    ]
    return StackReport(order=order.id, stack=order.stack, wall_s=wall_s, segments=tuple(results), **changes)


def rows(tmp_path, table):
    """A table of the ledger as it is on disk, without times."""
    found = LedgerReader(tmp_path).rows()[table]
    return [{name: value for name, value in row.items() if name != "at"} for row in found]


# --- layout


def test_stacks_and_capacities(make_brain):
    """The layout says how many stacks there are and how many slots each has."""
    slots = (Slot(0, 0), Slot(0, 1), Slot(0, 2), Slot(1, 0))
    plan = Plan(slots=slots, bucket="b", defaults={}, metric="Q", split="validation", tokens_per_step=1)
    brain = make_brain({}, plan)
    assert brain.num_stacks == 2
    assert [brain.capacity(0), brain.capacity(1)] == [3, 1]


def test_nothing_is_ordered_before_the_start(make_brain):
    """Stacks that ask too early get nothing."""
    assert make_brain().orders([0, 1]) == []


def test_the_first_orders(make_brain):
    """Each stack is told to admit its members and to train them, in one order."""
    brain = make_brain()
    brain.start()
    first, second = brain.orders([0, 1])
    full = [{"gain": 1.0 + member, "lr": 0.5} for member in range(4)]
    assert first == WorkOrder(
        id="order:1",
        stack=0,
        split="validation",
        admit=(Admit(0, full[0], 100, 0), Admit(1, full[1], 101, 0)),
        train=(Train(0, 0, 0, 10, full[0]), Train(1, 1, 0, 10, full[1])),
    )
    assert second == WorkOrder(
        id="order:2",
        stack=1,
        split="validation",
        admit=(Admit(0, full[2], 102, 0), Admit(1, full[3], 103, 0)),
        train=(Train(0, 2, 0, 10, full[2]), Train(1, 3, 0, 10, full[3])),
    )


@pytest.mark.parametrize(("asking", "expected"), [([0], [0]), ([1], [1]), ([1, 0], [0, 1]), ([], []), ([7], [])])
def test_only_stacks_that_ask_get_orders(make_brain, asking, expected):
    """Orders go to the stacks asked for, in the order of their numbers; unknown stacks get none."""
    brain = make_brain()
    brain.start()
    assert [order.stack for order in brain.orders(asking)] == expected


def test_a_stack_gets_no_second_order_before_it_reports(make_brain):
    """While an order is out there is no other, even if there is work."""
    brain = make_brain({"start": BEGIN, "report:0:0": [go_on(0, 20, 1), go_on(2, 20, 1)]})
    brain.start()
    first, _ = brain.orders([0, 1])
    assert brain.orders([0, 1]) == []
    brain.report([ended(first, {0: 0.1, 1: 0.2})])
    assert [order.stack for order in brain.orders([0, 1])] == [0]


# --- recorded before released


class Journal:
    """A ledger that notes in what order rows are appended and committed."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.pending: list[tuple[str, dict]] = []
        self.committed: list[tuple[str, dict]] = []

    def append(self, table, **row):
        self._ledger.append(table, **row)
        self.pending.append((table, row))

    def commit(self):
        self._ledger.commit()
        self.committed += self.pending
        self.pending = []

    def close(self, *, finished):
        self._ledger.close(finished=finished)

    def has(self, table: str, **wanted) -> bool:
        return any(
            table == name and all(row.get(key) == value for key, value in wanted.items())
            for name, row in self.committed
        )


def play(tmp_path, options, look, *, stacks=2, members=5, generations=4, trainable=None, host_of=lambda stack: 0):
    """Run a sweep by hand, one order at a time; `look(order)` sees each order when it is released."""
    trainable = trainable or Clear()
    plan = make_plan(trainable, members, stacks)
    exchange = LocalExchange()
    ledger = Journal(Ledger(tmp_path))
    task = Task(
        space=SPACE,
        metric="Q",
        mode="max",
        budget=Budget(members=members, generations=generations, steps=10),
        seed=1,
    )

    def keep(token, about):
        exchange.fetch(token)
        return Checkpoint("ab" * 32, 4096, tmp_path)

    brain = Brain(plan, options.begin(task), ledger, keep)
    built = {stack: trainable.build("clear", brain.capacity(stack), None) for stack in range(stacks)}
    brain.start()
    while not brain.finished:
        orders = brain.orders(built)
        assert orders, "the sweep hangs"
        for order in orders:
            look(order, ledger)
        brain.report(in_time(20.0, lambda orders=orders: perform(built, orders, exchange)))
    brain.close()
    assert not vars(exchange)["_states"], "a published state was never read"
    return brain


@pytest.mark.parametrize("options", [PBT(quantile=0.5), PBT(explore="resample"), Fixed()])
def test_every_order_is_on_disk_before_it_is_released(tmp_path, options):
    """When an order can be seen, nothing is pending and all its parts stand in the committed ledger."""
    released = []

    def look(order, ledger):
        assert ledger.pending == []
        on_disk = LedgerReader(tmp_path).rows()
        segments = {(row["member"], row["segment"]): row for row in on_disk["segments"]}
        for item in order.train:
            row = segments[item.member, item.segment]
            assert (item.until, item.hparams) == (row["until"], json.loads(row["hparams"]))
            assert (order.stack, item.slot) == (row["stack"], row["slot"])
        members = {item.slot: item.member for item in order.train}
        for source, target in order.copy:
            assert ledger.has("decisions", kind="copy", donor=members[source], member=members[target])
        for item in order.fetch:
            donor = int(item.token.split(":")[0])
            assert ledger.has("decisions", kind="copy", donor=donor, member=members[item.slot])
        for item in order.admit:
            assert ledger.has("decisions", kind="start", member=members[item.slot])
        for slot, _ in order.set:
            assert ledger.has("decisions", kind="set", member=members[slot])
        for item in order.examine:
            assert ledger.has("decisions", kind="evaluate", member=item.member)
        released.append(order)

    brain = play(tmp_path, options, look)
    assert brain.best is not None
    parts = {
        name for order in released for name in ("copy", "fetch", "admit", "set", "examine") if getattr(order, name)
    }
    exploiting = {"copy", "fetch", "set"} if isinstance(options, PBT) else set()
    assert parts == {"admit", "examine"} | exploiting


def test_orders_that_could_not_be_recorded_are_not_released(tmp_path):
    """When the disk does not take the decisions, asking for orders fails until it does."""

    class Full(Journal):
        full = False

        def commit(self):
            if self.full:
                raise StorageError("the disk is full")
            super().commit()

    ledger = Full(Ledger(tmp_path))
    brain = Brain(PLAN, Script({"start": BEGIN}), ledger, lambda token, about: None)
    ledger.full = True
    with pytest.raises(StorageError):
        brain.start()
    with pytest.raises(StorageError):
        brain.orders([0, 1])
    ledger.full = False
    assert [order.stack for order in brain.orders([0, 1])] == [0, 1]
    assert len(rows(tmp_path, "segments")) == 4
    brain.close()


def test_what_a_start_records(make_brain, tmp_path):
    """The decision with all hyperparameters, and the segment it opens."""
    brain = make_brain({"start": BEGIN[:2]})
    brain.start()
    hparams = '{"gain":1.0,"lr":0.5}'
    common = {"member": 0, "cause": "start", "hparams": hparams}
    (decision,), (segment,) = rows(tmp_path, "decisions"), rows(tmp_path, "segments")
    assert decision == common | {
        "kind": "start",
        "donor": None,
        "segment": -1,
        "hparams_before": "{}",
        "reason": None,
    }
    assert segment == common | {
        "segment": 0,
        "generation": 0,
        "start": "fresh",
        "parent_member": None,
        "parent_segment": None,
        "seed": 100,
        "bucket": "clear",
        "stack": 0,
        "slot": 0,
        "age_start": 0,
        "consumed_start": 0,
        "until": 10,
    }


# --- reports


def test_what_a_report_records_and_tells(make_brain, tmp_path):
    """The outcome, all metrics with their splits, and the event for the strategy."""
    brain = make_brain({"start": BEGIN[:2]})
    brain.start()
    (order,) = brain.orders([0])
    brain.report([ended(order, {0: 0.25})])
    where = {"member": 0, "segment": 0, "age": 10, "consumed": 10}
    assert rows(tmp_path, "metrics") == [
        where | {"split": "train", "name": "loss", "value": 0.5},
        where | {"split": "validation", "name": "Q", "value": 0.25},
        where | {"split": "validation", "name": "other", "value": 1.0},
    ]
    assert rows(tmp_path, "outcomes") == [
        {
            "member": 0,
            "segment": 0,
            "status": "ended",
            "hparams_in_effect": '{"gain":1.0,"lr":0.5}',
            "age_end": 10,
            "consumed_end": 10,
            "score": 0.25,
            "wall_s": 2.0,
            "tokens": 70,
            "reason": None,
        }
    ]
    assert brain.script.heard[1:] == [
        SegmentReported(
            id="report:0:0",
            member=0,
            segment=0,
            age=10,
            consumed=10,
            metrics={"Q": 0.25, "other": 1.0},
            wall_s=2.0,
        )
    ]


@pytest.mark.parametrize("score", [NAN, math.inf, -math.inf])
def test_a_diverged_member_has_ended_not_failed(make_brain, tmp_path, score):
    """The strategy is told NaN, also of an infinite score, which would otherwise be a record."""
    brain = make_brain({"start": BEGIN[:2]})
    brain.start()
    brain.report([ended(brain.orders([0])[0], {0: score})])
    (row,) = rows(tmp_path, "outcomes")
    assert row["status"] == "ended"
    assert math.isnan(row["score"])
    assert math.isnan(brain.script.heard[-1].metrics["Q"])


@pytest.mark.parametrize(
    "again",
    [
        lambda report, other: [[report], [report]],
        lambda report, other: [[report, report]],
        lambda report, other: [[report], [report, report]],
        lambda report, other: [[report, other], [other, report]],
        lambda report, other: [[report], [StackReport(order="order:99", stack=0, wall_s=1.0)]],
        lambda report, other: [[report], [StackReport(order=report.order, stack=1, wall_s=1.0)]],
        lambda report, other: [[report], [StackReport(order=report.order, stack=7, wall_s=1.0)]],
        lambda report, other: [[report], []],
    ],
    ids=["later", "at-once", "many", "crossed", "unknown", "other-stack", "no-stack", "nothing"],
)
def test_a_report_counts_once(make_brain, tmp_path, again):
    """Repeated, unknown and misdirected reports change nothing."""
    brain = make_brain()
    brain.start()
    first, second = brain.orders([0, 1])
    report, other = (ended(order, {m: m / 10 for m in range(4)}) for order in (first, second))
    for batch in again(report, other):
        brain.report(batch)
    heard = [event.id for event in brain.script.heard]
    assert len(heard) == len(set(heard))
    assert {"start", "report:0:0", "report:1:0"} <= set(heard)
    keys = [(row["member"], row["segment"]) for row in rows(tmp_path, "outcomes")]
    assert len(keys) == len(set(keys)) == len(heard) - 1


def test_a_late_report_of_an_earlier_order_changes_nothing(make_brain, tmp_path):
    """When a stack already works on its next order, the answer to the last one is no news."""
    brain = make_brain({"start": BEGIN[:2], "report:0:0": [go_on(0, 20, 1, "report:0:0")]})
    brain.start()
    (first,) = brain.orders([0])
    report = ended(first, {0: 0.1})
    brain.report([report])
    (second,) = brain.orders([0])
    brain.report([report])
    assert brain.orders([0]) == []
    brain.report([ended(second, {0: 0.2})])
    assert [row["score"] for row in rows(tmp_path, "outcomes")] == [0.1, 0.2]
    assert [event.id for event in brain.script.heard] == ["start", "report:0:0", "report:0:1"]


def test_reports_after_the_end_change_nothing(make_brain, tmp_path):
    """A finished sweep has its winner, and nothing moves it."""
    end = Finish(cause="report:0:0", best=0, reason="done")
    brain = make_brain({"start": BEGIN[:2], "report:0:0": [end]})
    brain.start()
    report = ended(brain.orders([0])[0], {0: 0.1})
    assert (brain.finished, brain.best) == (False, None)
    for _ in range(2):
        brain.report([report])
        assert (brain.finished, brain.best) == (True, 0)
    assert len(rows(tmp_path, "decisions")) == 2


# --- exploits

#: Everybody's first report; the last of them brings the decisions.
REPORTS = {m: f"report:{m}:0" for m in range(4)}


def decided(make_brain, *actions, scores=None):
    """A brain after the first generation, its reports answered with these actions, and the orders that follow."""
    brain = make_brain({"start": BEGIN, REPORTS[3]: actions})
    brain.start()
    brain.report([ended(order, scores or {m: m / 10 for m in range(4)}) for order in brain.orders([0, 1])])
    return brain, {order.stack: order for order in brain.orders([0, 1])}


def test_a_copy_inside_a_stack_is_made_on_the_device(make_brain):
    """Neighbours exchange nothing: the stack is told the two slots."""
    _, orders = decided(make_brain, Copy(cause="c", donor=0, receiver=1, reason=""), go_on(0, 20, 1), go_on(1, 20, 1))
    assert orders[0].copy == ((0, 1),)
    assert (orders[0].publish, orders[0].fetch) == ((), ())
    assert set(orders) == {0}


def test_a_copy_across_stacks_is_published_and_fetched(make_brain):
    """The donor's stack publishes under (member, segment); the receiver keeps its seed, steps and hyperparameters."""
    _, orders = decided(make_brain, Copy(cause="c", donor=0, receiver=3, reason=""), *(go_on(m, 20, 1) for m in (0, 3)))
    assert orders[0].publish == (Publish(0, "0:0", 1),)
    assert orders[1].fetch == (Fetch(1, "0:0", {"gain": 4.0, "lr": 0.5}, 103, 10),)
    assert orders[0].copy == orders[1].copy == orders[0].fetch == orders[1].publish == ()


def test_a_donor_may_have_several_readers(make_brain):
    """One publication is counted for all who read it, and a neighbour needs none."""
    copies = [Copy(cause="c", donor=0, receiver=m, reason="") for m in (1, 2, 3)]
    _, orders = decided(make_brain, *copies, *(go_on(m, 20, 1) for m in range(4)))
    assert orders[0].publish == (Publish(0, "0:0", 2),)
    assert orders[0].copy == ((0, 1),)
    assert [item.token for item in orders[1].fetch] == ["0:0", "0:0"]


def test_two_donors_may_publish_from_one_stack(make_brain):
    """Each under its own token."""
    copies = [Copy(cause="c", donor=0, receiver=2, reason=""), Copy(cause="c", donor=1, receiver=3, reason="")]
    _, orders = decided(make_brain, *copies, *(go_on(m, 20, 1) for m in range(4)))
    assert orders[0].publish == (Publish(0, "0:0", 1), Publish(1, "1:0", 1))
    assert [(item.slot, item.token) for item in orders[1].fetch] == [(0, "0:0"), (1, "1:0")]


@pytest.mark.parametrize("receiver", [1, 3])
def test_the_parent_of_a_copied_segment_is_the_donors(make_brain, tmp_path, receiver):
    """On the same stack or another, the new segment names the donor's last segment and begins at its age."""
    decided(
        make_brain,
        Copy(cause="c", donor=0, receiver=receiver, reason="why"),
        Set(cause="c", member=receiver, hparams={"gain": 9.0}),
        go_on(receiver, 25, 1, "c"),
        go_on(0, 20, 1, "c"),
    )
    copied, own = rows(tmp_path, "segments")[4:]
    assert (copied["start"], copied["parent_member"], copied["parent_segment"]) == ("copied", 0, 0)
    assert (own["start"], own["parent_member"], own["parent_segment"]) == ("own", 0, 0)
    assert (copied["member"], copied["segment"], copied["seed"]) == (receiver, 1, 100 + receiver)
    assert (copied["age_start"], copied["consumed_start"], copied["until"]) == (10, 10, 25)
    assert json.loads(copied["hparams"]) == {"gain": 9.0, "lr": 0.5}
    copy, change = rows(tmp_path, "decisions")[4:]
    assert (copy["kind"], copy["donor"], copy["member"], copy["segment"]) == ("copy", 0, receiver, 0)
    assert (change["kind"], change["member"], change["reason"]) == ("set", receiver, None)
    assert json.loads(change["hparams_before"]) == {"gain": 1.0 + receiver, "lr": 0.5}
    assert json.loads(change["hparams"]) == {"gain": 9.0, "lr": 0.5}


def test_a_receiver_takes_the_donors_age_and_keeps_its_own_steps(make_brain, tmp_path):
    """A donor that trained longer brings its age along."""
    brain = make_brain(
        {
            "start": [start(0), go_on(0, 10), start(1, seed=1), go_on(1, 4)],
            "report:1:0": [Copy(cause="c", donor=0, receiver=1, reason=""), go_on(1, 8, 1)],
        }
    )
    brain.start()
    brain.report([ended(brain.orders([0])[0], {0: 0.1, 1: 0.2})])
    assert [(row["age_start"], row["consumed_start"]) for row in rows(tmp_path, "segments")] == [
        (0, 0),
        (0, 0),
        (10, 4),
    ]


def test_the_parent_is_the_donors_last_segment_not_the_receivers(make_brain, tmp_path):
    """A donor that is two segments ahead is named, and published, by its own count."""
    copy = [Copy(cause="c", donor=0, receiver=2, reason=""), go_on(2, 20, 1)]
    brain = make_brain(
        {"start": [BEGIN[0], BEGIN[1], BEGIN[4], BEGIN[5]], REPORTS[0]: [go_on(0, 20, 1)], "report:0:1": copy}
    )
    brain.start()
    first, other = brain.orders([0, 1])
    brain.report([ended(first, {0: 0.1}), ended(other, {2: 0.2})])
    brain.report([ended(brain.orders([0])[0], {0: 0.3})])
    donor, receiver = brain.orders([0, 1])
    assert donor.publish == (Publish(0, "0:1", 1),)
    assert [item.token for item in receiver.fetch] == ["0:1"]
    row = rows(tmp_path, "segments")[-1]
    assert (row["member"], row["segment"], row["parent_member"], row["parent_segment"]) == (2, 1, 0, 1)
    assert (row["age_start"], row["consumed_start"]) == (20, 10)


def test_set_names_every_hyperparameter(make_brain):
    """Those the strategy leaves alone are ordered at their defaults, and checked as all others are."""
    _, orders = decided(make_brain, Set(cause="c", member=2, hparams={"lr": 0.25}), go_on(2, 20, 1))
    assert orders[1].set == ((0, {"gain": 1.0, "lr": 0.25}),)
    assert orders[1].train == (Train(0, 2, 1, 20, {"gain": 1.0, "lr": 0.25}),)


def test_a_restart_is_fresh_and_keeps_counting(make_brain, tmp_path):
    """New weights, a new seed and age 0; `consumed` goes on, so no batch is seen twice."""
    brain, orders = decided(make_brain, start(1, seed=77, cause="c", gain=3.0), go_on(1, 20, 1, "c"))
    assert orders[0].admit == (Admit(1, {"gain": 3.0, "lr": 0.5}, 77, 10),)
    segment = rows(tmp_path, "segments")[-1]
    assert (segment["start"], segment["parent_member"], segment["parent_segment"]) == ("fresh", None, None)
    assert (segment["age_start"], segment["consumed_start"], segment["seed"]) == (0, 10, 77)
    result = SegmentResult(member=1, segment=1, age=10, consumed=20, held={}, evaluation={"Q": 1.0})
    brain.report([StackReport(order=orders[0].id, stack=0, wall_s=1.0, segments=(result,))])
    outcome = rows(tmp_path, "outcomes")[-1]
    assert (outcome["age_end"], outcome["consumed_end"], outcome["tokens"]) == (10, 20, 70)


def test_declined_exploits_are_recorded(make_brain, tmp_path):
    """With the reason, and without an order."""
    _, orders = decided(make_brain, Decline(cause="c", member=2, reason="not now"))
    assert orders == {}
    row = rows(tmp_path, "decisions")[-1]
    assert (row["kind"], row["member"], row["reason"], row["cause"]) == ("decline", 2, "not now", "c")


# --- failures


def failure(order: WorkOrder, member: int, reason: str) -> StackReport:
    """A report in which one member failed and the others are well."""
    report = ended(order, dict.fromkeys(range(4), 0.5))
    segments = tuple(
        result
        if result.member != member
        else SegmentResult(member=member, segment=result.segment, age=0, consumed=0, held=result.held, failure=reason)
        for result in report.segments
    )
    return StackReport(order=report.order, stack=report.stack, wall_s=1.0, segments=segments)


def test_a_failed_member_is_told_and_recorded(make_brain, tmp_path):
    """The strategy hears of it, the record says why, and the neighbours' reports count."""
    brain = make_brain()
    brain.start()
    first, _ = brain.orders([0, 1])
    brain.report([failure(first, 1, "it broke")])
    reported, failed = brain.script.heard[1:]
    assert reported.id == "report:0:0"
    assert failed == MemberFailed(id="failed:1:0", member=1, reason="it broke")
    well, broken = rows(tmp_path, "outcomes")
    assert (well["status"], well["reason"]) == ("ended", None)
    assert (broken["status"], broken["reason"], broken["score"], broken["tokens"]) == ("failed", "it broke", None, 0)


def test_a_member_without_its_objective_is_stopped_with_the_mend(make_brain, tmp_path):
    """A trainable that describes a metric and does not report it: the member, the metric and what came instead."""
    brain = make_brain()
    brain.start()
    first, _ = brain.orders([0, 1])
    report = ended(first, dict.fromkeys(range(4), 0.5))
    silent = dataclasses.replace(report.segments[0], evaluation={"loss": 1.0})
    brain.report([dataclasses.replace(report, segments=(silent, *report.segments[1:]))])
    failed = brain.script.heard[1]
    assert failed.member == silent.member
    for word in ("'Q'", "loss", f"member {silent.member}", "mend"):
        assert word in failed.reason
    assert {0: "failed", 1: "ended"} == {row["member"]: row["status"] for row in rows(tmp_path, "outcomes")}


class Breaking(ClearStack):
    """Holds another `gain` than ordered in one slot, once its members have trained so far."""

    def hparams(self, slot):
        held = super().hparams(slot)
        seat = self.seats[slot]
        return held | {"gain": -1.0} if (seat.seed, seat.consumed) in self.breaks else held


@pytest.mark.parametrize("generation", [0, 1, 3])
@pytest.mark.parametrize("member", [0, 4])
def test_when_a_member_fails_the_others_go_on(tmp_path, member, generation):
    """Whenever it happens, the failed one trains no more and everybody else trains to the end."""
    trainable = Clear()
    breaks = set()

    def build(bucket, capacity, place):
        stack = Breaking(capacity)
        stack.breaks = breaks
        return stack

    trainable.build = build
    trained = defaultdict(list)

    def look(order, ledger):
        if not breaks:
            started = [row for name, row in ledger.committed if name == "segments" and row["member"] == member]
            breaks.add((started[0]["seed"], generation * 10))
        for item in order.train:
            trained[item.member].append(item.segment)

    brain = play(tmp_path, Fixed(), look, trainable=trainable)
    everything = list(range(4))
    assert trained == {m: everything[: generation + 1] if m == member else everything for m in range(5)}
    assert brain.best not in (None, member)
    outcomes = LedgerReader(tmp_path).rows()["outcomes"]
    (failed,) = [row for row in outcomes if row["status"] == "failed"]
    assert (failed["member"], failed["segment"]) == (member, generation)
    assert len(outcomes) == 16 + generation + 1


# --- evaluation and the end


def test_the_winner_is_evaluated_saved_and_announced(make_brain, tmp_path):
    """On the test split, its weights kept under its last segment, before the end is recorded."""
    brain = make_brain(
        {
            "start": BEGIN[:2],
            "report:0:0": [Evaluate(cause="report:0:0", member=0, split="test")],
            "evaluation:0:0:test": [Finish(cause="evaluation:0:0:test", best=0, reason="best")],
        }
    )
    brain.start()
    brain.report([ended(brain.orders([0])[0], {0: 0.5})])
    (order,) = brain.orders([0])
    assert order.publish == (Publish(0, "0:0", 1),)
    assert order.examine == (Examine(0, 0, "test"),)
    assert order.train == ()
    found = Examination(member=0, split="test", age=10, consumed=10, metrics={"Q": 0.75})
    brain.report([StackReport(order=order.id, stack=0, wall_s=1.0, examinations=(found,))])
    hparams = {"gain": 1.0, "lr": 0.5}
    assert brain.kept == [("0:0", {"member": 0, "segment": 0, "bucket": "clear", "hparams": hparams})]
    assert rows(tmp_path, "checkpoints") == [{"member": 0, "segment": 0, "digest": "ab" * 32, "size_bytes": 4096}]
    last = rows(tmp_path, "metrics")[-1]
    assert (last["split"], last["name"], last["value"], last["consumed"]) == ("test", "Q", 0.75, 10)
    ended_ = EvaluationEnded(id="evaluation:0:0:test", member=0, split="test", metrics={"Q": 0.75})
    assert brain.script.heard[-1] == ended_
    assert (brain.finished, brain.best) == (True, 0)
    assert [row["kind"] for row in rows(tmp_path, "decisions")] == ["start", "evaluate", "finish"]


def test_an_end_without_a_winner(make_brain, tmp_path):
    """Is recorded as such."""
    brain = make_brain({"start": [Finish(cause="start", best=None, reason="nobody is left")]})
    brain.start()
    assert (brain.finished, brain.best) == (True, None)
    (row,) = rows(tmp_path, "decisions")
    assert (row["kind"], row["member"], row["segment"], row["reason"]) == ("finish", None, None, "nobody is left")


@pytest.mark.parametrize("finished", [True, False])
def test_closing_tells_whether_it_came_to_the_end(make_brain, tmp_path, finished):
    """A ledger closed early stays readable and says so."""
    answers = {"start": [*BEGIN[:2], *([Finish(cause="start", best=0, reason="")] if finished else [])]}
    brain = make_brain(answers)
    brain.start()
    brain._ledger.close(finished=brain.finished)
    brain.close = lambda: None
    reader = LedgerReader(tmp_path)
    assert reader.finished is finished
    assert len(reader.rows()["segments"]) == 1
