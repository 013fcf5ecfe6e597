"""Rates of stacks, from what was measured of their members."""

import json

import pytest

from pbt.report.throughput import Rate, Throughput, together


def order(name, stack, *keys, kind="work"):
    return {"order": name, "stack": stack, "kind": kind, "segments": json.dumps(keys), "at": 0.0}


def value(member, segment, name, number, split="system"):
    return {"member": member, "segment": segment, "split": split, "name": name, "value": number}


def collected(orders, metrics):
    found = Throughput()
    for row in orders:
        found.add_order(row)
    for row in metrics:
        found.add_metric(row)
    return found


def test_members_that_train_side_by_side_add_up():
    """Within an order; the next order is another turn of the same stack."""
    found = collected(
        [order("a", 0, [0, 0], [1, 0]), order("b", 0, [0, 1], [1, 1]), order("c", 1, [2, 0])],
        [
            *(value(member, 0, "tokens_per_s", 10.0) for member in (0, 1)),
            *(value(member, 1, "tokens_per_s", 40.0) for member in (0, 1)),
            *(value(member, 1, "mfu", 0.125) for member in (0, 1)),
            value(2, 0, "tokens_per_s", 7.0),
        ],
    )
    assert found.latest() == {0: Rate(tokens_per_s=80.0, mfu=0.25), 1: Rate(tokens_per_s=7.0)}


def test_the_typical_rate_is_the_median_of_the_orders():
    """The first compiled, and took a hundred times as long."""
    orders = [order(f"o{n}", 0, [0, n]) for n in range(5)]
    rates = [value(0, n, "tokens_per_s", rate) for n, rate in enumerate([1.0, 100.0, 102.0, 98.0, 101.0])]
    shares = [value(0, n, "mfu", share) for n, share in enumerate([0.001, 0.1, 0.102, 0.098, 0.101])]
    found = collected(orders, rates + shares)
    assert found.typical() == {0: Rate(tokens_per_s=100.0, mfu=0.1)}


def test_only_measurements_of_work_count():
    """Not other splits or names, nor a recovery's second training of what was measured, nor what no order tells of."""
    found = collected(
        [order("a", 0, [0, 0]), order("r", 1, [0, 0], kind="recovery")],
        [
            value(0, 0, "tokens_per_s", 10.0),
            value(0, 0, "tokens_per_s", 99.0, split="train"),
            value(0, 0, "memory_bytes", 99.0),
            value(5, 0, "tokens_per_s", 99.0),
        ],
    )
    assert found.latest() == {0: Rate(tokens_per_s=10.0)}


def turns(*orders):
    """Orders of one member each, `(stack, given, reported, seconds at work)`."""
    found = Throughput()
    for number, (stack, given, reported, seconds) in enumerate(orders):
        found.add_order({**order(f"o{number}", stack, [number, 0]), "at": given})
        found.add_metric(value(number, 0, "tokens_per_s", 10.0))
        found.add_outcome({"member": number, "segment": 0, "wall_s": seconds, "at": reported})
    return found


@pytest.mark.parametrize(
    ("orders", "expected"),
    [
        ([(0, 100.0, 110.0, 10.0), (1, 100.0, 110.0, 10.0)], 2.0),  # two hosts
        ([(0, 100.0, 120.0, 10.0), (1, 100.0, 120.0, 10.0)], 1.0),  # one host, which reports both together
        ([(0, 100.0, 110.0, 10.0), (1, 110.0, 120.0, 10.0)], 1.0),  # one host, which reports each
        ([(0, 100.0, 110.0, 10.0), (1, 100.0, 105.0, 5.0)], 1.5),  # one waits for the other
        ([(0, 100.0, 110.0, 10.0), (1, 100.0, 110.0, 10.0), (0, 500.0, 510.0, 10.0), (1, 500.0, 510.0, 10.0)], 2.0),
        ([(0, 100.0, 110.0, 0.1)], 1.0),  # nearly all of it went into other things
        ([(0, 110.0, 100.0, 10.0)], 1.0),  # the clock was set back
        ([(0, 100.0, 109.0, 10.0)], 1.0),
        ([], 1.0),
    ],
)
def test_how_many_stacks_train_at_once(orders, expected):
    """Time in which none does, as between two sessions, does not count."""
    assert turns(*orders).at_once() == expected


def test_how_many_train_at_once_now():
    """There were two hosts, of which one is gone."""
    before = [(stack, 10.0 * n, 10.0 * n + 10.0, 10.0) for n in range(20) for stack in (0, 1)]
    now = [(stack, 20.0 * n, 20.0 * n + 20.0, 10.0) for n in range(10, 15) for stack in (0, 1)]
    assert 1.0 == turns(*before, *now).at_once(is_latest=True)
    assert 1.0 < turns(*before, *now).at_once() < 2.0


def test_only_the_last_session_counts():
    """It may have been taken up with other hosts, or other numbers of processes."""
    found = turns((0, 100.0, 110.0, 10.0), (1, 100.0, 110.0, 10.0))
    for name, member in (("order:2:1", 0), ("order:2:2", 1)):
        found.add_order({**order(name, 0, [member, 1]), "at": 200.0})
        found.add_metric(value(member, 1, "tokens_per_s", 99.0))
        found.add_outcome({"member": member, "segment": 1, "wall_s": 10.0, "at": 210.0})
    found.add_metric(value(0, 0, "tokens_per_s", 10.0))  # of the session before, where tables are read one by one
    found.add_outcome({"member": 0, "segment": 0, "wall_s": 50.0, "at": 110.0})
    assert (found.typical(), found.at_once()) == ({0: Rate(tokens_per_s=99.0)}, 1.0)


def test_a_stack_works_once_on_all_its_members():
    """Each outcome tells of the same time."""
    found = Throughput()
    found.add_order({**order("a", 0, [0, 0], [1, 0], [2, 0]), "at": 100.0})
    found.add_order({**order("b", 1, [3, 0]), "at": 100.0})
    for member in range(4):
        found.add_metric(value(member, 0, "tokens_per_s", 10.0))
        found.add_outcome({"member": member, "segment": 0, "wall_s": 10.0, "at": 110.0})
    assert 2.0 == found.at_once()


FIVE, SIX = Rate(tokens_per_s=5.0, mfu=0.25), Rate(tokens_per_s=6.0, mfu=0.75)


@pytest.mark.parametrize(
    ("stacks", "at_once", "expected"),
    [
        ({}, 1.0, None),
        ({0: FIVE, 1: SIX}, 2.0, Rate(tokens_per_s=11.0, mfu=0.5)),
        ({0: FIVE, 1: SIX}, 1.0, Rate(tokens_per_s=5.5, mfu=0.5)),
        ({0: FIVE, 1: Rate(tokens_per_s=6.0)}, 2.0, Rate(tokens_per_s=11.0)),
    ],
)
def test_stacks_together(stacks, at_once, expected):
    """As many as train at once; utilizations have a mean, which is not known where one of them is not."""
    assert together(stacks, at_once) == expected
