"""What a sweep spends of its budget, and that it ends inside it."""

import math
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt.population import PBT, Fixed
from pbt.record.ledger import LedgerReader
from pbt.record.schema import canonical
from pbt.runtime import orders as orders_module
from pbt.runtime.budget import Usage
from pbt.runtime.orders import SegmentResult, StackReport
from pbt.runtime.purse import Purse
from pbt.spec import Budget, Checkpoints
from pbt.strategy import Task
from tests.examples import examples
from tests.runtime.miniature import SPACE, Clear
from tests.runtime.stage import Clock, Stage, new_run

pytestmark = pytest.mark.usefixtures("no_sync")

#: Tokens of a step of a member of `Clear`.
TOKENS = 7


def make(clock=None, before=None, devices=1.0, **limits):
    """The purse of a sweep of four members and three generations of ten steps."""
    budget = Budget(**{"members": 4, "generations": 3, "steps": 10} | limits)
    return Purse(budget, before or Usage(), TOKENS, clock or Clock(), devices)


def report(wall_s=1.0, stack=0, members=1, evaluation_s=0.0, joules=None):
    """A stack's report; of members it matters only how many there are."""
    segments = tuple(SegmentResult(member=m, segment=0, age=10, consumed=10, held={}) for m in range(members))
    return StackReport(
        order="o", stack=stack, wall_s=wall_s, evaluation_s=evaluation_s, joules=joules, segments=segments
    )


# --- what was used


def test_what_a_session_has_used():
    """Time goes by on its own; the time and energy of stacks, and tokens, add up."""
    clock = Clock()
    purse = make(clock)
    clock.now += 30.0
    purse.spend(report(wall_s=12.0, joules=5.0), 20)
    purse.spend(report(wall_s=8.0, joules=2.5, stack=1), 10)
    assert {"wall_s": 30.0, "device_s": 20.0, "joules": 7.5, "tokens": 210} == purse.used_now()


@pytest.mark.parametrize("devices", [0.5, 4.0])
def test_a_stack_of_several_devices_uses_them_all(devices):
    """And one that has a part of a device, that part: of what is spent, of what is left, and of what is to follow."""
    purse = make(devices=devices, gpu_hours=1.0)
    for _ in range(2):  # the first order may have compiled
        purse.spend(report(wall_s=60.0, evaluation_s=1e-9), 10)
    used = 120.0 * devices
    assert used == purse.used_now()["device_s"]
    assert math.isclose((3600.0 - used - 10.0 * devices) / (2 * devices) - 72.0, purse.seconds_left(2, 10.0))
    assert purse.exhausted(0, 10, False, 1) is None
    while purse.used_now()["device_s"] < 3600.0:
        purse.spend(report(wall_s=60.0, evaluation_s=1e-9), 10)
    assert "GPU time is used up: 1 of 1 hours" in purse.exhausted(0, 10, False, 1)


def test_a_recovery_costs_time_and_no_tokens():
    """What is trained again was counted before."""
    purse = make()
    purse.spend(report(wall_s=5.0), 0)
    assert (5.0, 0) == (purse.used_now()["device_s"], purse.used_now()["tokens"])


def test_what_earlier_sessions_used_is_not_told_as_this_ones():
    """Each has rows of its own."""
    purse = make(before=Usage(wall_s=100.0, device_s=50.0, joules=10.0, tokens=1000))
    assert {"wall_s": 0.0, "device_s": 0.0, "joules": 0.0, "tokens": 0} == purse.used_now()


@pytest.mark.parametrize(
    ("consumed", "expected"), [(0, 10), (10, 10), (20, 10), (25, 5), (30, 0), (31, 0), (29, 1), (7, 10)]
)
def test_what_would_follow(consumed, expected):
    """Another generation, or what is left of the last."""
    assert expected == make().following(consumed)


# --- the end


def test_without_limits_there_is_no_end():
    """However long it takes."""
    clock = Clock()
    purse = make(clock)
    clock.now += 1e9
    purse.spend(report(wall_s=1e9), 10**9)
    assert purse.exhausted(10, 10, was_cut=False, num_stacks=1) is None
    assert purse.seconds_left(1, 0.0) is None


@pytest.mark.parametrize(("tokens", "ends"), [(280, False), (279, True), (281, False)])
def test_tokens_are_counted_to_the_last(tokens, ends):
    """Ten steps are done, ten under way and twenty would follow: 40 times 7 in all."""
    purse = make(tokens=tokens)
    purse.spend(report(), 10)
    reason = purse.exhausted(under_way=10, following=20, was_cut=False, num_stacks=1)
    assert ends is (reason is not None)
    if ends:
        assert reason == "the tokens are used up: 140 of 279, and another generation takes 140"


