"""How a host carries out orders: publish, then change, verify, train and evaluate."""

import math
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt.runtime import orders as orders_module
from pbt.runtime.exchange import LocalExchange
from pbt.runtime.orders import (
    Admit,
    Examine,
    Fetch,
    Publish,
    Reading,
    SegmentResult,
    Train,
    WorkOrder,
    attempt,
    mismatch,
    publish,
)
from tests.examples import examples
from tests.runtime.miniature import ClearStack, in_time, weight_of


def make_stack(number, journal, weights, **options):
    """A stack whose members weigh this much and have trained 10 steps."""
    stack = ClearStack(len(weights), number, journal, **options)
    for slot, weight in enumerate(weights):
        stack.admit(slot, {"gain": 1.0}, seed=10 * number + slot)
        stack.seats[slot].weight, stack.seats[slot].age, stack.seats[slot].consumed = weight, 10, 10
    journal.clear()
    return stack


def train(slot, member, until=20, segment=1, **hparams):
    return Train(slot, member, segment, until, {"gain": 1.0, "lr": 0.5} | hparams)


def perform(stacks, orders, exchange, telemetry=None):
    """As a host does that is given all of them together."""
    for order in orders:
        publish(stacks[order.stack], order, exchange)
    found = [attempt(stacks[order.stack], order, exchange, telemetry) for order in orders]
    return [report for report in found if report is not None]


@pytest.fixture
def journal():
    return []


def test_an_order_is_carried_out_in_the_order_of_its_parts(journal):
    """Publish, copy, fetch, admit, set, read back, train, evaluate, examine; whatever slots they speak of."""
    stack = make_stack(0, journal, [1.0, 2.0, 3.0, 4.0])
    exchange = LocalExchange()
    exchange.publish("9:9", make_stack(1, [], [50.0]).state(0))
    order = WorkOrder(
        id="o",
        stack=0,
        split="validation",
        publish=(Publish(1, "1:0"),),
        copy=((0, 1),),
        fetch=(Fetch(2, "9:9", {"gain": 2.0}, 32, 10),),
        admit=(Admit(3, {"gain": 3.0}, 33, 10),),
        set=((1, {"gain": 5.0}),),
        train=(train(1, 1, gain=5.0), train(3, 3, gain=3.0)),
        examine=(Examine(2, 2, "test"),),
    )
    (report,) = perform({0: stack}, [order], exchange)
    assert [(call, arguments) for _, call, arguments in journal] == [
        ("state", 1),
        ("copy", ([0], [1])),
        ("admit", (2, {"gain": 2.0}, 32, 50.0, 10)),
        ("admit", (3, {"gain": 3.0}, 33, None, 10)),
        ("set", ([1], {"gain": [5.0]})),
        ("hparams", 1),
        ("hparams", 3),
        ("run", [0, 20, 0, 20]),
        ("evaluate", ("validation", [1, 3])),
        ("evaluate", ("test", [2])),
    ]
    assert weight_of(exchange.fetch("1:0")) == 2.0  # as it was before the copy
    assert report.segments == (
        SegmentResult(
            member=1,
            segment=1,
            age=20,
            consumed=20,
            held={"gain": 5.0, "lr": 0.5},
            training={"loss": 1.0},
            evaluation={"Q": 51.0},
        ),
        SegmentResult(
            member=3,
            segment=1,
            age=10,
            consumed=20,
            held={"gain": 3.0, "lr": 0.5},
            training={"loss": 3.0},
            evaluation={"Q": 30.0},
        ),
    )
    (examination,) = report.examinations
    assert (examination.member, examination.split, examination.metrics) == (2, "test", {"Q": 50.0})
    assert (examination.age, examination.consumed) == (10, 10)
    assert (report.order, report.stack) == ("o", 0)
    assert report.wall_s >= 0


@pytest.mark.parametrize("copies", [True, False])
def test_a_stack_lends_its_state_where_that_is_copied_at_once(journal, copies):
    """Else it copies the state out itself: what is published must not change."""
    stack, published = make_stack(0, journal, [1.0]), {}
    stack.lend = lambda slot: ("lent", slot)
    exchange = SimpleNamespace(copies=copies, publish=published.__setitem__)
    publish(stack, WorkOrder(id="o", stack=0, split="validation", publish=(Publish(0, "1:0"),)), exchange)
    assert copies == (("lent", 0) == published["1:0"])
    assert ([] if copies else [(0, "state", 0)]) == journal


