"""How `benchmarks.stack` turns rounds into numbers, and numbers into verdicts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from benchmarks.rounds import estimate, ratio, take_turns
from benchmarks.stack import __main__ as stack


def test_sides_take_turns():
    """Every side is measured once in a round, in order."""
    ticks = itertools.count()
    found = take_turns({"a": lambda: next(ticks), "b": lambda: next(ticks)}, rounds=3)
    assert found == {"a": [0, 2, 4], "b": [1, 3, 5]}


def test_the_interval_holds_the_true_median_as_often_as_it_says():
    """Of 200 samples of normal values, about 95 % have an interval around the true median."""
    rng = np.random.default_rng(0)
    samples = rng.normal(10.0, 1.0, size=(200, 25))
    found = [estimate(sample) for sample in samples]
    held = np.mean([e.low <= 10.0 <= e.high for e in found])
    assert 0.9 <= held <= 0.99
    assert [e.median for e in found] == pytest.approx(np.median(samples, axis=1))


def test_a_ratio_is_taken_within_each_round():
    """A slow round strikes both sides and leaves their ratio alone."""
    found = ratio([20.0, 2.0, 200.0], [10.0, 1.0, 100.0])
    assert (found.low, found.median, found.high) == (2.0, 2.0, 2.0)


def row(k: int, processes: float, low: float) -> dict:
    single = {"vs_compiled_single": low + 0.1, "vs_compiled_single_interval": [low, low + 0.2]}
    return {"task": "mlp", "k": k, "vs_processes": processes, "vs_processes_interval": [0.0, 9.0], **single}


@pytest.mark.parametrize(
    ("rows", "met"),
    [
        ([row(1, 1.0, 1.0), row(16, 5.0, 0.97)], [True, True]),
        ([row(1, 4.9, 1.0), row(16, 4.99, 1.0)], [False, True]),
        ([row(1, 1.0, 0.96), row(16, 6.0, 2.0)], [True, False]),
    ],
)
def test_aims_are_judged_by_the_best_k_and_the_floor_by_the_worst(rows, met):
    """`mlp` aims at 5 times the processes at its best K, and nowhere below 0.97 of the compiled single member."""
    assert [aim["met"] for aim in stack.judged("mlp", rows, on_gpu=False)] == met


def test_all_default_tasks_have_aims_that_can_be_judged():
    """Every aim names a side that is measured on that device."""
    for device, aims in stack._AIMS.items():
        options = stack.Options(device=device, precision="fp32", rounds=1, seconds=1.0)
        sides = {f"vs_{name}" for name in options.sides()}
        assert all(set(own) <= sides for own in aims.values())
