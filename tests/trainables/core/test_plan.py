"""The planner: which candidates it tries, what it takes, and that it leaves things alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from trainables import Language, Place, Plan, Quadratic, TrainableError
from trainables.core import plan as planner
from trainables.core.plan import Ahead, ladder, measured
from trainables.core.step import compiler

NEVER = Place(compile="never")


@pytest.fixture
def speeds(monkeypatch):
    """Member-steps per second by candidate, told instead of measured; whatever was asked for, in order."""

    def tell(table: dict[tuple[int, bool], float], too_large: int | None = None) -> list[tuple[int, bool, int]]:
        tried: list[tuple[int, bool, int]] = []

        def warmed(self, candidate):
            size, compiled = candidate
            tried.append((*candidate, self.accumulate))
            if too_large is not None and size * 8 // self.accumulate >= too_large:
                return None
            return self._stack((size, False)) if not compiled else _Named(candidate, self._stack((size, False)))

        class _Named:
            def __init__(self, candidate, stack):
                self.candidate, self.capacity = candidate, stack.capacity

        def rate(self, stack):
            return table[getattr(stack, "candidate", (stack.capacity, False))]

        monkeypatch.setattr(planner._Search, "_warmed", warmed)
        monkeypatch.setattr(planner._Search, "_rate", rate)
        monkeypatch.setattr(planner, "compiler", lambda: "/usr/bin/c++")
        return tried

    return tell


def plan(capacity: int, place: Place = NEVER, ahead: Ahead | None = None) -> Plan:
    return measured(Quadratic(), Quadratic().bucket({}), capacity, place, ahead)


@pytest.mark.parametrize(
    ("capacity", "sizes"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (4, [1, 2, 4]), (6, [1, 2, 4, 6]), (9, [1, 2, 4, 8, 9])],
)
def test_the_ladder(capacity, sizes):
    """Powers of two, and the capacity itself."""
    assert ladder(capacity) == sizes


def test_the_fastest_is_taken(speeds):
    """With what was measured, for the record."""
    tried = speeds({(1, False): 10.0, (2, False): 30.0, (4, False): 20.0})
    found = plan(4)
    assert found == Plan(chunk=2, compiled=False)
    assert found.rates == {"1 eager": 10.0, "2 eager": 30.0, "4 eager": 20.0}
    assert tried == [(1, False, 1), (2, False, 1), (4, False, 1)]


def test_ties_go_to_larger_chunks(speeds):
    """Two percent are no difference."""
    speeds({(1, False): 30.4, (2, False): 30.0, (4, False): 30.1})
    assert plan(4) == Plan(chunk=4, compiled=False)


def test_where_there_is_little_to_train_nothing_is_compared(speeds):
    """Less than a minute's work, or less than a minute for it: all slots together."""
    tried = speeds({(1, False): 50.0, (2, False): 30.0, (4, False): 20.0})
    assert plan(4, Place(), Ahead(100)) == Plan(chunk=4, compiled=False)
    assert tried == [(4, False, 1)]
    assert plan(4, Place(), Ahead(400)).chunk == 1
    assert plan(4, Place(), Ahead(400, limit_s=50.0)).chunk == 4


def test_compiling_begins_with_the_single_member_and_the_fastest_size(speeds):
    """Then neighbours, for as long as that helps; the finalists and the single member are measured once more."""
    eager = {(1, False): 10.0, (2, False): 20.0, (4, False): 19.0, (8, False): 15.0}
    compiled = {(1, True): 25.0, (2, True): 30.0, (4, True): 40.0, (8, True): 35.0}
    tried = speeds(eager | compiled)
    assert plan(8, Place(compile="always")) == Plan(chunk=4, compiled=True)
    assert [(size, is_compiled) for size, is_compiled, _ in tried] == [
        *((size, False) for size in (1, 2, 4, 8)),
        *((1, True), (2, True)),
        *((2, True), (4, True)),
        *((4, True), (8, True)),
        *((2, True), (1, True)),
        *((1, True), (2, True), (4, True), (8, True)),
    ]


def test_never_slower_than_a_compiled_single_member(speeds):
    """It is always a candidate, and taken where nothing beats it."""
    speeds({(1, False): 10.0, (2, False): 20.0, (1, True): 40.0, (2, True): 30.0})
    assert plan(2, Place(compile="always")) == Plan(chunk=1, compiled=True)


@pytest.mark.parametrize(("rate", "chunk"), [(48.0, 1), (52.0, 4)])
def test_on_a_cpu_chunks_must_beat_the_compiled_single_member_clearly(speeds, rate, chunk):
    """They are measured while other cores may be idle, and lose more when those train as well."""
    eager = {(1, False): 10.0, (2, False): 20.0, (4, False): 30.0}
    speeds(eager | {(1, True): 40.0, (2, True): 41.0, (4, True): rate})
    assert plan(4, Place(compile="always")) == Plan(chunk=chunk, compiled=True)


