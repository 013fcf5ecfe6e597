"""The brain: actions become records first and work orders after, and reports count once."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections import defaultdict

import pytest

from pbt.errors import HostError, StorageError
from pbt.member import Slot, member_seed
from pbt.population import IPBT, PBT, Fixed, Halving
from pbt.record.ledger import Ledger, LedgerReader
from pbt.runtime.brain import Brain
from pbt.runtime.orders import (
    Admit,
    Examination,
    Examine,
    Fetch,
    NodeReading,
    Publish,
    SegmentResult,
    StackReport,
    Train,
    Trouble,
    WorkOrder,
)
from pbt.runtime.plan import Plan, Session
from pbt.spec import Budget, Checkpoints
from pbt.strategy import (
    ContinueUntil,
    Copy,
    Decline,
    Evaluate,
    EvaluationEnded,
    Finish,
    MemberFailed,
    SegmentReported,
    Set,
    Start,
)
from tests.runtime.miniature import DEFAULTS, Clear, ClearStack, make_state
from tests.runtime.stage import Clock, Script, Shelf, Stage, ended, new_run, rows

pytestmark = pytest.mark.usefixtures("no_sync")

NAN = math.nan
#: Four members on two stacks of two.
SLOTS = (Slot(0, 0), Slot(0, 1), Slot(1, 0), Slot(1, 1))
PLAN = Plan(
    slots=SLOTS,
    bucket="clear",
    defaults=DEFAULTS,
    metric="Q",
    split="validation",
    tokens_per_step=7,
    budget=Budget(members=4, generations=3, steps=10),
    checkpoints=Checkpoints(every_minutes=None),
)


def start(member: int, seed: int = 0, cause: str = "start", **hparams: float) -> Start:
    return Start(cause=cause, member=member, slot=SLOTS[member], hparams=hparams, seed=seed)


def go_on(member: int, consumed: int, generation: int = 0, cause: str = "start") -> ContinueUntil:
    return ContinueUntil(cause=cause, member=member, consumed=consumed, generation=generation)


#: Members 0 to 3 begin, with seeds 100 to 103.
BEGIN = [action for m in range(4) for action in (start(m, seed=100 + m, gain=1.0 + m), go_on(m, 10))]


#: A member of the second stack that is told to train, for tests that look at the first.
ELSEWHERE = (start(3, seed=103), go_on(3, 10))


@pytest.fixture
def make_brain(tmp_path):
    """A brain with a scripted strategy, its script, what it does with states, and its clock."""

    def make(answers=None, plan=PLAN, again=False):
        script, shelf, clock = Script({"start": BEGIN} if answers is None else answers), Shelf(tmp_path), Clock()
        brain = Brain(plan, script, Ledger(tmp_path, existing=again), shelf, clock)
        brain.script, brain.shelf, brain.clock = script, shelf, clock
        brains.append(brain)
        return brain

    brains = []
    yield make
    for brain in brains:
        brain.abandon()


# --- layout


def test_stacks_and_capacities(make_brain):
    """The layout says how many stacks there are and how many slots each has."""
    slots = (Slot(0, 0), Slot(0, 1), Slot(0, 2), Slot(1, 0))
    brain = make_brain({}, dataclasses.replace(PLAN, slots=slots))
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
        id="order:1:1",
        stack=0,
        split="validation",
        admit=(Admit(0, full[0], 100, 0), Admit(1, full[1], 101, 0)),
        train=(Train(0, 0, 0, 10, full[0]), Train(1, 1, 0, 10, full[1])),
    )
    assert second == WorkOrder(
        id="order:1:2",
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


class Journal(Ledger):
    """A ledger that knows what was appended and is not committed."""

    @property
    def uncommitted(self):
        return list(self._pending)


def watched(tmp_path, options, look, generations=4, seed=1, **sweep):
    """Play a sweep; `look(order)` sees each order when it is released."""
    stage = Stage(new_run(tmp_path), options, ledger=Journal, members=5, generations=generations, seed=seed, **sweep)
    choose = random.Random(4).choice
    while not stage.brain.done:
        for order in stage.take():
            look(order, stage)
        stage.turn(choose)
    stage.brain.close()
    assert 0 == len(stage.shelf.exchange), "a published state was never read"
    return stage


@pytest.mark.parametrize(
    "options",
    [
        PBT(quantile=0.5),
        PBT(explore="resample"),
        PBT(quantile=0.5, synchronous=False),
        IPBT(slow=2, growth=1, fresh_weights=0.0),
        Fixed(),
        Halving(),
    ],
    ids=["perturb", "resample", "asynchronous", "shrink", "fixed", "halving"],
)
def test_every_order_is_on_disk_before_it_is_released(tmp_path, options):
    """When an order can be seen, nothing is pending and all its parts stand in the committed ledger."""
    released = []

    def look(order, stage):
        assert [] == stage.ledger.uncommitted
        on_disk = LedgerReader(stage.run).rows()
        segments = {(row["member"], row["segment"]): row for row in on_disk["segments"]}
        decisions = [(row["kind"], row["member"], row["donor"]) for row in on_disk["decisions"]]
        for item in order.train:
            row = segments[item.member, item.segment]
            assert (item.until, item.hparams) == (row["until"], json.loads(row["hparams"]))
            assert (order.stack, item.slot) == (row["stack"], row["slot"])
        members = {item.slot: item.member for item in order.train}
        for source, target in order.copy:
            assert ("copy", members[target], members[source]) in decisions
        for item in order.fetch:
            donor = int(item.token.split(":")[0])
            assert ("copy", members[item.slot], donor) in decisions
        for item in order.admit:
            assert ("start", members[item.slot], None) in decisions
        for item in order.renew:
            assert ("shrink", members[item.slot], None) in decisions
        for slot, _ in order.set:
            assert ("set", members[slot], None) in decisions
        for item in order.examine:
            assert ("evaluate", item.member, None) in decisions
        (row,) = (row for row in on_disk["orders"] if row["order"] == order.id)
        assert order.stack == row["stack"]
        assert [[item.member, item.segment] for item in order.train] == json.loads(row["segments"])
        released.append(order)

    stage = watched(tmp_path, options, look, generations=8, seed=5)
    assert stage.brain.best is not None
    assert released == stage.released
    parts = {
        name
        for order in released
        for name in ("copy", "fetch", "admit", "renew", "set", "examine")
        if getattr(order, name)
    }
    exploiting = set() if isinstance(options, Fixed | Halving) else {"copy", "fetch", "set"}
    exploiting |= {"renew"} if isinstance(options, IPBT) else set()
    assert {"admit", "examine"} | exploiting == parts


def test_orders_that_could_not_be_recorded_are_not_released(tmp_path):
    """When the disk does not take the decisions, asking for orders fails until it does."""

    class Full(Ledger):
        full = False

        def commit(self):
            if self.full:
                raise StorageError("the disk is full")
            super().commit()

    ledger = Full(tmp_path)
    brain = Brain(PLAN, Script({"start": BEGIN}), ledger, Shelf(tmp_path))
    ledger.full = True
    with pytest.raises(StorageError):
        brain.start()
    with pytest.raises(StorageError):
        brain.orders([0])
    ledger.full = False
    assert [1] == [order.stack for order in brain.orders([1])]
    assert 4 == len(rows(tmp_path, "segments"))
    assert 2 == len(rows(tmp_path, "orders"))
    brain.abandon()


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
        "data": None,
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
        "shrink": None,
    }


def test_why_a_member_begins_again_is_on_record(make_brain, tmp_path):
    """With what it had before."""
    again = dataclasses.replace(start(0, seed=7, cause="report:0:0", gain=3.0), reason="rank 3 of 3")
    brain = make_brain({"start": [*BEGIN[:2], *ELSEWHERE], "report:0:0": [again, go_on(0, 20, 1, "report:0:0")]})
    brain.start()
    (order,) = brain.orders([0])
    brain.report([ended(order, {0: 0.25})])
    assert rows(tmp_path, "decisions")[-1] == {
        "kind": "start",
        "member": 0,
        "donor": None,
        "segment": 0,
        "hparams_before": '{"gain":1.0,"lr":0.5}',
        "hparams": '{"gain":3.0,"lr":0.5}',
        "reason": "rank 3 of 3",
        "cause": "report:0:0",
        "data": None,
    }


# --- reports


def test_what_a_report_records_and_tells(make_brain, tmp_path):
    """The outcome, all metrics with their splits, and the event for the strategy."""
    brain = make_brain({"start": [*BEGIN[:2], *ELSEWHERE]}, dataclasses.replace(PLAN, flops_per_step=3.0))
    brain.start()
    (order,) = brain.orders([0])
    brain.report([ended(order, {0: 0.25}, joules=8.0)])
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
            "flops": 30.0,
            "joules": 8.0,
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


def test_what_was_measured_is_on_record_and_told_nobody(make_brain, tmp_path):
    """10 steps of 7 tokens and 3 model FLOPs in 2 s on a device of 60 FLOP/s. Strategies never hear of it."""
    brain = make_brain({"start": [*BEGIN[:2], *ELSEWHERE]}, dataclasses.replace(PLAN, flops_per_step=3.0))
    brain.start()
    (order,) = brain.orders([0])
    known = {"training_s": 2.0, "peak_flops": 60.0, "member_bytes": 56, "peak_memory_bytes": 4096}
    brain.report([ended(order, {0: 0.25}, **known)])
    found = {row["name"]: row["value"] for row in rows(tmp_path, "metrics") if row["split"] == "system"}
    assert found == {"tokens_per_s": 35.0, "mfu": 0.25, "memory_bytes": 56.0, "peak_memory_bytes": 4096.0}
    assert brain.script.heard[-1].metrics == {"Q": 0.25, "other": 1.0}


@pytest.mark.parametrize("score", [NAN, math.inf, -math.inf])
def test_a_diverged_member_has_ended_not_failed(make_brain, tmp_path, score):
    """The strategy is told NaN, also of an infinite score, which would otherwise be a record."""
    brain = make_brain({"start": [*BEGIN[:2], *ELSEWHERE]})
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
        lambda report, other: [[report], [StackReport(order="order:1:99", stack=0, wall_s=1.0)]],
        lambda report, other: [[report], [dataclasses.replace(report, order="order:0:1")]],
        lambda report, other: [[report], [StackReport(order=report.order, stack=1, wall_s=1.0)]],
        lambda report, other: [[report], [StackReport(order=report.order, stack=7, wall_s=1.0)]],
        lambda report, other: [[report], []],
    ],
    ids=["later", "at-once", "many", "crossed", "unknown", "other-session", "other-stack", "no-stack", "nothing"],
)
def test_a_report_counts_once(make_brain, tmp_path, again):
    """Repeated, unknown and misdirected reports change nothing."""
    brain = make_brain({"start": BEGIN, "report:3:0": [go_on(3, 20, 1)]})
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
    brain = make_brain({"start": [*BEGIN[:2], *ELSEWHERE], "report:0:0": [go_on(0, 20, 1, "report:0:0")]})
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


def decided(make_brain, *actions, scores=None, plan=PLAN):
    """A brain after the first generation, its reports answered with these actions, and the orders that follow."""
    brain = make_brain({"start": BEGIN, REPORTS[3]: actions}, plan)
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
    assert orders[0].publish == (Publish(0, "0:0"),)
    assert orders[1].fetch == (Fetch(1, "0:0", {"gain": 4.0, "lr": 0.5}, 103, 10),)
    assert orders[0].copy == orders[1].copy == orders[0].fetch == orders[1].publish == ()


def test_what_is_fetched_comes_with_what_it_is_trained_with(make_brain):
    """Weights may be made for some of it: they cannot be taken in with the receiver's old hyperparameters."""
    copy, change = Copy(cause="c", donor=0, receiver=3, reason=""), Set(cause="c", member=3, hparams={"lr": 0.25})
    _, orders = decided(make_brain, copy, change, *(go_on(m, 20, 1) for m in (0, 3)))
    assert orders[1].fetch == (Fetch(1, "0:0", {"gain": 1.0, "lr": 0.25}, 103, 10),)
    assert orders[1].set == ()


