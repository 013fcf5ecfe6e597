"""Every ready schedule against a closed form in plain Python, in steps and in tokens, and against torch's own."""

import bisect
import itertools
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.examples import examples
from trainables import TrainableError
from trainables.core.schedules import (
    SCHEDULES,
    SHAPES,
    UNITS,
    Constant,
    Cooldown,
    Decay,
    InTokens,
    InverseSqrt,
    Piecewise,
    Power,
    Setting,
    Warmup,
    WarmupCosine,
    build,
)
from trainables.core.step import compiler

BATCH, TOKENS = 8, 96
SETTING = Setting(batch_size=BATCH, tokens_per_step=TOKENS, num_knots=3)
EVERY = [(name, unit) for name in SCHEDULES for unit in UNITS]
every_schedule = pytest.mark.parametrize(("name", "unit"), EVERY)
#: Enough where every schedule is tried in both units.
few = examples(25)


def multipliers(schedule, ages, *members):
    """The schedule at one age a member; hyperparameters left out take their defaults."""
    defaults = {"lr": 0.02} | {name: spec.default for name, spec in schedule.hparams.items()}
    assert all(name in defaults for hparams in members for name in hparams)
    rows = {n: torch.tensor([m.get(n, d) for m in members], dtype=torch.float64) for n, d in defaults.items()}
    found = schedule(torch.tensor(ages), rows)
    assert found.dtype == torch.float64
    assert found.shape == (len(members),)
    return found


def curve(schedule, hparams, ages):
    """The schedule over many ages with the same hyperparameters."""
    ages = list(ages)
    return multipliers(schedule, ages, *[hparams] * len(ages)).tolist()


# --- closed forms: `x` is the beginning of the step and `u` its length, both in the unit of the durations


def decay_form(shape, x, duration, ratio):
    if duration == 0:
        return 1.0
    p = min(1.0, x / duration)
    falling = {"linear": 1 - p, "1-sqrt": 1 - math.sqrt(p), "cosine": math.cos(math.pi * p / 2) ** 2}
    return ratio**p if shape == "exponential" else ratio + (1 - ratio) * falling[shape]


def warmup_form(x, u, h):
    return (x + u) / h["warmup"] if x + u < h["warmup"] else 1.0


def decaying(shape):
    def form(x, u, h):
        after = max(x - h["warmup"], 0)
        return warmup_form(x, u, h) * decay_form(shape, after, h["decay"], h["final_lr_ratio"])

    return form


def wsd(shape):
    def form(x, u, h):
        after = max(x - h["warmup"] - h["stable"], 0)
        return warmup_form(x, u, h) * decay_form(shape, after, h["decay"], h["final_lr_ratio"])

    return form


def inverse_sqrt(x, u, h):
    if x < h["warmup"] or h["timescale"] == 0:
        return warmup_form(x, u, h)
    return math.sqrt(h["timescale"] / (h["timescale"] + x - h["warmup"]))