def test_where_nothing_would_follow_there_is_no_end():
    """The last generation uses the budget up, and that is how it should be."""
    purse = make(tokens=70)
    purse.spend(report(), 10)
    assert purse.exhausted(under_way=0, following=0, was_cut=False, num_stacks=1) is None


def test_the_end_is_told_once():
    """The strategy has heard of it; more money makes a new end possible."""
    purse = make(tokens=1)
    assert purse.exhausted(0, 10, was_cut=False, num_stacks=1) is not None
    assert purse.exhausted(0, 10, was_cut=False, num_stacks=1) is None
    assert 1 == purse.num_ends
    purse.extend(Budget(members=4, generations=3, steps=10, tokens=1000))
    assert purse.exhausted(0, 10, was_cut=False, num_stacks=1) is None
    purse.spend(report(), 140)
    assert purse.exhausted(0, 10, was_cut=False, num_stacks=1) is not None
    assert 2 == purse.num_ends


def test_an_end_that_was_told_before_is_not_told_again():
    """By an earlier session."""
    purse = make(tokens=1)
    purse.end()
    assert purse.exhausted(0, 10, was_cut=False, num_stacks=1) is None
    assert 1 == purse.num_ends


def test_what_earlier_sessions_used_counts():
    """Limits hold for the whole sweep."""
    before = Usage(tokens=210)
    assert make(before=before, tokens=280).exhausted(0, 10, was_cut=False, num_stacks=1) is None
    assert make(before=before, tokens=279).exhausted(0, 10, was_cut=False, num_stacks=1) is not None


def test_the_first_report_of_a_stack_forecasts_nothing():
    """It may have compiled; from the second on, the dearest of the last ones is expected again, and a tenth more."""
    clock = Clock()
    purse = make(clock, wall_minutes=1.0)
    clock.now += 50.0
    purse.spend(report(wall_s=50.0), 10)
    assert purse.exhausted(0, 10, was_cut=False, num_stacks=1) is None
    clock.now += 1.0
    purse.spend(report(wall_s=1.0), 10)
    assert purse.exhausted(0, 10, was_cut=False, num_stacks=1) is None
    clock.now += 5.0
    purse.spend(report(wall_s=5.0), 10)
    reason = purse.exhausted(0, 10, was_cut=False, num_stacks=1)
    assert reason == "the wall time is used up: 0.933 of 1 minutes, and another generation takes about 0.0917"


def test_stacks_work_side_by_side():
    """Their time is that of the slowest, their GPU time the sum."""
    clock = Clock()
    wall, gpu = make(clock, wall_minutes=1.0), make(clock, gpu_hours=60 / 3600)
    for purse in (wall, gpu):
        for stack in (0, 1, 0, 1):
            purse.spend(report(wall_s=10.0, stack=stack), 10)
    clock.now += 20.0
    assert wall.exhausted(0, 20, was_cut=False, num_stacks=1) is None  # 20 + 11 of 60
    assert gpu.exhausted(0, 20, was_cut=False, num_stacks=1) is not None  # 40 + 22 of 60


def test_energy_that_cannot_be_read_ends_a_budget_of_energy():
    """It is not known what is left."""
    purse = make(joules=1000.0)
    purse.spend(report(joules=1.0), 10)
    assert purse.exhausted(0, 10, was_cut=False, num_stacks=1) is None
    purse.spend(report(joules=None), 10)
    assert "the energy cannot be read" in purse.exhausted(0, 10, was_cut=False, num_stacks=1)


def test_a_segment_that_was_cut_short_is_the_end():
    """The time was up: to go on would cut the next ones too."""
    assert "cut short" in make(wall_minutes=1.0).exhausted(0, 10, was_cut=True, num_stacks=1)


def test_what_evaluating_will_take_is_not_spent_on_training():
    """Another generation would fit into the limit, but not before the deadline of its orders."""
    clock = Clock()
    purse = make(clock, wall_minutes=1.0)
    for _ in range(2):
        purse.spend(report(wall_s=5.0, evaluation_s=5.0), 10)
    clock.now += 45.0
    assert 45.0 + 1.1 * 5.0 < 60.0 < 45.0 + 1.1 * 5.0 + 1.1 * 2 * 5.0
    reason = purse.exhausted(0, 10, was_cut=False, num_stacks=1)
    assert "the time is used up: what is left is kept for evaluating and saving" == reason


# --- deadlines