@pytest.mark.parametrize(("steps", "compiles"), [(None, False), (100, False), (100_000, True)])
def test_auto_compiles_on_a_cpu_where_it_pays(speeds, steps, compiles):
    """With more than an hour to train."""
    tried = speeds({(1, False): 10.0, (2, False): 20.0, (1, True): 30.0, (2, True): 40.0})
    plan(2, Place(), None if steps is None else Ahead(steps))
    assert any(is_compiled for _, is_compiled, _ in tried) is compiles


def test_what_does_not_fit_is_out_and_a_member_that_does_not_fit_is_split(speeds):
    """Into micro-batches, twice as many each time."""
    language = Language(width=16, depth=1, context=16, batch=8)
    speeds({(1, False): 10.0, (2, False): 30.0, (4, False): 20.0}, too_large=20)
    assert measured(language, language.bucket({}), 4, NEVER) == Plan(chunk=2, compiled=False)
    speeds({(1, False): 10.0, (2, False): 30.0, (4, False): 20.0}, too_large=4)
    assert measured(language, language.bucket({}), 4, NEVER) == Plan(chunk=1, compiled=False, accumulate=4)


def test_what_finds_no_room_beside_others_is_measured_alone(monkeypatch):
    """All candidates of a round are on the device together; a stack has it to itself."""
    alive: list[int] = []

    class Occupying:
        def __init__(self, size):
            self.capacity = size
            alive.append(size)

        def __del__(self):
            alive.remove(self.capacity)

    def warmed(self, candidate):
        return Occupying(candidate[0]) if sum(alive) + candidate[0] <= 4 else None

    monkeypatch.setattr(planner._Search, "_warmed", warmed)
    monkeypatch.setattr(planner._Search, "_rate", lambda self, stack: 10.0 * stack.capacity)
    found = plan(4)
    assert found == Plan(chunk=4, compiled=False)
    assert found.rates == {"1 eager": 10.0, "2 eager": 20.0, "4 eager": 40.0}


def test_a_member_that_never_fits_is_told_of(speeds):
    """With the mend."""
    language = Language(width=16, depth=1, context=16, batch=8)
    speeds({}, too_large=0)
    with pytest.raises(TrainableError, match="a single member does not fit the memory of cpu"):
        measured(language, language.bucket({}), 2, NEVER)


def test_real_measuring_changes_nothing_that_is_there():
    """Random numbers come from members' seeds, so nothing global moves either."""
    before = torch.get_rng_state()
    found = plan(3)
    assert found.chunk in (1, 2, 3)
    assert set(found.rates) == {"1 eager", "2 eager", "3 eager"}
    assert all(rate > 0 for rate in found.rates.values())
    assert torch.equal(before, torch.get_rng_state())


def test_stacks_of_others_are_left_as_they_are():
    """A trainable need not be built on this core."""

    class Other:
        def build(self, bucket, capacity, place):
            return object()

    assert measured(Other(), "bucket", 4, NEVER) is None


@pytest.mark.full
@pytest.mark.full
@pytest.mark.skipif(compiler() is None, reason="no C++ compiler for torch.compile")
def test_a_stack_trains_by_a_compiled_plan():
    """Measured, taken, and the same to rounding as the eager stack."""
    quadratic = Quadratic()
    found = plan(2, Place(dtype="float64", compile="always"))
    assert {"1 compiled", "2 compiled"} & set(found.rates)
    eager, compiled = (
        quadratic.build(quadratic.bucket({}), 2, Place(dtype="float64", plan=Plan(chunk=2, compiled=how)))
        for how in (False, True)
    )
    for stack in (eager, compiled):
        for slot in range(2):
            stack.admit(slot, {"h0": 0.5 + slot}, seed=slot)
        stack.run([20, 10])
    assert compiled.plan.compiled
    for slot in range(2):
        torch.testing.assert_close(eager.state(slot).shards[0].tensor, compiled.state(slot).shards[0].tensor)


@pytest.mark.full
@pytest.mark.full
@pytest.mark.skipif(compiler() is None, reason="no C++ compiler for torch.compile")
def test_stacks_in_threads_compile_one_after_the_other():
    """As those of a local host do when a sweep goes on by a recorded plan, which nobody measures again."""
    quadratic = Quadratic()

    def trained(size, compiled):
        place = Place(dtype="float64", plan=Plan(chunk=size, compiled=compiled))
        stack = quadratic.build(quadratic.bucket({}), size, place)
        for slot in range(size):
            stack.admit(slot, {"h0": 0.5 + slot}, seed=slot)
        for consumed in range(5, 500, 5):  # often enough to meet the others in torch's look-up of graphs
            stack.run([consumed] * size)
        return stack.state(size - 1).shards[0].tensor

    with ThreadPoolExecutor() as threads:
        found = list(threads.map(lambda size: trained(size, True), (21, 22, 23)))
    for size, tensor in zip((21, 22, 23), found, strict=True):
        torch.testing.assert_close(tensor, trained(size, False))
