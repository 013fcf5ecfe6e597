"""Nodes as `pbt show` tells of them."""

import pytest

from pbt.report.nodes import node_facts, node_lines


def row(session, node, wall_s, name, value):
    return {"session": session, "node": node, "name": name, "value": value, "wall_s": wall_s}


def machine(node, busy, session=1, **more):
    values = {
        "cpu_utilization_percentage": busy,
        "system_memory_usage_megabytes": 2000.0,
        "system_memory_usage_percentage": 25.0,
        **more,
    }
    return [row(session, node, 10.0, name, value) for name, value in values.items()]


def test_means_are_over_time():
    """Each value holds for the time since the one before: 10 s at 50, then 30 s at 90."""
    (found,) = node_facts([row(1, 0, 10.0, "x", 50.0), row(1, 0, 40.0, "x", 90.0)])
    assert found == {"session": 1, "node": 0, "seconds": 40.0, "x": 80.0}


def test_a_session_without_length_has_plain_means():
    """What is told before the clock has moved counts as well."""
    (found,) = node_facts([row(1, 0, 0.0, "x", 1.0), row(1, 0, 0.0, "x", 2.0)])
    assert found["x"] == 1.5


def test_energy_is_what_it_came_to():
    """It adds up by itself; sessions and nodes are each their own."""
    told = [row(1, 0, 10.0, "energy_joules", 5.0), row(1, 0, 20.0, "energy_joules", 9.0)]
    told += [row(1, 1, 20.0, "energy_joules", 1.0), row(2, 0, 20.0, "energy_joules", 2.0)]
    assert [(each["session"], each["node"], each["energy_joules"]) for each in node_facts(told)] == [
        (1, 0, 9.0),
        (1, 1, 1.0),
        (2, 0, 2.0),
    ]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, "0: processors 80 % busy, 2.0 GB of memory in use (25 %)"),
        (
            {"gpu_0_utilization_percentage": 91.0, "gpu_0_power_usage_watts": 300.0, "energy_joules": 12345.0},
            "0: processors 80 % busy, 2.0 GB of memory in use (25 %), 1 GPU 91 % busy, 12,345 joules",
        ),
        (
            {f"gpu_{number}_utilization_percentage": 60.0 + number for number in range(8)},
            "0: processors 80 % busy, 2.0 GB of memory in use (25 %), 8 GPUs 60 to 67 % busy",
        ),
    ],
    ids=["no GPU", "one GPU", "many"],
)
def test_a_node_in_words(more, words):
    """What is not known is not said."""
    assert node_lines(node_facts(machine(0, 80.0, **more))) == {"nodes": words}


def test_only_what_is_known_is_said():
    """Of a machine without counters, for one."""
    assert node_lines(node_facts([row(1, 0, 5.0, "energy_joules", 3.0)])) == {"nodes": "0: 3 joules"}
    assert node_lines([]) == {}


def test_the_last_session_s_nodes_are_named_and_of_many_the_first_and_last():
    """The JSON has them all."""
    rows = machine(0, 1.0) + [each for node in range(9) for each in machine(node, 10.0 * node, session=2)]
    lines = list(node_lines(node_facts(rows)).values())
    assert [line.split(",")[0] for line in lines] == [
        "0: processors 0 % busy",
        "1: processors 10 % busy",
        "2: processors 20 % busy",
        "5 more are in --json",
        "8: processors 80 % busy",
    ]