def test_how_long_an_order_may_train():
    """What is left of the limit, less what evaluating and saving will take."""
    clock = Clock()
    purse = make(clock, wall_minutes=10.0)
    assert 540.0 == purse.seconds_left(1, 0.0)  # a tenth, as nothing is known yet
    clock.now += 100.0
    purse.spend(report(wall_s=100.0, evaluation_s=1.0), 10)
    assert 488.0 == purse.seconds_left(1, 0.0)  # a fiftieth
    purse.spend(report(wall_s=0.0, evaluation_s=100.0), 10)
    assert math.isclose(500.0 - 1.1 * 100.0 * 2, purse.seconds_left(1, 0.0))
    clock.now += 499.0
    assert 0.0 == purse.seconds_left(1, 0.0)


def test_gpu_time_is_shared_by_the_stacks():
    """Also what those at work have not reported yet is gone."""
    purse = make(gpu_hours=0.1)
    purse.spend(report(wall_s=60.0, evaluation_s=1e-9), 10)
    assert math.isclose((300.0 - 100.0) / 2 - 7.2, purse.seconds_left(2, 100.0))


def test_more_budget_moves_the_deadline():
    """As the sweep is extended."""
    clock = Clock()
    purse = make(clock, wall_minutes=1.0)
    clock.now += 120.0
    assert 0.0 == purse.seconds_left(1, 0.0)
    purse.extend(Budget(members=4, generations=3, steps=10, wall_minutes=3.0))
    assert purse.seconds_left(1, 0.0) > 0
    purse.extend(Budget(members=4, generations=3, steps=10))
    assert purse.seconds_left(1, 0.0) is None


# --- whole sweeps


def generations_of(stage):
    """How many generations were decided."""
    return 1 + max(row["generation"] for row in stage.rows("segments"))


def end_of(stage):
    """The reason recorded for the end."""
    (row,) = [row for row in stage.rows("decisions") if row["kind"] == "finish"]
    return row["reason"]


def used(stage):
    """Tokens of all segments."""
    return sum(row["tokens"] for row in stage.rows("outcomes"))


@pytest.mark.parametrize("stacks", [1, 2, 4])
def test_a_limit_that_is_just_enough_is_enough(tmp_path, stacks):
    """All generations are trained, and nobody speaks of the budget."""
    stage = Stage(new_run(tmp_path), PBT(quantile=0.5), stacks=stacks, tokens=4 * 3 * 10 * TOKENS).play()
    assert 3 == generations_of(stage)
    assert "best score at the end of the last generation" == end_of(stage)
    assert [] == [row for row in stage.rows("decisions") if row["kind"] == "budget"]


@pytest.mark.parametrize("stacks", [1, 2, 4])
def test_a_token_less_costs_the_last_generation(tmp_path, stacks):
    """It does not fit: the best so far is evaluated, saved and announced, and the reason recorded."""
    limit = 4 * 3 * 10 * TOKENS - 1
    stage = Stage(new_run(tmp_path), PBT(quantile=0.5), stacks=stacks, tokens=limit).play()
    assert (2, 4 * 2 * 10 * TOKENS) == (generations_of(stage), used(stage))
    (told,) = [row for row in stage.rows("decisions") if row["kind"] == "budget"]
    assert told["reason"].startswith("the tokens are used up: 560 of 839, and another generation takes 280")
    assert told["reason"] == end_of(stage)
    assert LedgerReader(stage.run).finished
    best = stage.brain.best
    assert (best, 1) in {(row["member"], row["segment"]) for row in stage.rows("checkpoints")}
    assert ["test"] == [row["split"] for row in stage.rows("evaluations")]


@pytest.mark.parametrize("synchronous", [True, False])
@examples(30)
@given(limit=st.integers(4 * 10 * TOKENS, 4 * 3 * 10 * TOKENS), stacks=st.integers(1, 4), rng=st.randoms())
def test_tokens_are_never_exceeded(tmp_path_factory, synchronous, limit, stacks, rng):
    """Whatever the limit and the order of reports; in step, as many generations are trained as fit."""
    options = PBT(quantile=0.5, synchronous=synchronous)
    run = new_run(tmp_path_factory.mktemp("runs"))
    stage = Stage(run, options, stacks=stacks, tokens=limit).play(rng.choice)
    assert used(stage) <= limit
    assert stage.brain.best is not None
    if synchronous:
        assert limit // (4 * 10 * TOKENS) == generations_of(stage)


def test_where_nobody_waits_only_who_reports_must_go_on(tmp_path):
    """What others will want next is not kept for them: the first stack trains on as long as its own segments fit."""
    stage = Stage(new_run(tmp_path), PBT(quantile=0.5, synchronous=False), tokens=9 * 10 * TOKENS).play(min)
    assert {0: 3, 1: 3, 2: 1, 3: 1} == dict(Counter(row["member"] for row in stage.rows("outcomes")))
    assert "the tokens are used up" in end_of(stage)


