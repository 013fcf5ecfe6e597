"""How a host carries out orders: publish, then change, verify, train and evaluate."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pbt.runtime.exchange import LocalExchange
from pbt.runtime.orders import (
    Admit,
    Examine,
    Fetch,
    Publish,
    SegmentResult,
    Train,
    WorkOrder,
    mismatch,
    perform,
)
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


@pytest.fixture
def journal():
    return []


@pytest.fixture(params=["in turn", "side by side"])
def executor(request):
    """Stacks of a host run one after another or side by side."""
    if request.param == "in turn":
        yield None
    else:
        with ThreadPoolExecutor(2) as pool:
            yield pool


def test_an_order_is_carried_out_in_the_order_of_its_parts(journal):
    """Publish, copy, fetch, admit, set, read back, train, evaluate, examine; whatever slots they speak of."""
    stack = make_stack(0, journal, [1.0, 2.0, 3.0, 4.0])
    exchange = LocalExchange()
    exchange.publish("9:9", ClearStack.state(make_stack(1, [], [50.0]), 0), 1)
    order = WorkOrder(
        id="o",
        stack=0,
        split="validation",
        publish=(Publish(1, "1:0", 1),),
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


@pytest.mark.parametrize("turned", [False, True])
def test_all_stacks_publish_before_any_changes(journal, executor, turned):
    """Two stacks of one host swap their members' weights: each reads what the other was, in whatever order they run."""
    stacks = {0: make_stack(0, journal, [1.0]), 1: make_stack(1, journal, [2.0])}
    orders = [
        WorkOrder(
            id=f"o{stack}",
            stack=stack,
            split="validation",
            publish=(Publish(0, f"{stack}:0", 1),),
            fetch=(Fetch(0, f"{1 - stack}:0", {"gain": 1.0}, stack, 10),),
            train=(train(0, stack, until=11),),
        )
        for stack in range(2)
    ]
    if turned:
        orders.reverse()
    reports = in_time(20.0, lambda: perform(stacks, orders, LocalExchange(), executor))
    assert [call for _, call, _ in journal][:2] == ["state", "state"]
    assert [report.order for report in reports] == [order.id for order in orders]
    assert {report.stack: report.segments[0].evaluation["Q"] for report in reports} == {0: 3.0, 1: 2.0}


def test_a_fetch_waits_for_another_host(journal):
    """What another host publishes later is waited for."""
    stack, exchange = make_stack(0, journal, [1.0]), LocalExchange()
    order = WorkOrder(
        id="o", stack=0, split="validation", fetch=(Fetch(0, "5:0", {"gain": 1.0}, 0, 10),), train=(train(0, 0),)
    )
    timer = threading.Timer(0.05, lambda: exchange.publish("5:0", make_stack(1, [], [70.0]).state(0), 1))
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


def test_reports_come_in_the_order_of_orders(journal, executor):
    """One report for each order, however the stacks were run; no orders, no reports."""
    stacks = {number: make_stack(number, journal, [1.0 * number]) for number in range(3)}
    orders = [WorkOrder(id=f"o{n}", stack=n, split="validation", train=(train(0, n),)) for n in (2, 0, 1)]
    reports = perform(stacks, orders, LocalExchange(), executor)
    assert [(report.order, report.stack) for report in reports] == [("o2", 2), ("o0", 0), ("o1", 1)]
    assert perform(stacks, [], LocalExchange(), executor) == []


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
