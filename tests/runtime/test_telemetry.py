"""What is measured of a stack at work, and what that makes for its members."""

import pytest

from pbt.runtime.meter import NoMeter
from pbt.runtime.orders import Reading, StackReport
from pbt.runtime.telemetry import Telemetry, measured, together
from trainables import Place


class Rising:
    """A meter that is 5 J further at each look."""

    def __init__(self):
        self._joules = 0.0

    def joules(self):
        self._joules += 5.0
        return self._joules


def report(**known):
    return StackReport(order="o", stack=0, wall_s=9.0, **known)


def test_rates_are_over_the_time_of_training_alone():
    """20 steps of 512 tokens and 3e9 model FLOPs in 4 s of 9, on a device of 1e11 FLOP/s."""
    found = measured(report(training_s=4.0, peak_flops=1e11), 20, 512, 3e9)
    assert found == {"tokens_per_s": 2560.0, "mfu": pytest.approx(0.15)}


def test_the_rates_of_members_add_up_to_the_stack():
    """Members that train side by side, each its own number of steps, share the time and the peak of their stack."""
    stack = report(training_s=4.0, peak_flops=1e11)
    each = [measured(stack, steps, 512, 3e9) for steps in (20, 5, 15)]
    whole = measured(stack, 40, 512, 3e9)
    for name in ("tokens_per_s", "mfu"):
        assert sum(found[name] for found in each) == pytest.approx(whole[name], rel=1e-12)


@pytest.mark.parametrize(
    ("known", "steps", "flops", "expected"),
    [
        ({}, 20, 3e9, set()),
        ({"training_s": 4.0, "peak_flops": 1e11}, 0, 3e9, set()),
        ({"training_s": 4.0, "peak_flops": 1e11}, 20, None, {"tokens_per_s"}),
        ({"training_s": 4.0}, 20, 3e9, {"tokens_per_s"}),
        ({"member_bytes": 0, "peak_memory_bytes": 7}, 20, 3e9, {"memory_bytes", "peak_memory_bytes"}),
    ],
    ids=["nobody took the time", "no step", "FLOPs not counted", "peak not on file", "memory alone"],
)
def test_what_is_not_known_is_left_out(known, steps, flops, expected):
    """Not a zero, and no guess."""
    assert measured(report(**known), steps, 512, flops).keys() == expected


def test_a_device_gives_each_joule_once():
    """Whoever of its stacks asks."""
    device = Telemetry(Place(device="cpu"), Rising())
    assert [device.take().joules, device.take().joules] == [5.0, 5.0]


def test_who_has_a_part_of_a_device_has_used_that_part():
    """The others are asked for theirs."""
    device = Telemetry(Place(device="cpu"), Rising(), share=0.5)
    assert [device.take().joules, device.take().joules] == [2.5, 2.5]


def test_the_devices_of_a_gang_are_one():
    """Energy and peak add up; what one of them does not tell is not known; memory is that of the fullest."""
    one, other = Reading(joules=1.0, peak_flops=2.0, peak_memory_bytes=3), Reading(joules=5.0, peak_flops=7.0)
    assert together([one, other]) == Reading(joules=6.0, peak_flops=9.0, peak_memory_bytes=3)
    assert together([one, Reading(peak_memory_bytes=4)]) == Reading(peak_memory_bytes=4)


def test_a_cpu_has_memory_and_no_peak():
    """No peak is published for CPUs, so there is no utilization."""
    reading = Telemetry(Place(device="cpu"), NoMeter()).take()
    assert (reading.joules, reading.peak_flops) == (None, None)
    assert reading.peak_memory_bytes > 0


@pytest.mark.gpu
def test_a_gpu_tells_of_itself():
    """The memory of tensors since the last look, given back in between."""
    import torch

    device = Telemetry(Place(device="cuda"), NoMeter())
    before = device.take().peak_memory_bytes
    x = torch.zeros(2**24, dtype=torch.uint8, device="cuda")
    del x
    assert device.take().peak_memory_bytes >= 2**24
    assert device.take().peak_memory_bytes <= before + 2**20