@pytest.mark.parametrize("turned", [False, True])
def test_all_stacks_publish_before_any_changes(journal, turned):
    """Two stacks of one host swap their members' weights: each reads what the other was, in whatever order they run."""
    stacks = {0: make_stack(0, journal, [1.0]), 1: make_stack(1, journal, [2.0])}
    orders = [
        WorkOrder(
            id=f"o{stack}",
            stack=stack,
            split="validation",
            publish=(Publish(0, f"{stack}:0"),),
            fetch=(Fetch(0, f"{1 - stack}:0", {"gain": 1.0}, stack, 10),),
            train=(train(0, stack, until=11),),
        )
        for stack in range(2)
    ]
    if turned:
        orders.reverse()
    reports = in_time(20.0, lambda: perform(stacks, orders, LocalExchange()))
    assert [call for _, call, _ in journal][:2] == ["state", "state"]
    assert [report.order for report in reports] == [order.id for order in orders]
    assert {report.stack: report.segments[0].evaluation["Q"] for report in reports} == {0: 3.0, 1: 2.0}


def test_a_fetch_waits_for_another_host(journal):
    """What another host publishes later is waited for."""
    stack, exchange = make_stack(0, journal, [1.0]), LocalExchange()
    order = WorkOrder(
        id="o", stack=0, split="validation", fetch=(Fetch(0, "5:0", {"gain": 1.0}, 0, 10),), train=(train(0, 0),)
    )
    timer = threading.Timer(0.05, lambda: exchange.publish("5:0", make_stack(1, [], [70.0]).state(0)))
    timer.start()
    (report,) = in_time(20.0, lambda: perform({0: stack}, [order], exchange))
    timer.join()
    assert report.segments[0].evaluation == {"Q": 80.0}


def test_copies_inside_a_stack_are_passed_together(journal):
    """One call with all sources and targets, so that all are read before any is written."""
    stack = make_stack(0, journal, [1.0, 2.0, 3.0])
    order = WorkOrder(id="o", stack=0, split="validation", copy=((0, 1), (1, 2), (2, 0)))
    perform({0: stack}, [order], LocalExchange())
    assert journal == [(0, "copy", ([0, 1, 2], [1, 2, 0]))]
    assert [seat.weight for seat in stack.seats] == [3.0, 1.0, 2.0]


def test_members_that_are_not_told_to_train_stay_frozen(journal):
    """A slot without a segment gets the target 0, which is behind it."""
    stack = make_stack(0, journal, [1.0, 2.0])
    perform({0: stack}, [WorkOrder(id="o", stack=0, split="validation", train=(train(1, 1),))], LocalExchange())
    assert (0, "run", [0, 20]) in journal
    assert [(seat.weight, seat.consumed) for seat in stack.seats] == [(1.0, 10), (12.0, 20)]


def test_nothing_is_run_where_nothing_is_trained(journal):
    """An order that only evaluates does not train."""
    stack = make_stack(0, journal, [1.0])
    order = WorkOrder(id="o", stack=0, split="validation", examine=(Examine(0, 4, "test"),))
    (report,) = perform({0: stack}, [order], LocalExchange())
    assert journal == [(0, "evaluate", ("test", [0]))]
    assert report.segments == ()


def test_reports_come_in_the_order_of_orders(journal):
    """One report for each order, whatever the stacks' numbers; no orders, no reports."""
    stacks = {number: make_stack(number, journal, [1.0 * number]) for number in range(3)}
    orders = [WorkOrder(id=f"o{n}", stack=n, split="validation", train=(train(0, n),)) for n in (2, 0, 1)]
    reports = perform(stacks, orders, LocalExchange())
    assert [(report.order, report.stack) for report in reports] == [("o2", 2), ("o0", 0), ("o1", 1)]
    assert perform(stacks, [], LocalExchange()) == []


# --- what it cost


class Meter:
    """A device that notes when it is asked."""

    def __init__(self, journal):
        self._journal = journal

    def take(self):
        self._journal.append((0, "meter", None))
        return Reading(joules=12.5, peak_flops=1e12, peak_memory_bytes=4096)