def test_a_donor_may_have_several_readers(make_brain):
    """One publication is counted for all who read it, and a neighbour needs none."""
    copies = [Copy(cause="c", donor=0, receiver=m, reason="") for m in (1, 2, 3)]
    _, orders = decided(make_brain, *copies, *(go_on(m, 20, 1) for m in range(4)))
    assert orders[0].publish == (Publish(0, "0:0"),)
    assert orders[0].copy == ((0, 1),)
    assert [item.token for item in orders[1].fetch] == ["0:0", "0:0"]


def test_two_donors_may_publish_from_one_stack(make_brain):
    """Each under its own token."""
    copies = [Copy(cause="c", donor=0, receiver=2, reason=""), Copy(cause="c", donor=1, receiver=3, reason="")]
    _, orders = decided(make_brain, *copies, *(go_on(m, 20, 1) for m in range(4)))
    assert orders[0].publish == (Publish(0, "0:0"), Publish(1, "1:0"))
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
    assert donor.publish == (Publish(0, "0:1"),)
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
    brain, orders = decided(make_brain, start(1, seed=77, cause="c", gain=3.0), *(go_on(m, 20, 1, "c") for m in (3, 1)))
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
    _, orders = decided(make_brain, go_on(0, 20, 1), Decline(cause="c", member=2, reason="not now"))
    assert {0} == set(orders)
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

    breaks = (0, 0)

    def hparams(self, slot):
        held = super().hparams(slot)
        seat = self.seats[slot]
        return held | {"gain": -1.0} if (seat.seed, seat.consumed) == self.breaks else held


@pytest.mark.parametrize("generation", [0, 1, 3])
@pytest.mark.parametrize("member", [0, 4])
def test_when_a_member_fails_the_others_go_on(tmp_path, member, generation):
    """Whenever it happens, the failed one trains no more and everybody else trains to the end."""
    trainable = Clear()

    def build(bucket, capacity, place):
        stack = Breaking(capacity)
        stack.breaks = member_seed(1, member), generation * 10
        return stack

    trainable.build = build
    trained = defaultdict(list)

    def look(order, stage):
        for item in order.train:
            trained[item.member].append(item.segment)

    stage = watched(tmp_path, Fixed(), look, trainable=trainable)
    everything = list(range(4))
    assert trained == {m: everything[: generation + 1] if m == member else everything for m in range(5)}
    assert stage.brain.best not in (None, member)
    outcomes = stage.rows("outcomes")
    (failed,) = [row for row in outcomes if row["status"] == "failed"]
    assert (failed["member"], failed["segment"]) == (member, generation)
    assert len(outcomes) == 16 + generation + 1


# --- evaluation and the end

#: One member that is trained, evaluated, and wins.
ALONE = {
    "start": BEGIN[:2],
    "report:0:0": [Evaluate(cause="report:0:0", member=0, split="test")],
    "evaluation:0:0:test": [Finish(cause="evaluation:0:0:test", best=0, reason="best")],
}


