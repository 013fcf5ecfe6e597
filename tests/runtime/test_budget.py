"""Budgets: what was used, what another generation takes, and whether it fits."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pbt.errors import SpecError
from pbt.runtime.budget import Forecast, Limits, Usage, check_limits, exceeded, seconds_left
from pbt.spec import Budget
from tests.examples import examples

MINUTE, HOUR = 60.0, 3600.0


def budget(**limits) -> Budget:
    return Budget(**{"members": 4, "generations": 3, "steps": 10} | limits)


def amounts():
    """Times and energies; whole, so that sums are exact."""
    return st.integers(0, 2**40).map(float)


def usages(*joules):
    joules = st.one_of(amounts(), *joules)
    return st.builds(Usage, wall_s=amounts(), device_s=amounts(), joules=joules, tokens=st.integers(0, 2**40))


def limits():
    some = st.none() | st.integers(1, 2**41).map(float)
    return st.builds(Limits, wall_s=some, device_s=some, joules=some, tokens=st.none() | st.integers(1, 2**41))


# --- adding up


def test_usages_add_up():
    """Each quantity by itself; nothing used is neutral."""
    one = Usage(wall_s=1.0, device_s=2.0, joules=3.0, tokens=4)
    assert Usage(wall_s=2.0, device_s=4.0, joules=6.0, tokens=8) == one + one
    assert one == one + Usage()
    assert Usage(wall_s=3.0, device_s=6.0, joules=9.0, tokens=12) == sum([one] * 3, Usage())


def test_a_sum_with_an_unknown_part_is_unknown():
    """Energy that could not be read is not counted as none."""
    assert (Usage(joules=5.0) + Usage(joules=None)).joules is None
    assert (Usage(joules=None) + Usage(joules=5.0)).joules is None
    assert Usage(wall_s=3.0, joules=None) == Usage(wall_s=1.0, joules=None) + Usage(wall_s=2.0, joules=None)


@examples(50)
@given(*[usages(st.none())] * 3)
def test_order_does_not_matter(first, second, third):
    """Addition commutes and associates."""
    assert first + second == second + first
    assert (first + second) + third == first + (second + third)


def test_limits_are_in_the_units_of_usage():
    """Minutes and hours become seconds; what is not limited stays so."""
    limited = budget(tokens=5, wall_minutes=0.5, gpu_hours=2, joules=7.5)
    assert Limits(tokens=5, wall_s=30.0, device_s=7200.0, joules=7.5) == Limits.of(limited)
    assert Limits() == Limits.of(budget())


# --- does it fit?


@pytest.mark.parametrize(
    ("limits", "spent", "more", "reason"),
    [
        (
            Limits(wall_s=30 * MINUTE),
            Usage(wall_s=29.1 * MINUTE),
            Usage(wall_s=2.34 * MINUTE),
            "the wall time is used up: 29.1 of 30 minutes, and another generation takes about 2.34",
        ),
        (
            Limits(wall_s=30 * MINUTE),
            Usage(wall_s=31 * MINUTE),
            Usage(),
            "the wall time is used up: 31 of 30 minutes",
        ),
        (
            Limits(device_s=2 * HOUR),
            Usage(device_s=1.9 * HOUR),
            Usage(device_s=0.25 * HOUR),
            "the GPU time is used up: 1.9 of 2 hours, and another generation takes about 0.25",
        ),
        (
            Limits(joules=2e6),
            Usage(joules=1_900_000.4),
            Usage(joules=123_456.0),
            "the energy is used up: 1,900,000 of 2,000,000 joules, and another generation takes about 123,456",
        ),
        (
            Limits(tokens=10_000),
            Usage(tokens=8192),
            Usage(tokens=2048),
            "the tokens are used up: 8,192 of 10,000, and another generation takes 2,048",
        ),
        (
            Limits(joules=500.0),
            Usage(joules=None),
            Usage(),
            "the energy cannot be read, so that it is not known what is left of 500 joules",
        ),
    ],
)
def test_the_reason_is_said_in_words(limits, spent, more, reason):
    """Which limit, what was used of it, and what another generation would take, if that is known."""
    assert reason == exceeded(limits, spent, more)


def test_a_budget_may_be_used_to_the_end():
    """What fits exactly, fits; with nothing left nothing does, even if it is not known what it takes."""
    limits = Limits(wall_s=10.0, device_s=10.0, joules=10.0, tokens=10)
    half = Usage(wall_s=5.0, device_s=5.0, joules=5.0, tokens=5)
    assert exceeded(limits, half, half) is None
    assert exceeded(limits, half, Usage()) is None
    assert exceeded(limits, half + half, Usage()) is not None


def test_without_limits_everything_fits():
    """Energy that cannot be read included."""
    much = Usage(wall_s=1e12, device_s=1e12, joules=None, tokens=10**12)
    assert exceeded(Limits(), much, much) is None


@examples(300)
@given(limits(), usages(st.none()), usages(st.none()))
@example(Limits(tokens=2), Usage(tokens=1), Usage(tokens=1))
def test_nothing_is_let_through_that_exceeds_a_limit(limits, spent, more):
    """Exactly what fits inside every limit, with something left of each, is let through."""
    total = spent + more

    def fits(name):
        limit, used, planned = getattr(limits, name), getattr(spent, name), getattr(total, name)
        return limit is None or (planned is not None and used < limit and planned <= limit)

    every = all(fits(name) for name in ("wall_s", "device_s", "joules", "tokens"))
    assert every == (exceeded(limits, spent, more) is None)


# --- forecasts


def test_nothing_seen_is_nothing_foreseen():
    """Except for tokens, which are known."""
    assert Usage(tokens=7) == Forecast().of(steps=10, tokens=7)
    assert Forecast().watts is None


def test_the_dearest_recent_round_counts_and_a_tenth_more():
    """Each quantity by itself, per step."""
    forecast = Forecast()
    forecast = forecast.observe(Usage(wall_s=10.0, device_s=40.0, joules=100.0, tokens=1), steps=10)
    forecast = forecast.observe(Usage(wall_s=40.0, device_s=60.0, joules=80.0, tokens=1), steps=20)
    seen = forecast.of(steps=100, tokens=3)
    assert pytest.approx((1.1 * 200.0, 1.1 * 400.0, 1.1 * 1000.0)) == (seen.wall_s, seen.device_s, seen.joules)
    assert seen.tokens == 3


def test_old_rounds_are_forgotten():
    """Five are remembered: a slow beginning does not count for ever."""
    forecast = Forecast().observe(Usage(wall_s=1000.0), steps=1)
    for _ in range(4):
        forecast = forecast.observe(Usage(wall_s=1.0), steps=1)
    assert pytest.approx(1100.0) == forecast.of(steps=1, tokens=0).wall_s
    assert pytest.approx(1.1) == forecast.observe(Usage(wall_s=1.0), steps=1).of(steps=1, tokens=0).wall_s


def test_a_round_without_training_says_nothing():
    """Nothing was trained by which it could be scaled."""
    forecast = Forecast().observe(Usage(wall_s=1.0), steps=5)
    assert forecast == forecast.observe(Usage(wall_s=9.0), steps=0)


def test_rounds_of_unknown_energy_leave_the_forecast_of_the_others():
    """Their time counts."""
    forecast = Forecast().observe(Usage(wall_s=1.0, joules=4.0), steps=1).observe(Usage(wall_s=2.0, joules=None), 1)
    seen = forecast.of(steps=1, tokens=0)
    assert pytest.approx((2.2, 4.4)) == (seen.wall_s, seen.joules)


def test_power_is_energy_by_time_of_the_devices():
    """The highest seen, and a tenth more; rounds of unknown energy, or without devices, say nothing."""
    forecast = Forecast().observe(Usage(device_s=10.0, joules=None), steps=5).observe(Usage(joules=5.0), steps=5)
    assert forecast.watts is None
    forecast = forecast.observe(Usage(device_s=10.0, joules=1000.0), steps=5)
    forecast = forecast.observe(Usage(device_s=10.0, joules=3000.0), steps=50)
    assert pytest.approx(330.0) == forecast.watts


@examples(100)
@given(st.lists(st.tuples(usages(), st.integers(1, 1000)), min_size=1, max_size=8), st.integers(1, 1000))
def test_a_forecast_covers_every_recent_round(rounds, steps):
    """A round like any of the last five costs no more than was foreseen."""
    forecast = Forecast()
    for cost, trained in rounds:
        forecast = forecast.observe(cost, trained)
    foreseen = forecast.of(steps=steps, tokens=0)
    for cost, trained in rounds[-5:]:
        assert cost.wall_s * steps / trained <= foreseen.wall_s
        assert cost.device_s * steps / trained <= foreseen.device_s
        assert cost.joules * steps / trained <= foreseen.joules


# --- deadlines


@pytest.mark.parametrize(
    ("limits", "watts", "left"),
    [
        (Limits(), None, None),
        (Limits(tokens=5), None, None),
        (Limits(wall_s=100.0), None, 90.0),
        (Limits(wall_s=5.0), None, 0.0),
        (Limits(device_s=100.0), None, 20.0),
        (Limits(joules=1000.0), None, None),
        (Limits(joules=1000.0), 50.0, 4.0),
        (Limits(wall_s=100.0, device_s=100.0, joules=1000.0), 50.0, 4.0),
        (Limits(wall_s=11.0, device_s=100.0, joules=1000.0), 50.0, 1.0),
    ],
)
def test_the_tightest_limit_is_the_deadline(limits, watts, left):
    """Here of four stacks that have used 10 seconds, 20 seconds of devices, and 200 joules."""
    spent = Usage(wall_s=10.0, device_s=20.0, joules=200.0)
    assert left == seconds_left(limits, spent, devices=4, watts=watts)


@examples(200)
@given(
    st.integers(1, 4),
    st.integers(1, 500),
    st.integers(1, 500),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 50), st.integers(1, 200)), max_size=30),
)
def test_stacks_that_keep_their_deadlines_keep_the_budget(stacks, wall_s, device_s, starts):
    """Whenever stacks start, and however long they would like to work: time and GPU time end inside the limits."""
    limits = Limits(wall_s=float(wall_s), device_s=float(device_s))
    work = []  # (stack, begin, end)
    now = 0.0
    for stack, pause, wish in starts:
        now += pause
        if stack >= stacks or any(other == stack and end > now for other, _, end in work):
            continue
        used = sum(min(end, now) - begin for _, begin, end in work)
        left = seconds_left(limits, Usage(wall_s=now, device_s=used), devices=stacks)
        work.append((stack, now, now + min(left, wish)))
    assert sum(end - begin for _, begin, end in work) <= device_s * (1 + 1e-9)
    assert max((end for _, begin, end in work if end > begin), default=0.0) <= wall_s * (1 + 1e-9)


# --- limits that cannot be kept


@pytest.mark.parametrize(
    ("limits", "device", "can_read", "message"),
    [
        (
            {"gpu_hours": 1.5},
            "cpu",
            False,
            "budget.gpu_hours: is 1.5, but members train on 'cpu'. "
            "Write budget.wall_minutes, or set hosts.device: cuda",
        ),
        (
            {"joules": 500},
            "cpu",
            True,
            "budget.joules: is 500, but members train on 'cpu': limits on energy are kept on GPUs only. "
            "Write budget.wall_minutes, or set hosts.device: cuda",
        ),
        (
            {"joules": 500},
            "cuda:1",
            False,
            "budget.joules: is 500, but the energy of the GPUs cannot be read. "
            "Install nvidia-ml-py, or write budget.gpu_hours",
        ),
        (
            {"tokens": 639},
            "cuda",
            True,
            "budget.tokens: 639 are fewer than one generation takes. "
            "Write 640 or more, or lower budget.members or budget.steps",
        ),
    ],
)
def test_limits_that_cannot_be_kept_are_refused(limits, device, can_read, message):
    """With the field, the value and the mend."""
    with pytest.raises(SpecError) as raised:
        check_limits(budget(**limits), device, can_read, tokens_per_step=16)
    assert message == str(raised.value)


@pytest.mark.parametrize(
    ("limits", "device", "can_read"),
    [
        ({}, "cpu", False),
        ({"wall_minutes": 1e-9, "tokens": 640}, "cpu", False),
        ({"gpu_hours": 1}, "cuda", False),
        ({"gpu_hours": 1, "joules": 1}, "cuda:0", True),
    ],
)
def test_limits_that_can_be_kept_are_let_through(limits, device, can_read):
    """On a CPU time and tokens; on GPUs their time, and energy where it can be read."""
    check_limits(budget(**limits), device, can_read, tokens_per_step=16)


def test_sums_of_fractions_stay_inside():
    """Tenths do not add up exactly; the comparison is made on the sum itself."""
    limits, spent, more = Limits(wall_s=0.3), Usage(wall_s=0.1), Usage(wall_s=0.2)
    assert math.fsum([0.1, 0.2]) > 0.3
    assert exceeded(limits, spent, more) is not None