@pytest.mark.parametrize("at", range(7))
def test_earlier_sessions_count(tmp_path, at):
    """A sweep that was interrupted ends where it would have ended."""
    limits = {"tokens": 4 * 3 * 10 * TOKENS - 1, "generations": 4}
    whole = Stage(new_run(tmp_path), PBT(quantile=0.5), **limits).play()
    stage = Stage(new_run(tmp_path), PBT(quantile=0.5), **limits)
    for _ in range(at):
        stage.turn()
    stage.brain.abandon()
    stage = Stage(stage.run, PBT(quantile=0.5), **limits).play()
    assert whole.digest() == stage.digest()
    assert end_of(whole) == end_of(stage)
    assert 1 == len([row for row in stage.rows("decisions") if row["kind"] == "budget"])


def test_more_budget_lets_a_sweep_go_on(tmp_path):
    """As if it had always been there: the limit is lifted, and the rest is trained."""
    whole = Stage(new_run(tmp_path), PBT(quantile=0.5), tokens=840).play()
    stage = Stage(new_run(tmp_path), PBT(quantile=0.5), tokens=600).play()
    assert 2 == generations_of(stage)
    slots = [[0, 0], [0, 1], [1, 0], [1, 1]]
    extension = 1, canonical({"spec": {"tokens": 840}, "slots": slots})

    def extend(spec):
        budget = Budget(members=4, generations=3, steps=10, tokens=spec["tokens"])
        return Task(space=SPACE, metric="Q", mode="max", budget=budget, seed=0)

    longer = Stage(stage.run, PBT(quantile=0.5), tokens=600, extension=extension, extend=extend).play()
    assert (3, 840) == (generations_of(longer), used(longer))
    assert LedgerReader(stage.run).finished
    scores = [{(row["member"], row["segment"]): row["score"] for row in it.rows("outcomes")} for it in (whole, longer)]
    assert scores[0] == scores[1]


class Slow(Clear):
    """Stacks whose steps and evaluations take a while, by the clock that everybody reads."""

    def __init__(self, monkeypatch, step_s, evaluation_s):
        super().__init__()
        self.clock, self._step_s, self._evaluation_s = Clock(), step_s, evaluation_s
        read = SimpleNamespace(monotonic=self.clock, perf_counter=self.clock)
        monkeypatch.setattr(orders_module, "time", read)

    def build(self, bucket, capacity, place):
        stack = super().build(bucket, capacity, place)
        run, evaluate = stack.run, stack.evaluate

        def run_slowly(until):
            before = [seat.consumed for seat in stack.seats]
            means = run(until)
            steps = max(seat.consumed - was for seat, was in zip(stack.seats, before, strict=True))
            self.clock.now += self._step_s * steps
            return means

        def evaluate_slowly(split, slots):
            self.clock.now += self._evaluation_s
            return evaluate(split, slots)

        stack.run, stack.evaluate = run_slowly, evaluate_slowly
        return stack


def slowly(run, monkeypatch, step_s, evaluation_s=0.0, **sweep):
    """Play a sweep on one stack by such a clock; how long it took, and what came of it."""
    trainable = Slow(monkeypatch, step_s, evaluation_s)
    stage = Stage(run, Fixed(), trainable=trainable, clock=trainable.clock, stacks=1, **sweep)
    stage.play()
    return trainable.clock.now - 100.0, stage


