"""Rates of stacks, from what was measured of their members."""

import json

import pytest

from pbt.report.throughput import Rate, Throughput, together


def order(name, stack, *keys, kind="work"):
    return {"order": name, "stack": stack, "kind": kind, "segments": json.dumps(keys)}


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


@pytest.mark.parametrize(
    ("stacks", "expected"),
    [
        ({}, None),
        ({0: Rate(tokens_per_s=5.0, mfu=0.25), 1: Rate(tokens_per_s=6.0, mfu=0.75)}, Rate(tokens_per_s=11.0, mfu=0.5)),
        ({0: Rate(tokens_per_s=5.0, mfu=0.25), 1: Rate(tokens_per_s=6.0)}, Rate(tokens_per_s=11.0)),
    ],
)
def test_stacks_together(stacks, expected):
    """Tokens add up, utilizations have a mean, which is not known where one of them is not."""
    assert together(stacks) == expected
