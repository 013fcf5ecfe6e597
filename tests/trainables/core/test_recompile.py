"""How often a step is compiled: once for whatever makes another graph, and then never again.

torch is told not to check at each call that a graph is the right one, so these tests compare with eager stacks, too.
Steps are traced as for inductor, but run as traced (torch's `eager` backend), which takes seconds.
"""

from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch

from tests.contracts.states import assert_close, finite
from tests.trainables.core.regression import Linear, Network, program, stack
from trainables import Language, Place, Plan
from trainables.core import step
from trainables.core.optim import SGD, AdamW
from trainables.core.schedules import build
from trainables.core.schedules.registry import Setting
from trainables.core.step import compiler, structure

EAGER = Place(dtype="float64", compile="never")
COMPILED = replace(EAGER, compile="always")

pytestmark = [
    pytest.mark.skipif(compiler() is None, reason="no C++ compiler for torch.compile"),
    # torch's own, while it imports its compiler.
]


@pytest.fixture(autouse=True)
def _traced(monkeypatch):
    """No graphs at first, and none taken to inductor."""
    real = torch.compile

    def traced(function, *, options, **how):
        kept = {name: value for name, value in options.items() if name == "guard_filter_fn"}
        return real(function, backend="eager", options=kept, **how)

    def forget():
        step._compiled.cache_clear()
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()

    monkeypatch.setattr(torch, "compile", traced)
    forget()
    yield
    forget()


def _graphs():
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


# --- one stack


def _other(spec):
    """A value within the bounds that is not the default; 0 where that is possible, as 0 may switch something off."""
    if spec.default != 0 and (spec.low is None or spec.low <= 0):
        return type(spec.default)(0)
    return type(spec.default)(spec.default + 1 if spec.high is None else (spec.default + spec.high) / 2)


def _lived(trainable, place):
    """A stack of three after other hyperparameters, ages, seeds, members, slots, a copy and a NaN."""
    specs = {name: spec for name, spec in trainable.describe().hparams.items() if spec.kind == "live"}
    made = trainable.build(trainable.bucket({}), 3, place)
    made.admit(0, {}, seed=1)
    made.run([2, 0, 0])
    made.admit(2, {}, seed=-5)
    made.run([3, 0, 7])
    for name, spec in specs.items():
        made.set_hparams([2], **{name: [_other(spec)]})
        made.run([made.progress(0)[1] + 1, 0, made.progress(2)[1] + 1])
    made.set_hparams([0, 2], **{name: [_other(spec)] * 2 for name, spec in specs.items()})
    made.admit(1, {"lr": 1e-3}, seed=2**63, state=made.evict(0), consumed=10**9)
    made.copy([2], [1])
    wild = made.evict(2)
    wild.shards[0].tensor.fill_(torch.nan)
    made.admit(2, {}, seed=3, state=wild)
    made.evaluate("validation", [1])
    made.run([0, 10**9 + 3, made.progress(2)[1] + 3])
    assert not finite(made.state(2))
    return made.state(1)


OTHERS = [
    {"optimizer": "nadamw", "schedule": "power", "schedule_unit": "tokens"},
    {"optimizer": "lamb", "schedule": "piecewise_linear", "schedule_knots": 2},
    {"optimizer": "lars", "schedule": "rewarmed_cosine", "accumulate": 2},
    {"optimizer": "nesterov", "schedule": "wsd", "parametrization": "mup", "base_width": 4, "base_heads": 1},
]


@pytest.mark.parametrize(
    "options",
    [
        {},
        *(pytest.param(it, marks=pytest.mark.full) for it in OTHERS),
    ],
    ids=lambda options: options.get("optimizer", "default"),
)
def test_a_stacks_whole_life_is_one_graph(text, options):
    """Whatever happens to its members, in both of its chunks; they train as in an eager stack."""
    trainable = Language(width=8, depth=1, heads=2, context=8, batch=2, eval_bytes=64, data=text, **options)
    plan = Plan(chunk=2, compiled=True)
    compiled = _lived(trainable, replace(COMPILED, plan=plan))
    assert _graphs() == 1
    eager = _lived(trainable, replace(EAGER, plan=replace(plan, compiled=False)))
    assert finite(eager)
    assert_close(eager, compiled, 1e-12)


# --- many stacks