def examined(order: WorkOrder, **metrics: float) -> StackReport:
    """The report of a stack that evaluated."""
    found = tuple(
        Examination(member=item.member, split=item.split, age=10, consumed=10, metrics=metrics)
        for item in order.examine
    )
    return StackReport(order=order.id, stack=order.stack, wall_s=1.0, examinations=found)


def done(order: WorkOrder) -> StackReport:
    """The report of a stack that had nothing to train or evaluate."""
    return StackReport(order=order.id, stack=order.stack, wall_s=0.0)


def to_its_end(make_brain):
    """A brain whose one member has won, before anything is saved."""
    brain = make_brain(ALONE)
    brain.start()
    brain.report([ended(brain.orders([0])[0], {0: 0.5})])
    (order,) = brain.orders([0])
    assert (Examine(0, 0, "test"),) == order.examine
    assert ((), ()) == (order.train, order.publish)
    brain.report([examined(order, Q=0.75)])
    return brain


def test_the_winner_is_evaluated_and_announced(make_brain, tmp_path):
    """On the test split; what was found stands in the record before the end does."""
    brain = to_its_end(make_brain)
    last = rows(tmp_path, "metrics")[-1]
    assert (last["split"], last["name"], last["value"], last["consumed"]) == ("test", "Q", 0.75, 10)
    where = {"member": 0, "segment": 0, "split": "test", "age": 10, "consumed": 10}
    assert [where] == rows(tmp_path, "evaluations")
    ended_ = EvaluationEnded(id="evaluation:0:0:test", member=0, split="test", metrics={"Q": 0.75})
    assert brain.script.heard[-1] == ended_
    assert (brain.finished, brain.best) == (True, 0)
    assert [row["kind"] for row in rows(tmp_path, "decisions")] == ["start", "evaluate", "finish"]


def test_a_finished_sweep_is_done_once_its_members_are_saved(make_brain, tmp_path):
    """An order of its own has them published; what is saved is recorded, and its state dropped."""
    brain = to_its_end(make_brain)
    assert not brain.done
    (order,) = brain.orders([0])
    assert WorkOrder(id="order:1:3", stack=0, split="validation", publish=(Publish(0, "0:0"),)) == order
    assert ["0:0"] == brain.shelf.waiting
    about = {"member": 0, "segment": 0, "bucket": "clear", "hparams": {"gain": 1.0, "lr": 0.5}}
    assert about == brain.shelf.told["0:0"]
    brain.shelf.exchange.publish("0:0", make_state(10.0, age=10, consumed=10))
    brain.report([done(order)])
    assert not brain.done
    assert [] == rows(tmp_path, "checkpoints")
    brain.shelf.tell(brain)
    assert brain.done
    (row,) = rows(tmp_path, "checkpoints")
    assert {row["digest"]} == brain.shelf.store.digests()
    assert (0, 0, "saved") == (row["member"], row["segment"], row["status"])
    assert "0:0" not in brain.shelf.exchange
    assert ["work", "work", "saving"] == [row["kind"] for row in rows(tmp_path, "orders")]


def test_saving_may_be_over_before_the_order_is_reported(make_brain):
    """The state is there as soon as it is published; it is dropped once it is both."""
    brain = to_its_end(make_brain)
    (order,) = brain.orders([0])
    brain.shelf.exchange.publish("0:0", make_state(10.0))
    brain.shelf.tell(brain)
    assert (False, []) == (brain.done, brain.shelf.asked("drop"))
    brain.report([done(order)])
    assert (True, ["0:0"]) == (brain.done, brain.shelf.asked("drop"))


def test_what_cannot_be_saved_keeps_nobody(make_brain, tmp_path):
    """The sweep ends all the same, and the record says what was not saved, and why."""
    brain = to_its_end(make_brain)
    (order,) = brain.orders([0])
    brain.shelf.is_full = True
    brain.shelf.exchange.publish("0:0", make_state(10.0))
    brain.report([done(order)])
    brain.shelf.tell(brain)
    assert brain.done
    assert [] == rows(tmp_path, "checkpoints")
    assert [
        {"kind": "checkpoint_failed", "member": 0, "segment": 0, "message": "cannot write: the disk is full."}
    ] == rows(tmp_path, "incidents")
    assert 0 == len(brain.shelf.exchange)


def test_an_end_without_a_winner(make_brain, tmp_path):
    """Is recorded as such, and there is nothing to save."""
    brain = make_brain({"start": [Finish(cause="start", best=None, reason="nobody is left")]})
    brain.start()
    assert (brain.finished, brain.best, brain.done) == (True, None, True)
    (row,) = rows(tmp_path, "decisions")
    assert (row["kind"], row["member"], row["segment"], row["reason"]) == ("finish", None, None, "nobody is left")


@pytest.mark.parametrize("finished", [True, False])
def test_closing_tells_whether_it_came_to_the_end(make_brain, tmp_path, finished):
    """A ledger closed early stays readable and says so."""
    end = [Finish(cause="start", best=None, reason="")]
    brain = make_brain({"start": end if finished else BEGIN})
    brain.start()
    brain.close()
    reader = LedgerReader(tmp_path)
    assert finished is reader.finished
    assert not reader.is_open
    assert (0 if finished else 4) == len(reader.rows()["segments"])


def test_a_sweep_that_is_not_saved_is_not_finished(make_brain, tmp_path):
    """Closed between its end and its last checkpoint, it is taken up again for the sake of that."""
    brain = to_its_end(make_brain)
    brain.close()
    assert not LedgerReader(tmp_path).finished


def test_a_strategy_that_orders_nothing_is_told_of(make_brain, tmp_path):
    """A sweep of which nothing is under way and nothing to be done would wait for ever."""
    silent = make_brain({})
    with pytest.raises(HostError, match="the strategy neither orders anything nor ends the sweep"):
        silent.start()


def test_a_strategy_that_falls_silent_is_told_of(make_brain):
    """At the last report, not before."""
    brain = make_brain()
    brain.start()
    first, second = brain.orders([0, 1])
    brain.report([ended(first, {0: 0.1, 1: 0.2})])
    with pytest.raises(HostError, match="a mistake in it"):
        brain.report([ended(second, {2: 0.1, 3: 0.2})])


# --- donors that are under way

ASYNC = dataclasses.replace(PLAN, synchronous=False)


def second_round(make_brain, answers, plan=ASYNC):
    """A brain whose members all trained on after their first report; the orders, by stack."""
    onward = {f"report:{m}:0": [go_on(m, 20, 1)] for m in range(4)}
    brain = make_brain({"start": BEGIN} | onward | answers, plan)
    brain.start()
    brain.report([ended(order, dict.fromkeys(range(4), 0.5)) for order in brain.orders([0, 1])])
    return brain, {order.stack: order for order in brain.orders([0, 1])}


def test_what_may_be_copied_later_is_kept_at_hand(make_brain):
    """A member that trains on publishes where it stood; that is dropped when it reports again."""
    brain, orders = second_round(make_brain, {"report:3:1": [go_on(0, 30, 2)]})
    assert {Publish(0, "0:0"), Publish(1, "1:0")} == set(orders[0].publish)
    assert {Publish(0, "2:0"), Publish(1, "3:0")} == set(orders[1].publish)
    brain.report([ended(orders[0], {0: 0.1, 1: 0.2})])
    assert {"0:0", "1:0"} == set(brain.shelf.asked("drop"))
    brain.report([ended(orders[1], {2: 0.1, 3: 0.2})])
    assert {"0:0", "1:0", "2:0", "3:0"} == set(brain.shelf.asked("drop"))