def test_an_order_is_measured_from_its_first_change_to_its_last_evaluation(journal, monkeypatch):
    """Wall time without the wait for publishing, its parts in training and evaluation, and the device, read last."""
    clock = Clock(monkeypatch)
    stack = Timed([1.0], clock, journal, step_s=2.0, evaluation_s=0.5)
    order = WorkOrder(
        id="o", stack=0, split="validation", train=(train(0, 0, until=13),), examine=(Examine(0, 0, "test"),)
    )
    (report,) = perform({0: stack}, [order], LocalExchange(), Meter(journal))
    assert (7.0, 6.0, 1.0) == (report.wall_s, report.training_s, report.evaluation_s)
    assert (12.5, 1e12, 4096) == (report.joules, report.peak_flops, report.peak_memory_bytes)
    assert ["hparams", "run", "evaluate", "evaluate", "meter"] == [call for _, call, _ in journal]


def test_what_cannot_be_read_is_not_reported(journal):
    """Nobody reads the device, and the stack does not know what a member weighs: no figures, not zeros."""
    order = WorkOrder(id="o", stack=0, split="validation", train=(train(0, 0),))
    (report,) = perform({0: make_stack(0, journal, [1.0])}, [order], LocalExchange())
    assert (report.joules, report.peak_flops, report.peak_memory_bytes, report.member_bytes) == (None,) * 4


def test_a_stack_that_knows_what_a_member_weighs_says_so(journal):
    """Optional: `member_bytes` of the stack goes into the report."""
    stack = make_stack(0, journal, [1.0])
    stack.member_bytes = lambda: 56
    (report,) = perform({0: stack}, [WorkOrder(id="o", stack=0, split="validation")], LocalExchange())
    assert report.member_bytes == 56


# --- against a deadline


class Clock:
    """The clock that orders are carried out by, in the hands of the test."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        read = SimpleNamespace(monotonic=lambda: self.now, perf_counter=lambda: self.now)
        monkeypatch.setattr(orders_module, "time", read)


class Timed(ClearStack):
    """A stack whose steps and evaluations take a while. Its loss in a step is the number of that step, squared."""

    def __init__(self, weights, clock, journal=None, step_s=1.0, evaluation_s=0.0, first_s=0.0, slower=1.0):
        super().__init__(len(weights), journal=journal)
        self._clock, self._step_s, self._evaluation_s = clock, step_s, evaluation_s
        self._first_s, self._slower = first_s, slower
        self.began = []  # when each piece of training began
        self.pieces = []  # its number of steps, and when it ended
        for slot, weight in enumerate(weights):
            self.admit(slot, {"gain": 1.0}, seed=slot)
            self.seats[slot].weight, self.seats[slot].age, self.seats[slot].consumed = weight, 10, 10
        if journal is not None:
            journal.clear()

    def run(self, until):
        before = [seat.consumed for seat in self.seats]
        super().run(until)
        means = [
            np.mean([float(step**2) for step in range(start, seat.consumed)] or [math.nan])
            for start, seat in zip(before, self.seats, strict=True)
        ]
        longest = max(seat.consumed - start for start, seat in zip(before, self.seats, strict=True))
        self.began.append(self._clock.now)
        self._clock.now += self._first_s + longest * self._step_s
        self._first_s, self._step_s = 0.0, self._step_s * self._slower
        self.pieces.append((longest, self._clock.now))
        return {"loss": np.array(means)}

    def evaluate(self, split, slots):
        self._clock.now += self._evaluation_s
        return super().evaluate(split, slots)


def against(stop_after_s, until, monkeypatch, **options):
    """Train members that have 10 steps behind them so far, with a deadline; the stack, and what it reports."""
    with monkeypatch.context() as patch:
        clock = Clock(patch)
        stack = Timed([1.0] * len(until), clock, **options)
        parts = tuple(train(slot, slot, until=goal) for slot, goal in enumerate(until) if goal)
        order = WorkOrder(id="o", stack=0, split="validation", train=parts, stop_after_s=stop_after_s)
        (report,) = perform({0: stack}, [order], LocalExchange())
        return stack, report


def test_training_stops_at_the_deadline(monkeypatch):
    """With steps of 0.1 s, what fits into 3.05 s is trained, and no more; it is evaluated and reported as it stands."""
    _, report = against(3.05, [1000, 1000], monkeypatch, step_s=0.1)
    assert [40, 40] == [result.consumed for result in report.segments]
    assert [40, 40] == [result.age for result in report.segments]
    assert [{"Q": 31.0}] * 2 == [dict(result.evaluation) for result in report.segments]
    assert [None, None] == [result.failure for result in report.segments]


def test_a_deadline_that_is_over_trains_nothing(monkeypatch):
    """No step is begun; the members are evaluated, and reported where they stood."""
    stack, report = against(0.0, [1000], monkeypatch)
    assert [] == stack.pieces
    (result,) = report.segments
    assert (10, 10, {}, {"Q": 1.0}) == (result.consumed, result.age, result.training, result.evaluation)


def test_what_fits_is_trained_to_the_end(monkeypatch):
    """A deadline that is far away changes nothing, wherever each member's segment ends."""
    stack, report = against(1e6, [500, 11, 173], monkeypatch, step_s=0.01)
    assert [500, 11, 173] == [result.consumed for result in report.segments]
    whole, untroubled = against(None, [500, 11, 173], monkeypatch, step_s=0.01)
    assert 1 == len(whole.pieces) < len(stack.pieces)
    for cut, once in zip(report.segments, untroubled.segments, strict=True):
        assert (once.consumed, once.age, once.evaluation) == (cut.consumed, cut.age, cut.evaluation)
        assert math.isclose(once.training["loss"], cut.training["loss"])