def test_a_limit_on_time_is_kept_and_used(tmp_path, monkeypatch):
    """Ten generations of 5 s and an evaluation of 0.5 s fit into a minute, the eleventh does not."""
    took, stage = slowly(new_run(tmp_path), monkeypatch, step_s=0.5, evaluation_s=0.5, generations=50, wall_minutes=1.0)
    assert took <= 60.0
    assert 10 == generations_of(stage)
    assert "the wall time is used up" in end_of(stage)
    assert {10} == {row["tokens"] // TOKENS for row in stage.rows("outcomes")}


def test_orders_carry_the_deadline(tmp_path, monkeypatch):
    """What training may take until the evaluation and the end; orders that train nothing have none."""
    _, stage = slowly(new_run(tmp_path), monkeypatch, step_s=0.5, generations=3, wall_minutes=1.0)
    assert [54.0, 49.0, 44.0] == [order.stop_after_s for order in stage.released[:3]]
    assert [None, None] == [order.stop_after_s for order in stage.released[3:]]
    _, unlimited = slowly(new_run(tmp_path), monkeypatch, step_s=0.5, generations=3)
    assert {None} == {order.stop_after_s for order in unlimited.released}


def test_a_generation_that_takes_longer_than_the_limit_is_cut_short(tmp_path, monkeypatch):
    """It was not known: all members stand where time was up, and the best of them is announced and saved."""
    took, stage = slowly(new_run(tmp_path), monkeypatch, step_s=0.5, generations=3, steps=1000, wall_minutes=1.0)
    assert took <= 60.0
    outcomes = stage.rows("outcomes")
    (consumed,) = {row["consumed_end"] for row in outcomes}
    assert (4, True) == (len(outcomes), 80 <= consumed < 120)
    assert "cut short" in end_of(stage)
    assert consumed * TOKENS == outcomes[0]["tokens"]
    assert stage.brain.best is not None
    assert 4 == len(stage.shelf.store.digests())


@examples(60)
@given(
    step_s=st.floats(1e-3, 2.0),
    share=st.floats(0, 0.2),
    steps=st.integers(1, 200),
    wall_minutes=st.floats(0.2, 5.0),
)
def test_time_is_never_exceeded_by_more_than_a_step(tmp_path_factory, step_s, share, steps, wall_minutes):
    """Whatever a step takes, as long as evaluating is short; and no segment is empty."""
    limit_s, evaluation_s = 60.0 * wall_minutes, 60.0 * wall_minutes * share / 10
    with pytest.MonkeyPatch.context() as monkeypatch:
        took, stage = slowly(
            new_run(tmp_path_factory.mktemp("runs")),
            monkeypatch,
            step_s=step_s,
            evaluation_s=evaluation_s,
            generations=60,
            steps=steps,
            wall_minutes=wall_minutes,
            members=2,
            checkpoints=Checkpoints(every_minutes=None),
        )
    assert took <= limit_s + step_s
    assert all(row["tokens"] > 0 for row in stage.rows("outcomes"))
    if generations_of(stage) < 60:
        assert took >= 0.7 * limit_s - steps * step_s - evaluation_s or "cut short" in end_of(stage)


def test_time_of_earlier_sessions_counts(tmp_path, monkeypatch):
    """Half a minute is gone when the sweep is taken up, however long ago that was."""
    run = new_run(tmp_path)
    trainable = Slow(monkeypatch, 0.5, 0.0)
    sweep = {"stacks": 1, "generations": 50, "wall_minutes": 1.0}
    first = Stage(run, Fixed(), trainable=trainable, clock=trainable.clock, **sweep)
    for _ in range(6):
        first.turn()
    first.brain.abandon()
    trainable = Slow(monkeypatch, 0.5, 0.0)
    trainable.clock.now += 1e6
    again = Stage(run, Fixed(), trainable=trainable, clock=trainable.clock, **sweep)
    again.play()
    assert trainable.clock.now - 1e6 - 100.0 <= 30.0
    assert [30.0, True] == [
        max(row["wall_s"] for row in again.rows("usage") if row["session"] == 1),
        max(row["wall_s"] for row in again.rows("usage") if row["session"] == 2) <= 30.0,
    ]


@pytest.mark.parametrize("options", [Fixed(), PBT(quantile=0.5)], ids=["fixed", "pbt"])
def test_a_segment_cut_short_before_a_crash_ends_the_sweep_after_it(tmp_path, monkeypatch, options):
    """One stack was cut short and reported, the other was under way: nobody is compared at unequal age after that."""
    run = new_run(tmp_path)

    def stage(step_s):
        trainable = Slow(monkeypatch, step_s, 0.0)
        sweep = {"stacks": 2, "generations": 6, "steps": 20, "joules": 65.0, "checkpoints": Checkpoints(every_steps=1)}
        made = Stage(run, options, trainable=trainable, clock=trainable.clock, **sweep)
        measured = made.carry_out
        made.carry_out = lambda stack: replace(report := measured(stack), joules=report.wall_s)
        return made, trainable

    before, trainable = stage(0.5)
    while len(before.rows("outcomes")) < 8:
        before.turn()
    trainable._step_s = 0.6
    while len(before.rows("outcomes")) < 9:
        before.turn()
    cut = [row["consumed_end"] for row in before.rows("outcomes")[8:]]
    assert {40 < consumed < 60 for consumed in cut} == {True}
    before.brain.abandon()
    after, _ = stage(0.1)  # a faster machine, that has energy left for more
    after.play()
    assert [2] * 4 == [row["segment"] for row in after.rows("outcomes")[8:]]
    (end,) = [row for row in after.rows("decisions") if row["kind"] == "budget"]
    assert "segments had to be cut short" in end["reason"]
    assert after.brain.finished