def test_a_donor_under_way_is_copied_as_it_reported(make_brain, tmp_path):
    """Its stack is busy and is asked for nothing: the state is at hand, and stays so until the receiver has it."""
    copy = [Copy(cause="report:2:1", donor=0, receiver=2, reason=""), go_on(2, 30, 2, "report:2:1")]
    brain, orders = second_round(make_brain, {"report:2:1": copy, "report:1:1": [go_on(1, 30, 2)]})
    brain.report([ended(orders[1], {2: 0.1, 3: 0.2})])
    (receiving,) = brain.orders([1])
    assert ["0:0"] == [item.token for item in receiving.fetch]
    segment = rows(tmp_path, "segments")[-1]
    assert ((2, 2), (0, 0)) == (
        (segment["member"], segment["segment"]),
        (segment["parent_member"], segment["parent_segment"]),
    )
    assert (10, 20) == (segment["age_start"], segment["consumed_start"])
    brain.report([ended(orders[0], {0: 0.1, 1: 0.2})])
    assert "0:0" not in brain.shelf.asked("drop")
    brain.report([ended(receiving, {2: 0.3})])
    assert 1 == brain.shelf.asked("drop").count("0:0")


#: Member 0 takes over from a member of the other stack, and the others train on.
FROM_ELSEWHERE = {
    "report:0:1": [Copy(cause="report:0:1", donor=2, receiver=0, reason=""), go_on(0, 30, 2, "report:0:1")],
    **{f"report:{member}:1": [go_on(member, 30, 2, f"report:{member}:1")] for member in (1, 2, 3)},
}


def parents(run):
    """From what each segment begins: parent, its segment, and the age."""
    return {
        (row["member"], row["segment"]): (row["parent_member"], row["parent_segment"], row["age_start"])
        for row in rows(run, "segments")
    }


def test_a_donor_of_another_stack_whose_report_is_in_the_same_batch_is_copied_as_it_was_told(make_brain, tmp_path):
    """The strategy has not heard of the donor's second report when it decides, so the first is meant."""
    brain, orders = second_round(make_brain, FROM_ELSEWHERE)
    brain.report([ended(orders[stack], dict.fromkeys(range(4), 0.1)) for stack in (0, 1)])
    (order,) = brain.orders([0])
    assert ((), ["2:0"]) == (order.copy, [item.token for item in order.fetch])
    found = parents(tmp_path)
    assert {(0, 2): (2, 0, 10), (2, 2): (2, 1, 20)} == {key: found[key] for key in ((0, 2), (2, 2))}
    assert "2:0" not in brain.shelf.asked("drop")
    brain.report([ended(order, {0: 0.1, 1: 0.2})])
    assert "2:0" in brain.shelf.asked("drop")


def test_a_donor_of_the_same_stack_that_reported_too_is_copied_as_it_stands(make_brain, tmp_path):
    """The strategy has heard of both when it decides: the donor is at rest, and is copied on the device."""
    copy = [Copy(cause="report:0:1", donor=1, receiver=0, reason=""), go_on(0, 30, 2, "report:0:1")]
    brain, orders = second_round(make_brain, {"report:0:1": copy, "report:1:1": [go_on(1, 30, 2, "report:1:1")]})
    brain.report([ended(orders[0], {0: 0.1, 1: 0.2})])
    (order,) = brain.orders([0])
    assert (((1, 0),), ()) == (order.copy, order.fetch)
    assert (1, 1, 20) == parents(tmp_path)[0, 2]


def test_two_that_take_over_from_each_other_change_places(make_brain, tmp_path):
    """Each gets what the other was: the stack reads both before it writes."""
    answers = {f"report:{m}:1": [Copy(cause="c", donor=1 - m, receiver=m, reason=""), go_on(m, 30, 2)] for m in (0, 1)}
    brain, orders = second_round(make_brain, answers)
    brain.report([ended(orders[0], {0: 0.1, 1: 0.2})])
    (order,) = brain.orders([0])
    assert ({(0, 1), (1, 0)}, ()) == (set(order.copy), order.fetch)
    found = parents(tmp_path)
    assert {(0, 2): (1, 1, 20), (1, 2): (0, 1, 20)} == {key: found[key] for key in ((0, 2), (1, 2))}


def test_a_neighbour_that_was_told_to_train_on_is_copied_on_the_device(make_brain, tmp_path):
    """As long as it has not begun, its slot holds what it reported."""
    copy = [Copy(cause="report:1:1", donor=0, receiver=1, reason=""), go_on(1, 30, 2, "report:1:1")]
    brain, orders = second_round(make_brain, {"report:0:1": [go_on(0, 30, 2, "report:0:1")], "report:1:1": copy})
    brain.report([ended(orders[0], {0: 0.1, 1: 0.2})])
    (order,) = brain.orders([0])
    assert (((0, 1),), ()) == (order.copy, order.fetch)
    segment = rows(tmp_path, "segments")[-1]
    assert (1, 0, 1) == (segment["member"], segment["parent_member"], segment["parent_segment"])


def test_a_strategy_that_copies_who_is_under_way_must_say_so(make_brain):
    """Otherwise the state is at hand no more; what is wrong is said, and the mend."""
    copy = [Copy(cause="report:2:1", donor=0, receiver=2, reason=""), go_on(2, 30, 2)]
    brain, orders = second_round(make_brain, {"report:2:1": copy}, PLAN)
    with pytest.raises(HostError, match=r"member 0, which is under way\. Set `synchronous = False`"):
        brain.report([ended(orders[1], {2: 0.1, 3: 0.2})])


def rebuilt(make_brain, brain, answers, plan=ASYNC):
    """The process died: another brain on the same ledger, all states brought back; its orders, by stack."""
    brain.abandon()
    onward = {f"report:{m}:0": [go_on(m, 20, 1)] for m in range(4)}
    again = make_brain({"start": BEGIN} | onward | answers, plan, again=True)
    again.start()
    orders = again.orders([0, 1])
    while "recovery" in {row["kind"] for row in rows(again.shelf.run, "orders")[-len(orders) :]}:
        again.report([done(order) for order in orders])
        orders = again.orders([0, 1])
    return again, {order.stack: order for order in orders}


def test_a_brain_that_is_built_again_copies_a_donor_as_it_was_told_then(make_brain):
    """The donor's second report is known by now; what is copied is its first, which is brought back too."""
    brain, orders = second_round(make_brain, FROM_ELSEWHERE)
    brain.report([ended(orders[stack], dict.fromkeys(range(4), 0.1)) for stack in (0, 1)])
    again, orders = rebuilt(make_brain, brain, FROM_ELSEWHERE)
    assert ((), ["2:0"]) == (orders[0].copy, [item.token for item in orders[0].fetch])
    assert "2:0" not in again.shelf.asked("drop")
    again.report([ended(orders[0], {0: 0.1, 1: 0.2})])
    assert "2:0" in again.shelf.asked("drop")


def test_every_slot_reads_for_itself(make_brain):
    """Two neighbours took the same state; that one of them is through with it says nothing of the other."""
    answers = {
        f"report:{member}:1": [Copy(cause="c", donor=2, receiver=member, reason=""), go_on(member, 30, 2)]
        for member in (0, 1)
    }
    answers["report:0:2"] = [Copy(cause="c", donor=2, receiver=0, reason=""), go_on(0, 40, 3)]
    answers["report:1:2"] = [go_on(1, 40, 3)]
    answers["report:3:1"] = [go_on(3, 30, 2)]
    brain, orders = second_round(make_brain, answers)
    brain.report([ended(orders[0], {0: 0.1, 1: 0.2})])
    (both,) = brain.orders([0])
    assert ["2:0", "2:0"] == [item.token for item in both.fetch]
    brain.report([ended(both, {0: 0.1, 1: 0.2})])
    again, orders = rebuilt(make_brain, brain, answers)
    assert ["2:0"] == [item.token for item in orders[0].fetch]
    again.report([ended(orders[1], {2: 0.1, 3: 0.2})])
    assert "2:0" not in again.shelf.asked("drop")
    again.report([ended(orders[0], {0: 0.1, 1: 0.2})])
    assert "2:0" in again.shelf.asked("drop")