@examples(100)
@given(
    stop_after_s=st.floats(0, 30),
    step_s=st.floats(1e-3, 5.0),
    first_s=st.sampled_from([0.0, 0.0, 7.0]),
    slower=st.sampled_from([1.0, 1.0, 1.01, 0.9]),
    until=st.lists(st.sampled_from([0, 10, 11, 25, 200, 4000]), min_size=1, max_size=4).filter(any),
)
def test_nothing_is_begun_after_the_deadline(stop_after_s, step_s, first_s, slower, until):
    """Whatever steps take, the first one more or each a little more: means are those over the steps, members agree."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        stack, report = against(stop_after_s, until, monkeypatch, step_s=step_s, first_s=first_s, slower=slower)
    deadline = 1000.0 + stop_after_s
    assert all(began < deadline for began in stack.began)
    for _, ended in stack.pieces[2:]:
        assert slower > 1.0 or ended <= deadline + 1e-9
    for result in report.segments:
        seat, trained = stack.seats[result.member], result.consumed - 10
        assert 0 <= trained <= max(0, until[result.member] - 10)
        assert (10 + trained, 10 + trained, 1.0 + trained) == (seat.consumed, seat.age, seat.weight)
        if trained:
            mean = np.mean([float(step**2) for step in range(10, result.consumed)])
            assert math.isclose(mean, result.training["loss"], rel_tol=1e-9)


def test_training_that_was_cut_short_goes_on_where_it_stopped(monkeypatch):
    """The next order takes the same member to its end; together they are what one would have been."""
    clock = Clock(monkeypatch)
    stack, exchange = Timed([1.0], clock, step_s=0.1), LocalExchange()
    for number, stop_after_s in enumerate((1.0, 1.0, None)):
        order = WorkOrder(
            id=f"o{number}", stack=0, split="validation", train=(train(0, 0, until=50),), stop_after_s=stop_after_s
        )
        (report,) = perform({0: stack}, [order], exchange)
    assert (50, 50, {"Q": 41.0}) == (
        report.segments[0].consumed,
        report.segments[0].age,
        report.segments[0].evaluation,
    )


def test_empty_slots_are_left_alone_before_a_deadline_too(monkeypatch):
    """Nobody asks how far an empty slot has come."""
    clock = Clock(monkeypatch)
    stack = Timed([1.0, 2.0], clock, step_s=0.1)
    stack.seats[1] = None
    stack.run = lambda until: ClearStack.run(stack, until)
    order = WorkOrder(id="o", stack=0, split="validation", train=(train(0, 0),), stop_after_s=60.0)
    (report,) = perform({0: stack}, [order], LocalExchange())
    assert 20 == report.segments[0].consumed


# --- what is in effect


def test_a_member_without_its_hyperparameters_is_not_trained(journal):
    """It fails with its name, the hyperparameter, what was wanted and what is held; its neighbour trains."""
    stack = make_stack(0, journal, [1.0, 2.0], deaf=["gain"])
    order = WorkOrder(
        id="o",
        stack=0,
        split="validation",
        set=((1, {"gain": 7.0, "lr": 0.25}),),
        train=(train(0, 40), train(1, 41, gain=7.0, lr=0.25)),
    )
    (report,) = perform({0: stack}, [order], LocalExchange())
    well, failed = report.segments
    assert (well.failure, well.evaluation) == (None, {"Q": 11.0})
    assert failed.failure == (
        "member 41: gain is not in effect: wanted 7.0, got 1.0. "
        "The member was stopped; check that the trainable's set_hparams writes 'gain'."
    )
    assert (failed.training, failed.evaluation) == ({}, {})
    assert (failed.age, failed.consumed) == (10, 10)
    assert failed.held == {"gain": 1.0, "lr": 0.25}
    assert (0, "run", [20, 0]) in journal
    assert (0, "evaluate", ("validation", [0])) in journal


def test_a_stack_whose_members_all_fail_runs_nothing(journal):
    """There is nobody to train, and the reports still come."""
    stack = make_stack(0, journal, [1.0])
    order = WorkOrder(id="o", stack=0, split="validation", train=(train(0, 0, gain=2.0),))
    (report,) = perform({0: stack}, [order], LocalExchange())
    assert journal == [(0, "hparams", 0)]
    assert report.segments[0].failure.startswith("member 0: gain is not in effect: wanted 2.0, got 1.0")


@pytest.mark.parametrize(
    ("wanted", "held", "in_effect"),
    [
        ({"lr": 0.1}, {"lr": 0.1}, True),
        ({"lr": 0.1}, {"lr": 0.10000000149011612}, True),  # float32 of 0.1
        ({"lr": 1e-30}, {"lr": 1.0000000031710769e-30}, True),
        ({"lr": 0.1}, {"lr": 0.1000002}, False),
        ({"lr": 1e-30}, {"lr": 2e-30}, False),
        ({"lr": 0.0}, {"lr": 0.0}, True),
        ({"lr": 0.0}, {"lr": 1e-30}, False),
        ({"lr": 0.1}, {"lr": -0.1}, False),
        ({"lr": 0.1}, {"lr": float("nan")}, False),
        ({"lr": 0.1}, {}, False),
        ({"lr": 0.1}, {"lr": None}, False),
        ({"lr": 0.1}, {"lr": "0.1"}, False),
        ({"layers": 3}, {"layers": 3.0}, True),
        ({"layers": 3}, {"layers": 4}, False),
        ({"name": "sgd"}, {"name": "sgd"}, True),
        ({"name": "sgd"}, {"name": "adam"}, False),
        ({"nesterov": True}, {"nesterov": True}, True),
        ({"nesterov": True}, {"nesterov": False}, False),
        ({"nesterov": True}, {"nesterov": 1.0}, True),
        ({"mix": {"a": 0.5, "b": 0.5}}, {"mix": {"a": 0.5, "b": 0.5}}, True),
        ({"mix": {"a": 0.5, "b": 0.5}}, {"mix": {"a": 0.25, "b": 0.75}}, False),
        ({"mix": {"a": 0.1, "b": 0.9}}, {"mix": {"b": 0.9, "a": 0.10000000149011612}}, True),
        ({"mix": {"a": 0.5, "b": 0.5}}, {"mix": {"a": 0.5, "c": 0.5}}, False),
        ({"mix": {"a": 1.0, "b": 0.0}}, {"mix": {"a": 1.0}}, False),
        ({"mix": {"a": 0.5, "b": 0.5}}, {"mix": 0.5}, False),
        ({}, {"lr": 0.1}, True),
        ({"lr": 0.1}, {"lr": 0.1, "other": 5}, True),
    ],
)
def test_mismatch(wanted, held, in_effect):
    """A value is in effect if the device holds it to one part in a million."""
    found = mismatch(Train(0, 3, 0, 10, wanted), held)
    assert (found is None) is in_effect
    if found is not None:
        (name,) = wanted
        assert (found.member, found.hparam, found.wanted) == (3, name, wanted[name])
        assert f"member 3: {name} is not in effect: wanted {wanted[name]!r}, got {held.get(name)!r}." in str(found)


def test_the_first_mismatch_is_named():
    """Of several, the first in the order of the space."""
    assert mismatch(Train(0, 3, 0, 10, {"a": 1, "b": 2, "c": 3}), {"a": 1, "b": 0, "c": 0}).hparam == "b"


def test_only_what_was_ordered_is_reported_as_held(journal):
    """A stack reads back what its bucket fixes as well, such as a batch size: that is not recorded as in effect."""
    stack = make_stack(0, journal, [1.0])
    everything = stack.hparams
    stack.hparams = lambda slot: everything(slot) | {"batch_size": 24}
    order = WorkOrder(id="o", stack=0, split="validation", train=(train(0, 0),))
    (report,) = perform({0: stack}, [order], LocalExchange())
    assert report.segments[0].held == {"gain": 1.0, "lr": 0.5}
    assert report.segments[0].failure is None