def test_stacks_alike_share_a_graph():
    """Another stack of the same program, capacity and precision costs no compilation, even after the first is gone."""
    for start in (0.4, 0.4, 0.4):
        stack(program(Linear(start), 4, 1), [{}, {"lr": 0.5}], COMPILED).run([2, 2])
    assert _graphs() == 1


def _variants():
    """What makes another graph, all of three members: programs, and where they are trained."""
    usual = program(Network(), 6, 2)
    setting = Setting(batch_size=6, tokens_per_step=6, num_knots=2)
    yield usual, COMPILED
    yield program(Network(), 6, 1), COMPILED
    yield program(Network(), 6, 3), COMPILED
    yield program(Network(), 12, 2), COMPILED
    yield program(Linear(), 6, 2), COMPILED
    yield program(Network(), 6, 2, noise_decay=0.5), COMPILED
    yield replace(usual, optimizer=SGD(momentum=True, decay=None)), COMPILED
    yield replace(usual, optimizer=SGD(momentum=True, nesterov=True, decay=None)), COMPILED
    yield replace(usual, optimizer=AdamW()), COMPILED
    yield replace(usual, optimizer=AdamW(eps=0.1)), COMPILED
    yield replace(usual, schedule=build("cosine", setting)), COMPILED
    yield replace(usual, schedule=build("cosine", setting, "tokens")), COMPILED
    yield replace(usual, schedule=build("power", setting)), COMPILED
    yield replace(usual, schedule=build("power", replace(setting, tokens_per_step=7))), COMPILED
    yield usual, replace(COMPILED, fixed=frozenset({"dropout"}))
    yield usual, replace(COMPILED, plan=Plan(chunk=2, compiled=True))
    yield usual, replace(COMPILED, plan=Plan(chunk=3, compiled=True, accumulate=3))


@pytest.mark.full
def test_whatever_differs_has_a_graph_of_its_own():
    """More graphs than torch keeps of one function, none turned eager, none taken for another."""
    made = list(_variants())
    assert len(made) > torch._dynamo.config.recompile_limit
    for number, (variant, place) in enumerate(made, 1):
        hparams = [{"lr": 0.01 * (1 + slot)} for slot in range(3)]
        eager = replace(place, compile="never", plan=place.plan and replace(place.plan, compiled=False))
        states = []
        for where in (place, eager):
            members = stack(variant, hparams, where)
            members.run([4] * 3)
            states.append(members.state(2))
        assert_close(states[1], states[0], 1e-12)
        assert _graphs() == number


def test_no_graph_is_kept_where_another_step_could_find_it():
    """torch looks graphs up by code object, and unchecked takes the first: none are kept under the step's own."""
    from torch._dynamo.eval_frame import _get_total_cache_entry_count

    for number in (1, 2):
        stack(program(Network(), 6, number), [{}], COMPILED).run([2])
    assert _graphs() == 2
    assert _get_total_cache_entry_count(step.train_step) == 0


@dataclass(frozen=True)
class _Thing:
    """Any part of a program."""

    value: object


@dataclass(frozen=True)
class _Likewise:
    """The same fields, another class."""

    value: object


def test_values_that_are_equal_but_not_alike_are_told_apart():
    """1, 1.0 and True compare equal, and what is computed with them does not."""
    found = [structure(_Thing(value)) for value in (1, 1.0, True, 2, "1", None, (1,), [1], (1, 1), {"a": 1}, {"b": 1})]
    assert len(set(found)) == len(found)
    assert structure(_Thing(1)) != structure(_Likewise(1))
    assert structure({"a": 1, "b": 2}) != structure({"b": 2, "a": 1})


def test_tensors_are_told_apart_by_what_they_look_like():
    """Not by their values: those may change, and may be another stack's."""
    zeros = torch.zeros(3, 4)
    assert structure(_Thing(zeros)) == structure(_Thing(torch.ones(3, 4)))
    others = (torch.zeros(4, 3), torch.zeros(4, 3).T, zeros.double(), torch.zeros(3, 4, device="meta"))
    assert len({structure(tensor) for tensor in (zeros, *others)}) == 5


def test_what_cannot_be_compared_is_never_shared():
    """An object that says nothing of its contents is only like itself; without a hash it is like nothing."""
    first, second = partial(max, 1), partial(max, 1)
    assert structure(first) == structure(first)
    assert structure(first) != structure(second)
    unhashable = bytearray(b"1")
    assert structure(unhashable) != structure(unhashable)