# --- what is recorded besides


def test_who_took_the_sweep_up_is_on_record(make_brain, tmp_path):
    """A row for each session with all that is known of it, and one for each of its stacks."""
    session = Session(
        reason="start",
        software={"torch": "2.5"},
        hardware={"gpu": "H100"},
        git_commit="abc",
        spec={"name": "toy"},
        place={"device": "cpu", "dtype": "float64", "compile": "never", "rng": "philox"},
    )
    brain = make_brain(plan=dataclasses.replace(PLAN, session=session))
    brain.start()
    brain.orders([0])
    assert [
        {
            "session": 1,
            "reason": "start",
            "software": '{"torch":"2.5"}',
            "hardware": '{"gpu":"H100"}',
            "git_commit": "abc",
            "spec": '{"name":"toy"}',
        }
    ] == rows(tmp_path, "sessions")
    place = {"device": "cpu", "dtype": "float64", "compile": "never", "rng": "philox"}
    common = {"session": 1, "capacity": 2, "bucket": "clear"} | place
    assert [common | {"stack": 0}, common | {"stack": 1}] == rows(tmp_path, "stacks")


def test_what_a_session_has_used_is_on_record(make_brain, tmp_path):
    """With every report that trained: time by the clock, stacks' time and energy summed, and tokens."""
    brain = make_brain({"start": BEGIN, "report:3:0": [go_on(3, 20, 1)]})
    brain.start()
    first, second = brain.orders([0, 1])
    brain.clock.now += 5.0
    brain.report([ended(first, {0: 0.1, 1: 0.2}, wall_s=2.0, joules=8.0)])
    brain.clock.now += 1.0
    brain.report([ended(second, {2: 0.1, 3: 0.2}, wall_s=3.0, joules=1.0)])
    assert [
        {"session": 1, "wall_s": 5.0, "device_s": 2.0, "joules": 8.0, "tokens": 140},
        {"session": 1, "wall_s": 6.0, "device_s": 5.0, "joules": 9.0, "tokens": 280},
    ] == rows(tmp_path, "usage")


def test_what_nodes_do_is_on_record(make_brain, tmp_path):
    """As the first report of each tells; that of a node told of a moment ago is let go."""
    brain = make_brain({"start": BEGIN, "report:3:0": [go_on(3, 20, 1)]})
    brain.start()
    first, second = brain.orders([0, 1])
    brain.clock.now += 5.0
    brain.report([ended(first, {0: 0.1, 1: 0.2}, nodes=(NodeReading(node="a", values={"x": 3.0}),))])
    other = (NodeReading(node="a", values={"x": 9.0}), NodeReading(node="b", values={"x": 4.0}))
    brain.clock.now += 1.0
    brain.report([ended(second, {2: 0.1, 3: 0.2}, nodes=other)])
    assert [
        {"session": 1, "node": 0, "name": "x", "value": 3.0, "wall_s": 5.0},
        {"session": 1, "node": 1, "name": "x", "value": 4.0, "wall_s": 6.0},
    ] == rows(tmp_path, "nodes")


def test_energy_that_is_not_read_is_not_known(make_brain, tmp_path):
    """One report without it, and the sum is none."""
    brain = make_brain({"start": BEGIN, "report:3:0": [go_on(3, 20, 1)]})
    brain.start()
    first, second = brain.orders([0, 1])
    brain.report([ended(first, {0: 0.1, 1: 0.2}, joules=8.0), ended(second, {2: 0.1, 3: 0.2})])
    (row,) = rows(tmp_path, "usage")
    assert row["joules"] is None
    assert [4.0, 4.0, None, None] == [row["joules"] for row in rows(tmp_path, "outcomes")]


# --- checkpoints


def test_members_are_saved_while_they_train_on(tmp_path):
    """At the ends of segments, once they are due: by the next order, or one of its own where the stack has to wait."""
    checkpoints = Checkpoints(every_steps=20, every_minutes=None)
    stage = Stage(new_run(tmp_path), Fixed(), generations=5, checkpoints=checkpoints).play()
    saving = [order for order in stage.released if order.publish]
    trained = [{item.segment for item in order.train} for order in saving]
    assert [set(), {2}, set(), {4}, set(), set()] == trained
    assert [{"1"}, {"1"}, {"3"}, {"3"}, {"4"}, {"4"}] == [
        {item.token.split(":")[1] for item in order.publish} for order in saving
    ]
    for row in stage.rows("checkpoints"):
        if row["status"] == "saved" and row["digest"] in stage.shelf.store.digests():
            state = stage.shelf.store.load(row["digest"])
            assert 10 * (row["segment"] + 1) == state.consumed == state.age


def test_what_was_to_be_remembered_is_what_the_state_was_trained_with(tmp_path):
    """Not what its owner was told to change to after."""
    stage = Stage(new_run(tmp_path), PBT(quantile=0.5), checkpoints=Checkpoints(every_steps=10)).play()
    held = {(row["member"], row["segment"]): row["hparams_in_effect"] for row in stage.rows("outcomes")}
    assert 12 == len(stage.shelf.told)
    for about in stage.shelf.told.values():
        assert json.loads(held[about["member"], about["segment"]]) == about["hparams"]


def test_a_checkpoint_is_recorded_as_removed_before_its_file_goes(tmp_path):
    """So that a file on record is there, whenever the process dies."""
    stage = Stage(new_run(tmp_path), Fixed(), generations=9, checkpoints=Checkpoints(every_steps=10, keep=1))
    remove, removed = stage.shelf.remove, []

    def look(digest):
        gone = {row["digest"] for row in stage.rows("checkpoints") if row["status"] == "removed"}
        assert digest in gone
        removed.append(digest)
        remove(digest)

    stage.shelf.remove = look
    stage.play()
    assert 4 * 8 == len(removed)
    last = {row["member"]: row["digest"] for row in stage.rows("checkpoints") if row["status"] == "saved"}
    assert set(last.values()) == stage.shelf.store.digests()


@pytest.mark.parametrize("every_steps", [10, 20, None])
def test_members_are_saved_while_their_stack_waits_for_others(tmp_path, every_steps):
    """At the end of their segment: the other stack may have the host for hours. Those who are not due are not."""
    options = Checkpoints(every_steps=every_steps, every_minutes=None if every_steps else 5.0)
    stage = Stage(new_run(tmp_path), PBT(quantile=0.4), members=4, generations=4, checkpoints=options)
    stage.take()
    stage.do(0)
    saving = stage.take([0])
    stage.shelf.tell(stage.brain)
    if every_steps == 10:
        (order,) = saving
        assert ({"0:0", "1:0"}, ()) == ({item.token for item in order.publish}, order.train)
        stage.do(0)
        assert [] == stage.take([0])
        assert 2 == len(stage.rows("checkpoints"))
    else:
        assert [] == saving
    stage.play()
    assert is_sound(stage)
    assert Stage(new_run(tmp_path), PBT(quantile=0.4), members=4, generations=4).play().digest() == stage.digest()


def test_checkpoints_are_removed_while_the_sweep_goes_on(tmp_path):
    """There are never more than three times as many as are to be kept, however long it takes."""
    stage = Stage(new_run(tmp_path), Fixed(), members=2, generations=40, checkpoints=Checkpoints(every_steps=10))
    most = 0
    while not stage.brain.done:
        stage.turn()
        most = max(most, len(stage.shelf.store.digests()))
    stage.brain.close()
    assert 2 * 2 * 2 + 1 >= most
    assert 2 * 2 == len(stage.shelf.store.digests())