def power(x, u, h):
    """Shen et al. 2024, equation 8, over lr."""
    if h["lr"] == 0:
        return warmup_form(x, u, h)
    at = max(x, h["warmup"])
    cooling = h["decay"] > 0 and at > h["decay_start"]
    tokens = max(1, (h["decay_start"] if cooling else at) * TOKENS // u)
    rate = min(h["lr"], BATCH * h["power_a"] * tokens ** h["power_b"])
    past = decay_form("exponential", at - h["decay_start"], h["decay"], h["final_lr_ratio"]) if cooling else 1.0
    return warmup_form(x, u, h) * rate * past / h["lr"]


def piecewise(linear):
    def form(x, u, h):
        at, points = max(x, h["warmup"]), [(0, 1.0)]
        for i in (1, 2, 3):
            if h[f"knot_{i}"] > points[-1][0]:
                points.append((h[f"knot_{i}"], h[f"knot_{i}_lr_ratio"]))
        last = bisect.bisect_right([age for age, _ in points], at) - 1
        value = points[last][1]
        if linear and last + 1 < len(points):
            (left, low), (right, high) = points[last : last + 2]
            value = low + (high - low) * (at - left) / (right - left)
        return warmup_form(x, u, h) * value

    return form


def rewarmed_cosine(x, u, h):
    start, ramp, cosine = h["rewarm_start"], h["rewarm"], decaying("cosine")
    if start == 0 or x < start:
        return cosine(x, u, h)
    anew = decay_form("cosine", max(x - start - ramp, 0), h["decay"], h["final_lr_ratio"])
    if x + u - start >= ramp:
        return anew
    low = cosine(start, u, h)
    return low + (anew - low) * (x + u - start) / ramp


FORMS = {
    "constant": warmup_form,
    "linear": decaying("linear"),
    "cosine": decaying("cosine"),
    "inverse_sqrt": inverse_sqrt,
    "wsd": wsd("1-sqrt"),
    "wsd_linear": wsd("linear"),
    "wsd_exponential": wsd("exponential"),
    "wsd_cosine": wsd("cosine"),
    "power": power,
    "piecewise": piecewise(linear=False),
    "piecewise_linear": piecewise(linear=True),
    "rewarmed_cosine": rewarmed_cosine,
}


def expected(name, unit, hparams, age):
    u = TOKENS if unit == "tokens" else 1
    plain = {n.removesuffix("_steps").removesuffix("_tokens"): value for n, value in hparams.items()}
    return FORMS[name](age * u, u, plain)


# --- hyperparameters to try


def members(schedule, durations):
    """Hyperparameters inside their bounds; ratios within reach."""
    drawn: dict[str, st.SearchStrategy] = {"lr": st.floats(1e-6, 1.0)}
    for name, spec in schedule.hparams.items():
        if isinstance(spec.default, int):
            drawn[name] = durations
        else:
            drawn[name] = st.floats(spec.low, 10.0 if spec.high is None else spec.high)
    return st.fixed_dictionaries(drawn)


def ages_near(hparams, unit):
    """Ages at and around the ends of phases, and anywhere."""
    step = TOKENS if unit == "tokens" else 1
    ends = [0]
    for name, value in hparams.items():
        if name.endswith(("_steps", "_tokens")):
            ends += [end + value // step for end in ends] if len(ends) < 64 else []
    near = st.builds(lambda end, by: max(0, end + by), st.sampled_from(ends), st.integers(-2, 2))
    return st.one_of(near, st.integers(0, 2 * max(ends) + 10))


def table(unit):
    """One value of each hyperparameter, with every phase in it."""
    u = TOKENS if unit == "tokens" else 1
    durations = {
        "warmup": 4,
        "stable": 5,
        "decay": 10,
        "timescale": 4,
        "decay_start": 12,
        "knot_1": 6,
        "knot_2": 9,
        "knot_3": 20,
        "rewarm_start": 11,
        "rewarm": 5,
    }
    rest = {"final_lr_ratio": 0.2, "knot_1_lr_ratio": 0.5, "knot_2_lr_ratio": 2.0, "knot_3_lr_ratio": 0.0}
    rest |= {"power_a": 0.01, "power_b": -0.51, "lr": 0.004}
    return {f"{name}_{unit}": steps * u for name, steps in durations.items()} | rest


def fitting(schedule, values):
    return {name: values[name] for name in ("lr", *schedule.hparams)}


# --- values


@every_schedule
def test_follows_its_closed_form_through_every_phase(name, unit):
    """Forty ages across all phases, and an age far beyond."""
    schedule = build(name, SETTING, unit)
    hparams = fitting(schedule, table(unit))
    ages = [*range(40), 10**12]
    assert curve(schedule, hparams, ages) == pytest.approx(
        [expected(name, unit, hparams, age) for age in ages], rel=1e-12, abs=1e-12
    )


@pytest.mark.parametrize("name", SCHEDULES)
@given(data=st.data())
def test_follows_its_closed_form_anywhere(name, data):
    """Any durations and values, at ages near the ends of phases and far away; counted in steps it is exact."""
    schedule = build(name, SETTING)
    hparams = data.draw(members(schedule, st.one_of(st.integers(0, 30), st.integers(0, 10**9))))
    age = data.draw(ages_near(hparams, "steps"))
    assert curve(schedule, hparams, [age]) == pytest.approx(
        [expected(name, "steps", hparams, age)], rel=1e-12, abs=1e-12
    )


@pytest.mark.parametrize("name", SCHEDULES)
@few
@given(data=st.data())
def test_follows_its_closed_form_in_tokens(name, data):
    """Durations that are no multiples of a step's tokens; jumps aside, rounding moves an end by 1e-12 of a step."""
    schedule = build(name, SETTING, "tokens")
    durations = st.one_of(st.just(0), st.integers(TOKENS, 1000 * TOKENS))
    hparams = data.draw(members(schedule, durations))
    age = data.draw(ages_near(hparams, "tokens"))
    assert curve(schedule, hparams, [age]) == pytest.approx(
        [expected(name, "tokens", hparams, age)], rel=1e-5, abs=1e-5
    )


@pytest.mark.parametrize("name", SCHEDULES)
@few
@given(data=st.data())
def test_whole_steps_of_tokens_are_steps(name, data):
    """A duration of so many steps' tokens is, bit for bit, one of so many steps."""
    in_steps, in_tokens = (build(name, SETTING, unit) for unit in UNITS)
    hparams = data.draw(members(in_steps, st.integers(0, 10**9)))
    tokens = {n.replace("_steps", "_tokens"): v * TOKENS if n.endswith("_steps") else v for n, v in hparams.items()}
    age = data.draw(ages_near(hparams, "steps"))
    assert curve(in_steps, hparams, [age]) == curve(in_tokens, tokens, [age])


@pytest.mark.parametrize(
    ("warmup", "decay", "ratio", "age", "value"),
    [
        (0, 0, 0.1, 0, 1.0),
        (0, 0, 0.1, 10**6, 1.0),
        (4, 0, 0.1, 0, 0.25),
        (4, 0, 0.1, 3, 1.0),
        (4, 0, 0.1, 4, 1.0),
        (0, 10, 0.0, 0, 1.0),
        (0, 10, 0.0, 5, 0.5),
        (0, 10, 0.5, 5, 0.75),
        (4, 10, 0.2, 4, 1.0),
        (4, 10, 0.2, 9, 0.6),
        (4, 10, 0.2, 14, 0.2),
        (4, 10, 0.2, 10**6, 0.2),
        (0, 10, 1.0, 7, 1.0),
    ],
)
def test_warmup_cosine(warmup, decay, ratio, age, value):
    """Linear to 1 over the warm-up, then a half cosine to the ratio; each phase may be absent."""
    hparams = {"warmup_steps": warmup, "decay_steps": decay, "final_lr_ratio": ratio}
    assert curve(WarmupCosine(), hparams, [age]) == pytest.approx([value])


@given(
    warmup=st.one_of(st.integers(0, 50), st.integers(0, 2**53)),
    decay=st.one_of(st.integers(0, 50), st.integers(0, 2**53)),
    ratio=st.floats(0.0, 1.0),
    age=st.one_of(st.integers(0, 110), st.integers(0, 2**62)),
)
def test_the_cosine_of_recorded_runs_is_the_same_bit_for_bit(warmup, decay, ratio, age):
    """As it was before it was put together from parts; the hyperparameters and their order too."""
    ages = torch.tensor([age, warmup, max(0, warmup - 1), warmup + 1, warmup + decay, warmup + decay // 2])
    rows = {
        name: torch.full(ages.shape, value, dtype=torch.float64)
        for name, value in (("warmup_steps", warmup), ("decay_steps", decay), ("final_lr_ratio", ratio))
    }
    schedule = build("cosine", SETTING)
    assert list(schedule.hparams) == list(rows)
    assert torch.equal(_recorded(ages, rows), schedule(ages, rows))


def _recorded(age: torch.Tensor, hparams: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The schedule of runs up to version 0.1.0, word for word."""
    warmup, decay = hparams["warmup_steps"], hparams["decay_steps"]
    ratio = hparams["final_lr_ratio"]
    steps = age.to(torch.float64)
    rising = (steps + 1.0) / warmup.clamp(min=1.0)
    progress = ((steps - warmup) / decay.clamp(min=1.0)).clamp(0.0, 1.0)
    falling = ratio + (1.0 - ratio) * 0.5 * (1.0 + torch.cos(math.pi * progress))
    settled = torch.where(decay > 0, falling, torch.ones_like(falling))
    return torch.where(steps < warmup, rising, settled)


# --- torch's own schedulers


def _torch_curve(make, num_steps):
    """Multipliers of a torch scheduler, step by step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0)
    scheduler = make(optimizer)
    found = []
    for _ in range(num_steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


_lrs = torch.optim.lr_scheduler


def _in_sequence(*parts):
    """`(make, length)` of each part; the last one has no length."""

    def make(optimizer):
        ends = torch.tensor([length for _, length in parts[:-1]]).cumsum(0).tolist()
        return _lrs.SequentialLR(optimizer, [part(optimizer) for part, _ in parts], milestones=ends)

    return make


def _up(steps):
    return lambda optimizer: _lrs.LinearLR(optimizer, 1 / steps, 1.0, total_iters=steps - 1)


def _stay(optimizer):
    return _lrs.ConstantLR(optimizer, factor=1.0)


def _cosine(optimizer):
    return _lrs.CosineAnnealingLR(optimizer, T_max=10, eta_min=0.2)


def _linear(optimizer):
    return _lrs.LinearLR(optimizer, 1.0, 0.2, total_iters=10)


TWINS = {
    "constant": (Constant(), {}, 20, _stay),
    "warm-up": (Warmup(Constant()), {"warmup_steps": 7}, 20, _up(7)),
    "linear": (Decay("linear"), {"decay_steps": 10, "final_lr_ratio": 0.2}, 20, _linear),
    "linear to 0": (
        Decay("linear"),
        {"decay_steps": 10, "final_lr_ratio": 0.0},
        20,
        lambda optimizer: _lrs.PolynomialLR(optimizer, total_iters=10, power=1.0),
    ),
    # torch's cosine rises again after its end.
    "cosine": (Decay("cosine"), {"decay_steps": 10, "final_lr_ratio": 0.2}, 11, _cosine),
    "exponential": (
        Decay("exponential"),
        {"decay_steps": 10, "final_lr_ratio": 0.2},
        11,
        lambda optimizer: _lrs.ExponentialLR(optimizer, gamma=0.2**0.1),
    ),
    "warm-up and cosine": (
        WarmupCosine(),
        {"warmup_steps": 4, "decay_steps": 10, "final_lr_ratio": 0.2},
        15,
        _in_sequence((_up(4), 4), (_cosine, None)),
    ),
    "wsd": (
        Warmup(Cooldown(Constant(), Decay("linear"))),
        {"warmup_steps": 4, "stable_steps": 6, "decay_steps": 10, "final_lr_ratio": 0.2},
        30,
        _in_sequence((_up(4), 4), (_stay, 6), (_linear, None)),
    ),
    "piecewise": (
        Piecewise(2),
        {"knot_1_steps": 5, "knot_1_lr_ratio": 0.1, "knot_2_steps": 9, "knot_2_lr_ratio": 0.01},
        20,
        lambda optimizer: _lrs.MultiStepLR(optimizer, [5, 9], gamma=0.1),
    ),
    "inverse square root": (
        Warmup(InverseSqrt()),
        {"warmup_steps": 4, "timescale_steps": 4},
        30,
        lambda optimizer: _lrs.LambdaLR(optimizer, lambda a: (a + 1) / 4 if a < 4 else (4 / a) ** 0.5),
    ),
}


@pytest.mark.parametrize("name", TWINS)
def test_equals_torch(name):
    """Where torch has the schedule, ours is the same."""
    schedule, hparams, num_steps, make = TWINS[name]
    assert curve(schedule, hparams, range(num_steps)) == pytest.approx(_torch_curve(make, num_steps), rel=1e-9)


# --- what all of them keep


@every_schedule
@few
@given(data=st.data())
def test_is_finite_whatever_is_allowed(name, unit, data):
    """The largest and the smallest numbers the bounds let through give no NaN and no infinity, at any age."""
    schedule = build(name, SETTING, unit)
    durations = st.one_of(st.integers(0, 3), st.integers(0, 2**63), st.sampled_from([2**53, 10**300]))
    hparams = data.draw(members(schedule, durations))
    hparams |= {"lr": data.draw(st.one_of(st.floats(0.0, 1.7e308), st.sampled_from([0.0, 5e-324])))}
    age = data.draw(st.one_of(ages_near(hparams, unit), st.just(2**63 - 1)))
    [value] = curve(schedule, hparams, [min(age, 2**63 - 1)])
    assert 0.0 <= value <= (10.0 if "piecewise" in name else 1.0)


@every_schedule
@few
@given(data=st.data())
def test_members_differ_freely(name, unit, data):
    """Members side by side, each with its own hyperparameters and age, have what each has alone."""
    schedule = build(name, SETTING, unit)
    group = data.draw(st.lists(members(schedule, st.integers(0, 5000)), min_size=2, max_size=5))
    ages = [data.draw(ages_near(hparams, unit)) for hparams in group]
    alone = [curve(schedule, hparams, [age])[0] for hparams, age in zip(group, ages, strict=True)]
    assert multipliers(schedule, ages, *group).tolist() == pytest.approx(alone, rel=1e-14)


@every_schedule
def test_defaults_are_harmless(name, unit):
    """With nothing said the learning rate is as given; the power schedule's is what the paper says."""
    schedule = build(name, SETTING, unit)
    for age in (0, 1, 1000, 10**12):
        rate = 1.0
        if name == "power":
            rate = min(1.0, BATCH * 4.0 * max(1, age * TOKENS) ** -0.51 / 0.02)
        assert curve(schedule, {}, [age]) == pytest.approx([rate])


@every_schedule
def test_every_hparam_is_live_documented_bounded_and_in_effect(name, unit):
    """Changing any of them for one member changes that member at some age, and no other at any."""
    schedule = build(name, SETTING, unit)
    hparams = fitting(schedule, table(unit))
    for changed, spec in schedule.hparams.items():
        assert spec.kind == "live"
        assert spec.doc
        assert spec.low is not None
        assert spec.low <= spec.default
        other = {**hparams, changed: hparams[changed] * 1.5 + 0.01 if isinstance(spec.default, float) else TOKENS}
        if changed == "power_b":
            other[changed] = -0.6
        before = [multipliers(schedule, [age] * 3, hparams, hparams, hparams) for age in range(40)]
        after = [multipliers(schedule, [age] * 3, hparams, other, hparams) for age in range(40)]
        assert any(a[1] != b[1] for a, b in zip(before, after, strict=True)), changed
        assert all(a[0] == b[0] and a[2] == b[2] for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "piecewise"])
@few
@given(data=st.data())
def test_is_continuous(name, data):
    """With phases of a million steps and more no step changes the multiplier by more than 0.3 %."""
    schedule = build(name, SETTING)
    hparams = data.draw(members(schedule, st.integers(10**6, 10**7)))
    # Two knots may lie close together; the power law is steep at its beginning.
    hparams |= {f"knot_{i}_steps": i * 10**6 for i in (1, 2, 3) if "knot_1_steps" in hparams}
    hparams |= {f"knot_{i}_lr_ratio": 0.3 * i for i in (1, 2, 3) if "knot_1_steps" in hparams}
    age = data.draw(ages_near(hparams, "steps"))
    left, right = curve(schedule, hparams, [age, age + 1])
    assert abs(left - right) < 3e-3


@pytest.mark.parametrize("shape", SHAPES)
@given(data=st.data())
def test_decays_fall_and_arrive_exactly(shape, data):
    """Never up, from exactly 1 to exactly the ratio."""
    decay = Decay(shape)
    ratio = data.draw(st.floats(decay.hparams["final_lr_ratio"].low, 1.0))
    hparams = {"decay_steps": data.draw(st.integers(1, 10**9)), "final_lr_ratio": ratio}
    ages = sorted(data.draw(st.lists(st.integers(0, 10**9), min_size=2, max_size=10)))
    values = curve(decay, hparams, ages)
    assert all(late <= early * (1 + 1e-15) for early, late in itertools.pairwise(values))
    assert curve(decay, hparams, [0, hparams["decay_steps"], 2**62]) == [1.0, ratio, ratio]


@pytest.mark.parametrize("ages", [(2**40, 2**40 + 1), (2**52 - 2, 2**52 - 1)])
def test_single_steps_count_at_large_ages(ages):
    """The last step of a phase and the first one of the next are told apart at any age that float64 counts."""
    last, first = ages
    warmup = Warmup(Constant())
    assert curve(warmup, {"warmup_steps": first + 1}, [last, first]) == [first / (first + 1), 1.0]
    wsd = build("wsd_linear", SETTING)
    hparams = {"warmup_steps": 2**20, "stable_steps": last - 2**20, "decay_steps": 4, "final_lr_ratio": 0.0}
    assert curve(wsd, hparams, [last, first]) == [1.0, 0.75]
    assert curve(Piecewise(1), {"knot_1_steps": first, "knot_1_lr_ratio": 0.5}, [last, first]) == [1.0, 0.5]


@every_schedule
def test_nothing_is_read_from_the_device(name, unit):
    """On tensors without data, where a branch on a value or a copy to the host would raise, it runs."""
    schedule = build(name, SETTING, unit)
    rows = {n: torch.empty(5, dtype=torch.float64, device="meta") for n in ("lr", *schedule.hparams)}
    found = schedule(torch.empty(5, dtype=torch.int64, device="meta"), rows)
    assert (found.device.type, found.dtype, found.shape) == ("meta", torch.float64, (5,))


@pytest.mark.full
@pytest.mark.skipif(compiler() is None, reason="no C++ compiler for torch.compile")
def test_compiled_equals_eager():
    """All of them in one graph without a break; other ages and hyperparameters do not recompile."""
    made = [build(name, SETTING, "tokens") for name in SCHEDULES]

    def together(age, hparams):
        return torch.stack([schedule(age, hparams) for schedule in made])

    rows = {n: torch.tensor([v, 2 * v]).double() for n, v in table("tokens").items()}
    rows |= {"final_lr_ratio": torch.tensor([0.2, 0.9]).double(), "power_b": torch.tensor([-0.51, -0.4]).double()}
    compiled = torch.compile(together, fullgraph=True, dynamic=False)
    age = torch.tensor([3, 17])
    torch.testing.assert_close(together(age, rows), compiled(age, rows), rtol=1e-12, atol=1e-12)
    torch._dynamo.utils.counters.clear()
    age.add_(8)
    for row in rows.values():
        row.mul_(0.75)
    torch.testing.assert_close(together(age, rows), compiled(age, rows), rtol=1e-12, atol=1e-12)
    assert not torch._dynamo.utils.counters["stats"]


# --- single ones


def test_power_is_capped_by_lr():
    """`lr` is the upper bound of the rate; above it, lr times the multiplier does not depend on lr."""
    power = Power(batch_size=128, tokens_per_step=128 * 4096)
    early, late = 10, 10**6
    rate = 128 * 4.0 * (late * 128 * 4096) ** -0.51
    for lr in (0.02, 0.04):
        assert curve(power, {"lr": lr}, [0, early]) == [1.0, 1.0]
        assert lr * curve(power, {"lr": lr}, [late])[0] == pytest.approx(rate, rel=1e-12)
    assert curve(power, {"lr": 0.0}, [late]) == [1.0]


def test_warmup_leads_to_the_power_law_at_its_end():
    """Shen et al. 2024, equation 8: n / N_warmup * eta(N_warmup), not the law's own value on the way."""
    schedule = build("power", Setting(batch_size=1, tokens_per_step=1000))
    hparams = {"lr": 1.0, "warmup_steps": 100}
    end = 4.0 * 100_000**-0.51
    assert curve(schedule, hparams, [49, 99, 100]) == pytest.approx([end / 2, end, end])


def test_knots_out_of_order_are_not_in_use():
    """A knot that is not later than those before it changes nothing, before or after it."""
    knots = {"knot_1_steps": 10, "knot_1_lr_ratio": 0.5, "knot_3_steps": 20, "knot_3_lr_ratio": 0.25}
    for interpolation in ("constant", "linear"):
        schedule = Piecewise(3, interpolation)
        for odd in (0, 5, 10):
            stray = {**knots, "knot_2_steps": odd, "knot_2_lr_ratio": 9.0}
            assert curve(schedule, stray, range(30)) == curve(schedule, knots, range(30))


def test_a_recorded_schedule_is_replayed():
    """The values of `lr` a member had, by age, come back exactly enough to be cast to the same float32."""
    recorded = [(0, 3e-3), (100, 2.4e-3), (200, 2.88e-3), (400, 2.304e-3)]
    hparams = {"lr": recorded[0][1]}
    for i, (age, lr) in enumerate(recorded[1:], start=1):
        hparams |= {f"knot_{i}_steps": age, f"knot_{i}_lr_ratio": lr / recorded[0][1]}
    for age in (0, 99, 100, 150, 200, 399, 400, 10_000):
        [ratio] = curve(Piecewise(3), hparams, [age])
        held = [lr for since, lr in recorded if since <= age][-1]
        assert recorded[0][1] * ratio == pytest.approx(held, rel=1e-15)


def test_a_restart_without_a_ramp_jumps():
    """No re-warming steps: the schedule begins anew at once."""
    schedule = build("rewarmed_cosine", SETTING)
    decay = {"decay_steps": 10, "final_lr_ratio": 0.1}
    anew = curve(Decay("cosine"), decay, [0, 3])
    assert curve(schedule, {**decay, "rewarm_start_steps": 15}, [14, 15, 18]) == [0.1, *anew]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: build("cosin", SETTING), r"schedule 'cosin' is unknown; did you mean 'cosine'\?"),
        (lambda: build("wsd-linear", SETTING), r"did you mean 'wsd_linear'\?"),
        (lambda: build(None, SETTING), "schedule None is unknown"),
        (lambda: build("wsd", SETTING, "token"), r"schedule unit 'token' is unknown; did you mean 'tokens'\?"),
        (lambda: Decay("linaer"), r"decay shape 'linaer' is unknown; did you mean 'linear'\?"),
        (lambda: Piecewise(0), "num_knots is 0; give a whole number >= 1"),
        (lambda: Piecewise(2, "cubic"), "piecewise interpolation 'cubic' is unknown"),
        (lambda: Power(batch_size=0, tokens_per_step=1), "batch_size is 0"),
        (lambda: Power(batch_size=1, tokens_per_step=True), "tokens_per_step is True"),
        (lambda: InTokens(Constant(), 0.5), "tokens_per_step is 0.5"),
    ],
)
def test_what_makes_no_schedule_is_refused(make, message):
    """Each message names the option, the value and the mend."""
    with pytest.raises(TrainableError, match=message):
        make()


def test_schedules_are_values():
    """Equal parts make equal schedules: one compiled step serves them all."""
    for name, unit in EVERY:
        assert build(name, SETTING, unit) == build(name, SETTING, unit)
        assert hash(build(name, SETTING, unit)) == hash(build(name, SETTING, unit))


def test_the_guide_names_every_schedule_and_hparam():
    """docs/guide.md is complete."""
    guide = (Path(__file__).parents[3] / "docs" / "guide.md").read_text()
    for name in SCHEDULES:
        assert f"`{name}`" in guide
        for hparam in build(name, Setting(num_knots=1)).hparams:
            assert f"`{hparam.replace('knot_1', 'knot_I')}`" in guide
