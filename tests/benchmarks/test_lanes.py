"""The processes of `benchmarks.stack`: they train what they are told to, and say what went wrong."""

from __future__ import annotations

from contextlib import closing

import pytest

from benchmarks.stack.lanes import Job, Side, Stacked
from benchmarks.stack.tasks import TASKS
from trainables.base import Plan


def test_a_stack_trains_all_its_members_by_the_steps_asked_for():
    """Every slot is taken, and each has consumed all of them, whatever the plan's chunks."""
    subject = Stacked(TASKS["mlp"], Job(task="mlp", kind="stacked"), 3, Plan(chunk=2, compiled=False))
    subject.train(4)
    subject.train(2)
    assert [subject.stack.progress(slot) for slot in range(3)] == [(6, 6)] * 3
    assert subject.plan.chunk == 2
    # Weights and biases in float32, twice more for AdamW's moments, and its counter.
    weights = 64 * 128 + 128 + 128 * 128 + 128 + 128 * 10 + 10
    assert subject.bytes_per_member() == 3 * 4 * weights + 8


@pytest.mark.full
def test_a_rate_is_that_of_all_lanes_together():
    """Two lanes are made ready alike, and train at the same time."""
    with closing(Side(Job(task="mlp", kind="eager"), 2)) as side:
        ready = side.prepare(2, members=1, seconds=0.05)
        assert [lane.members for lane in ready] == [1, 1]
        assert side.rate() > 0.0


@pytest.mark.full
def test_what_fails_in_a_lane_is_told():
    """With the traceback of the process that it failed in."""
    with (
        closing(Side(Job(task="no such task", kind="eager"), 1)) as side,
        pytest.raises(RuntimeError, match="KeyError: 'no such task'"),
    ):
        side.prepare(1, members=1, seconds=0.05)