def test_a_disk_that_is_full_for_a_while_stops_nobody(tmp_path):
    """Training goes on, what was not saved is told, and saved as soon as there is room."""
    reference = Stage(new_run(tmp_path), PBT(quantile=0.5)).play()
    stage = Stage(new_run(tmp_path), PBT(quantile=0.5), checkpoints=Checkpoints(every_steps=10))
    stage.shelf.is_full = True
    while len(stage.rows("incidents")) < 5:
        stage.turn()
    stage.shelf.is_full = False
    stage.play()
    assert reference.digest() == stage.digest()
    assert {"checkpoint_failed"} == {row["kind"] for row in stage.rows("incidents")}
    assert {"cannot write: the disk is full."} == {row["message"] for row in stage.rows("incidents")}
    saved = {(row["member"], row["segment"]) for row in stage.rows("checkpoints") if row["status"] == "saved"}
    assert {(member, 2) for member in range(4)} <= saved
    assert 0 == len(stage.shelf.exchange)


# --- hosts that are lost


def turns(tmp_path, options, **sweep):
    """How many turns the sweep takes, and its digest, if nothing goes wrong."""
    stage, count = Stage(new_run(tmp_path), options, **sweep), 0
    while not stage.brain.done:
        stage.turn()
        count += 1
    stage.brain.close()
    return count, stage.digest()


def is_sound(stage):
    """Whether nothing was recorded twice, every weight is what its ancestry makes it, and nothing is left over."""
    outcomes = {(row["member"], row["segment"]): row for row in stage.rows("outcomes")}
    assert len(outcomes) == len(stage.rows("outcomes"))
    for row in stage.rows("segments"):
        parent = outcomes.get((row["parent_member"], row["parent_segment"]), {"score": 0.0, "age_end": 0})
        end = outcomes[row["member"], row["segment"]]
        gained = json.loads(row["hparams"])["gain"] * (end["age_end"] - parent["age_end"])
        kept = json.loads(row["shrink"])["keep"] if row.get("shrink") else 1.0  # new weights are 0
        assert math.isclose(kept * parent["score"] + gained, end["score"])
    assert "differs" not in {row["kind"] for row in stage.rows("incidents")}
    assert 0 == len(stage.shelf.exchange)
    return True


def disturbed(tmp_path, at_work, checkpoints, disturb):
    """Sweeps that were disturbed, each a turn later than the one before, and ended as one that was left alone."""
    sweep = {"members": 5, "generations": 3, "seed": 2, "checkpoints": checkpoints}
    options = PBT(quantile=0.4)
    count, digest = turns(tmp_path, options, **sweep)
    for moment in range(count):
        stage = Stage(new_run(tmp_path), options, **sweep)
        for _ in range(moment):
            stage.turn()
        if at_work:
            stage.take()
        disturb(stage)
        stage.play()
        assert digest == stage.digest()
        assert is_sound(stage)
        yield stage


@pytest.mark.parametrize("checkpoints", [Checkpoints(every_steps=10), Checkpoints(every_minutes=None)], ids=str)
@pytest.mark.parametrize("at_work", [False, True], ids=["idle", "at-work"])
@pytest.mark.parametrize("lost", [(0,), (1,), (0, 1)], ids=str)
def test_what_a_lost_host_held_is_trained_again(tmp_path, lost, at_work, checkpoints):
    """Whenever it happens, with or without checkpoints, the sweep ends as if it had not."""
    for stage in disturbed(tmp_path, at_work, checkpoints, lambda stage: stage.lose(*lost)):
        told = [(row["stack"], row["message"]) for row in stage.rows("incidents") if row["kind"] == "host_lost"]
        assert [(stack, "the node is gone") for stack in lost] == told


def test_members_of_one_stack_copy_each_other_as_they_stand(tmp_path):
    """All end at once: every donor is copied where it stands, on the device, and nothing is kept for others."""
    for seed in range(5):
        options = PBT(quantile=0.25, synchronous=False)
        stage = Stage(new_run(tmp_path), options, members=8, generations=10, stacks=1, seed=seed)
        assert stage.play().brain.best is not None
        assert is_sound(stage)
        copied = [row for row in stage.rows("segments") if row["start"] == "copied"]
        assert len(copied) > 9
        assert all(row["parent_segment"] == row["segment"] - 1 for row in copied)
        assert {()} == {order.fetch for order in stage.released}
        assert {()} == {order.publish for order in stage.released if order.train}


@pytest.mark.parametrize("at_work", [False, True], ids=["idle", "at-work"])
@pytest.mark.parametrize("moved", [(0,), (1,), (0, 1)], ids=str)
def test_a_stack_that_is_moved_loses_nothing(tmp_path, moved, at_work):
    """Whenever it is asked for: what it does is ended first, and its members are saved; nothing is trained again."""
    moments = 0
    for stage in disturbed(tmp_path, at_work, Checkpoints(every_minutes=None), lambda stage: stage.move(*moved)):
        moments += 1
        recovery = [order for order in stage.rows("orders") if order["kind"] == "recovery"]
        assert {"[]"} >= {order["segments"] for order in recovery}
        told = [(row["stack"], row["message"]) for row in stage.rows("incidents") if row["kind"] == "moved"]
        ended = {(stack, "there is more room elsewhere") for stack in set(moved) - stage.leaving}
        assert ended == set(told)
        assert len(told) == len(ended)
    assert moments > 6


@pytest.mark.parametrize("synchronous", [True, False], ids=["sync", "async"])
@pytest.mark.parametrize("moment", range(12))
def test_orders_that_are_given_back_are_given_again(tmp_path, moment, synchronous):
    """Where the stack is built next, with all that they publish; what was recovered goes on being so."""
    options = PBT(quantile=0.4, synchronous=synchronous)
    sweep = {"members": 5, "generations": 5, "checkpoints": Checkpoints(every_steps=20)}
    stage = Stage(new_run(tmp_path), options, **sweep)
    for turn in range(moment):
        if turn == 5:
            stage.lose(1)
        stage.turn(max if moment % 2 else min)
    stage.take()
    stage.forgo(*stage.taken)
    stage.move(0)
    stage.play()
    assert is_sound(stage)
    assert "moved" in [row["kind"] for row in stage.rows("incidents")]
    if synchronous:
        assert Stage(new_run(tmp_path), options, **sweep).play().digest() == stage.digest()


def test_an_order_that_was_answered_cannot_be_given_back(tmp_path):
    """Nor one that was given up before: nothing changes."""
    stage = Stage(new_run(tmp_path), PBT(quantile=0.4))
    (order, _) = stage.take()
    stage.do(order.stack)
    stage.brain.forgo([(order.stack, order.id)])
    stage.play()
    assert is_sound(stage)


@pytest.mark.parametrize("synchronous", [True, False], ids=["sync", "async"])
@pytest.mark.parametrize("moment", range(12))
def test_a_sweep_that_is_to_stop_does_not_wait_for_what_is_not_begun(tmp_path, moment, synchronous):
    """A host may have eight stacks, and have begun with the first. All is saved, and goes on as if nothing had been."""
    options = PBT(quantile=0.4, synchronous=synchronous)
    sweep = {"members": 5, "generations": 5, "checkpoints": Checkpoints(every_steps=20)}
    run = new_run(tmp_path)
    stage = Stage(run, options, **sweep)
    for turn in range(moment):
        if turn == 5:
            stage.lose(1)
        stage.turn(max if moment % 2 else min)
    stage.take()
    trained = len(stage.rows("outcomes"))
    stage.brain.stop()
    stage.forgo(*stage.taken)
    stage.play()
    assert trained == len(stage.rows("outcomes"))
    assert not stage.brain.finished
    again = Stage(run, options, **sweep).play()
    assert is_sound(again)
    assert again.brain.finished
    assert "recovering" not in [row["kind"] for row in again.rows("incidents")][len(stage.rows("incidents")) :]
    if synchronous:
        assert Stage(new_run(tmp_path), options, **sweep).play().digest() == again.digest()


def test_a_stack_whose_members_cannot_be_saved_is_moved_all_the_same(tmp_path):
    """It is tried once; then what was lost is trained again."""
    sweep = {"members": 4, "generations": 3, "checkpoints": Checkpoints(every_minutes=None)}
    _, digest = turns(tmp_path, PBT(), **sweep)
    stage = Stage(new_run(tmp_path), PBT(), **sweep)
    for _ in range(3):
        stage.turn()
    stage.shelf.is_full = True
    stage.move(0)
    stage.play()
    assert digest == stage.digest()
    kinds = [row["kind"] for row in stage.rows("incidents")]
    assert kinds.index("checkpoint_failed") < kinds.index("moved") < kinds.index("recovered")


@pytest.mark.parametrize("again", [(0,), (1,), (0, 1)], ids=str)
@pytest.mark.parametrize("first", [(0,), (0, 1)], ids=str)
def test_a_recovery_may_be_interrupted(tmp_path, first, again):
    """By the loss of a stack that takes part, or another: it begins again with all of them."""
    sweep = {"members": 5, "generations": 3, "seed": 2, "checkpoints": Checkpoints(every_minutes=None)}
    options = PBT(quantile=0.4)
    count, digest = turns(tmp_path, options, **sweep)
    for later in range(4):
        stage = Stage(new_run(tmp_path), options, **sweep)
        for _ in range(count - 3):
            stage.turn()
        stage.lose(*first)
        for _ in range(later):
            stage.turn(max)
        stage.take()
        stage.lose(*again)
        stage.play()
        assert digest == stage.digest()
        assert is_sound(stage)


@pytest.mark.parametrize("synchronous", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_lost_the_record_is_sound(tmp_path, seed, synchronous):
    """Stacks in any order, lost or moved at any time, in any number; a disk that is full now and then."""
    rng, options = random.Random(seed), PBT(quantile=0.5, synchronous=synchronous)
    members = rng.randint(2, 7)
    sweep = {"members": members, "generations": 4, "seed": seed, "stacks": rng.randint(1, min(3, members))}
    sweep["checkpoints"] = rng.choice([Checkpoints(every_steps=20, keep=1), Checkpoints(every_minutes=None)])
    stage = Stage(new_run(tmp_path), options, **sweep)
    for _ in range(40):
        happens = rng.random()
        if happens < 0.15 and not stage.brain.done:
            stage.lose(*rng.sample(range(sweep["stacks"]), rng.randint(1, sweep["stacks"])))
        elif happens < 0.2:
            stage.shelf.is_full = not stage.shelf.is_full
        elif happens < 0.3 and not stage.brain.done:
            stage.move(rng.randrange(sweep["stacks"]))
        elif not stage.brain.done:
            stage.turn(rng.choice)
    stage.play(rng.choice)
    assert is_sound(stage)
    assert stage.brain.best is not None
    if synchronous:
        assert turns(tmp_path, options, **sweep)[1] == stage.digest()


def test_a_lost_recovery_says_what_it_came_to(tmp_path):
    """What was loaded and what was trained again, for people."""
    stage = Stage(new_run(tmp_path), Fixed(), members=4, generations=3, checkpoints=Checkpoints(every_steps=20))
    while len(stage.rows("outcomes")) < 12:
        stage.turn()
    stage.lose(0)
    stage.play()
    assert ["2 states loaded from checkpoints, 2 segments trained again"] == [
        row["message"] for row in stage.rows("incidents") if row["kind"] == "recovered"
    ]


def test_training_again_that_gives_something_else_is_told(tmp_path):
    """A machine that does not compute the same bits: the sweep goes on, and the record says so."""
    stage = Stage(new_run(tmp_path), Fixed(), members=2, generations=3, checkpoints=Checkpoints(every_minutes=None))
    while len(stage.rows("outcomes")) < 2:
        stage.turn()
    build = stage.trainable.build

    def build_other(*arguments):
        stack = build(*arguments)
        evaluate = stack.evaluate
        stack.evaluate = lambda split, slots: {"Q": evaluate(split, slots)["Q"] + 1.0}
        return stack

    stage.trainable.build = build_other
    stage.lose(0)
    stage.play()
    (row,) = [row for row in stage.rows("incidents") if row["kind"] == "differs"]
    assert (0, 0) == (row["member"], row["segment"])
    assert "this machine does not compute the same bits" in row["message"]
    score = next(row["score"] for row in stage.rows("outcomes") if (row["member"], row["segment"]) == (0, 0))
    assert f"it scored {score + 1.0!r} instead of {score!r}" in row["message"]


def test_an_order_that_was_given_up_is_answered_in_vain(tmp_path):
    """The host was thought lost, and reports all the same: what it held is trained by another already."""
    stage = Stage(new_run(tmp_path), Fixed(), members=2)
    stage.take()
    late = stage.carry_out(0)
    stage.lose(0)
    stage.brain.report([late])
    assert [] == stage.rows("outcomes")
    stage.play()
    assert is_sound(stage)


def test_what_a_stack_was_told_meanwhile_is_not_forgotten_when_it_is_lost(make_brain):
    """An order at work and what has been decided since are both given again."""
    onward = {"report:3:0": [go_on(1, 10), Evaluate(cause="c", member=0, split="validation")]}
    brain = make_brain({"start": [*BEGIN[:2], BEGIN[2], *ELSEWHERE]} | onward)
    brain.start()
    first, second = brain.orders([0, 1])
    assert [0] == [item.member for item in first.train]
    brain.report([ended(second, {3: 0.1})])
    brain.lost([0], "gone")
    (again,) = brain.orders([0])
    assert {0, 1} == {item.member for item in again.train}
    assert {0, 1} == {item.slot for item in again.admit}
    assert (Examine(0, 0, "validation"),) == again.examine


@pytest.mark.parametrize("cause", [{}, {"is_memory": True}, {"is_lasting": True}], ids=str)
@pytest.mark.parametrize("has_trained", [False, True])
def test_a_stack_that_cannot_be_built_ends_the_sweep_only_if_it_never_will(make_brain, tmp_path, cause, has_trained):
    """Where others trained, or the device may be to blame, it is tried again; what was raised is kept in any case."""
    brain = make_brain({"start": [*BEGIN[:2], BEGIN[2], *ELSEWHERE]})
    brain.start()
    if has_trained:
        brain.report([ended(brain.orders([1])[0], {3: 0.1})])
    trouble = Trouble(message="ValueError: no such layer", traceback="line 3, in make", **cause)
    if has_trained or cause:
        brain.unbuilt(0, trouble)
    else:
        with pytest.raises(HostError, match="stack 0 could not be built: ValueError: no such layer") as caught:
            brain.unbuilt(0, trouble)
        assert ["line 3, in make"] == caught.value.__notes__
    (incident,) = rows(tmp_path, "incidents")
    assert ("exception", 0) == (incident["kind"], incident["stack"])
    assert incident["message"].endswith("line 3, in make")


def test_a_host_that_waits_in_vain_is_told_so(make_brain):
    """The stack that was to publish is lost: whoever waits for it forgets its order, and is given it again."""
    copy = Copy(cause="c", donor=0, receiver=3, reason="")
    brain, orders = decided(make_brain, copy, *(go_on(m, 20, 1) for m in (0, 3)))
    assert brain.is_to_wait(1, orders[1].id, "0:0")
    brain.lost([0], "gone")
    assert not brain.is_to_wait(1, orders[1].id, "0:0")
    assert not brain.is_to_wait(1, orders[1].id, "0:0")
    recovered = []
    while not recovered or not recovered[-1].fetch:
        assert [] == brain.orders([1])
        recovered += brain.orders([0])
        brain.report([done(recovered[-1])])
    donor, receiver = brain.orders([0, 1])
    assert orders[0].publish == donor.publish
    assert dataclasses.replace(orders[1], id=receiver.id) == receiver
    assert brain.is_to_wait(receiver.stack, receiver.id, "0:0")


@pytest.mark.parametrize("synchronous", [True, False], ids=["sync", "async"])
@pytest.mark.parametrize("lost", [(0,), (1,), (0, 1), ()], ids=str)
@pytest.mark.parametrize("moment", range(12))
@pytest.mark.parametrize("seed", [0, pytest.param(3, marks=pytest.mark.full)])
def test_states_may_be_lost_with_who_published_them(tmp_path, seed, moment, lost, synchronous):
    """They are brought back for those who were to read them, wherever these are with their orders.

    Also where the host that is lost has no stack any more.
    """
    options = PBT(quantile=0.4, synchronous=synchronous)
    sweep = {"members": 5, "generations": 4, "seed": seed, "checkpoints": Checkpoints(every_steps=20)}
    stage = Stage(new_run(tmp_path), options, **sweep)
    for _ in range(moment):
        stage.turn(max if moment % 2 else min)
    stage.take()
    if lost:
        stage.lose(*lost, with_states=True)
    else:
        stage.lose_states()
    stage.play()
    assert is_sound(stage)
    assert stage.brain.finished
    if synchronous:
        assert Stage(new_run(tmp_path), options, **sweep).play().digest() == stage.digest()


@pytest.mark.parametrize("synchronous", [True, False], ids=["sync", "async"])
@pytest.mark.parametrize("lost", [(0,), (1,), (0, 1)], ids=str)
@pytest.mark.parametrize("moment", range(2, 10))
def test_states_may_be_lost_before_they_are_saved(tmp_path, moment, lost, synchronous):
    """Then they are not, which is on record; nobody waits for them, neither the end nor a stack that is to be moved."""
    options = PBT(quantile=0.4, synchronous=synchronous)
    stage = Stage(new_run(tmp_path), options, members=5, generations=4, checkpoints=Checkpoints(every_steps=10))
    stage.shelf.is_slow = True
    for _ in range(moment):
        stage.turn(max if moment % 2 else min)
    stage.take()
    to_save = [token for token in stage.shelf.waiting if stage.publisher[token] in lost]
    ordered = {item.token for order in stage.taken.values() if order.stack in lost for item in order.publish}
    stage.lose(*lost, with_states=True)
    stage.shelf.is_slow = False
    stage.move(0, 1)
    stage.play()
    assert is_sound(stage)
    assert stage.brain.finished
    incidents = [row for row in stage.rows("incidents") if row["kind"] == "checkpoint_failed"]
    failed = {f"{row['member']}:{row['segment']}" for row in incidents}
    assert failed == set(stage.shelf.asked("withdraw"))
    assert failed == set(to_save) - ordered
    assert "moved" in [row["kind"] for row in stage.rows("incidents")]


# --- stopping


def stopped_at(tmp_path, moment, options, at_work, **sweep):
    """A sweep that was asked to stop after so many turns, and has stopped."""
    stage = Stage(new_run(tmp_path), options, **sweep)
    for _ in range(moment):
        stage.turn()
    if at_work:
        stage.take()
    stage.brain.stop()
    begun = [order for order in stage.released if order.train]
    stage.play()
    assert begun == [order for order in stage.released if order.train]
    return stage


@pytest.mark.parametrize("options", [PBT(quantile=0.4), PBT(quantile=0.4, synchronous=False)], ids=["sync", "async"])
@pytest.mark.parametrize("at_work", [False, True], ids=["idle", "at-work"])
@pytest.mark.parametrize("checkpoints", [Checkpoints(every_steps=10), Checkpoints(every_minutes=None)], ids=str)
def test_a_sweep_that_is_stopped_saves_everybody_and_trains_no_more(tmp_path, checkpoints, at_work, options):
    """Whenever it is stopped: segments under way are finished, and every living member is saved where it stands."""
    sweep = {"members": 5, "generations": 3, "seed": 2, "checkpoints": checkpoints}
    count, _ = turns(tmp_path, options, **sweep)
    for moment in range(count):
        stage = stopped_at(tmp_path, moment, options, at_work, **sweep)
        reader = LedgerReader(stage.run)
        ends = {row["member"]: row["segment"] for row in stage.rows("outcomes")}
        saved = {(row["member"], row["segment"]) for row in stage.rows("checkpoints") if row["status"] == "saved"}
        assert set(ends.items()) <= saved
        assert reader.finished is stage.brain.finished
        assert not reader.is_open


@pytest.mark.parametrize("checkpoints", [Checkpoints(every_steps=10), Checkpoints(every_minutes=None)], ids=str)
@pytest.mark.parametrize("moment", range(5))
def test_a_host_may_be_lost_while_the_sweep_stops(tmp_path, moment, checkpoints):
    """What it held is trained again, to be saved; what it was to save, too."""
    sweep = {"members": 5, "generations": 3, "seed": 2, "checkpoints": checkpoints}
    for stack in (0, 1):
        stage = Stage(new_run(tmp_path), PBT(quantile=0.4), **sweep)
        for _ in range(moment):
            stage.turn()
        stage.take()
        stage.brain.stop()
        stage.lose(stack)
        stage.play()
        ends = {row["member"]: row["segment"] for row in stage.rows("outcomes")}
        saved = {(row["member"], row["segment"]) for row in stage.rows("checkpoints") if row["status"] == "saved"}
        assert set(ends.items()) <= saved


def test_stopping_twice_is_stopping_once(tmp_path):
    """The second request finds it stopping."""
    stage = Stage(new_run(tmp_path), Fixed())
    stage.turn()
    stage.brain.stop()
    stage.brain.stop()
    stage.play()
    stage.brain.stop()
    assert stage.brain.done
    saved = [(row["member"], row["segment"]) for row in stage.rows("checkpoints")]
    assert len(saved) == len(set(saved))


def test_stopping_after_the_end_changes_nothing(tmp_path):
    """A sweep that has finished, and is saving, has finished."""
    stage = Stage(new_run(tmp_path), Fixed())
    while not stage.brain.finished:
        stage.turn()
    stage.brain.stop()
    stage.play()
    assert LedgerReader(stage.run).finished


def test_a_host_that_is_lost_when_its_members_are_saved_is_not_missed(tmp_path):
    """At the end of a sweep nothing is trained again for nothing."""
    stage = Stage(new_run(tmp_path), Fixed(), checkpoints=Checkpoints(every_minutes=None))
    while not stage.brain.finished:
        stage.turn()
    stage.take([0])
    stage.do(0)
    stage.shelf.tell(stage.brain)
    assert [0, 1] == [row["member"] for row in stage.rows("checkpoints")]
    stage.take([1])
    stage.lose(0)
    begun = len(stage.released)
    stage.play()
    assert [] == stage.released[begun:]
    assert {0, 1, 2, 3} == {row["member"] for row in stage.rows("checkpoints")}
