"""How often a step is compiled: once for a program, a capacity and a precision, and then never again.

Traced and guarded as for inductor, but run as traced (torch's `eager` backend), which takes seconds.
"""

import pytest
import torch

from tests.contracts.states import assert_close, finite
from tests.trainables.core.regression import Linear, Network, program, stack
from trainables import Language, Place
from trainables.core import step
from trainables.core.step import MAX_GRAPHS, compiler

COMPILED = Place(dtype="float64", compile="always")

pytestmark = [
    pytest.mark.skipif(compiler() is None, reason="no C++ compiler for torch.compile"),
    # torch's own, while it imports its compiler.
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def _traced(monkeypatch):
    """No graphs at first, and none taken to inductor."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, *, options, **how: real(f, backend="eager", **how))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def _graphs():
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def _other(spec):
    """A value within the bounds that is not the default; 0 where that is possible, as 0 may switch something off."""
    if spec.default != 0 and (spec.low is None or spec.low <= 0):
        return type(spec.default)(0)
    return type(spec.default)(spec.default + 1 if spec.high is None else (spec.default + spec.high) / 2)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": "nadamw", "schedule": "power", "schedule_unit": "tokens"},
        {"optimizer": "lamb", "schedule": "piecewise_linear", "schedule_knots": 2},
        {"optimizer": "lars", "schedule": "rewarmed_cosine", "accumulate": 2},
        {"optimizer": "nesterov", "schedule": "wsd", "parametrization": "mup", "base_width": 4, "base_heads": 1},
    ],
    ids=lambda options: options.get("optimizer", "default"),
)
def test_a_stacks_whole_life_is_one_graph(text, options):
    """Other hyperparameters, ages, seeds, members, slots, copies and NaN: nothing is compiled again."""
    trainable = Language(width=8, depth=1, heads=2, context=8, batch=2, eval_bytes=64, data=text, **options)
    specs = trainable.describe().hparams
    made = trainable.build(trainable.bucket({}), 3, COMPILED)
    made.admit(0, {}, seed=1)
    made.run([2, 0, 0])
    assert _graphs() == 1
    made.admit(2, {}, seed=-5)
    made.run([3, 0, 7])
    for name, spec in specs.items():
        made.set_hparams([2], **{name: [_other(spec)]})
        made.run([made.progress(0)[1] + 1, 0, made.progress(2)[1] + 1])
    made.set_hparams([0, 2], **{name: [_other(spec)] * 2 for name, spec in specs.items()})
    made.admit(1, {}, seed=2**63, state=made.evict(0), consumed=10**9)
    made.copy([2], [1])
    wild = made.evict(2)
    wild.shards[0].tensor.fill_(torch.nan)
    made.admit(2, {}, seed=3, state=wild)
    made.evaluate("validation", [1])
    made.run([0, 10**9 + 3, made.progress(2)[1] + 3])
    assert not finite(made.state(2))
    assert _graphs() == 1


def test_stacks_alike_share_a_graph():
    """Another stack of the same program, capacity and precision costs no compilation, even after the first is gone."""
    for _ in range(3):
        members = stack(program(Network(), 4, 1), [{}, {"dropout": 0.5}], COMPILED)
        members.run([2, 2])
    assert _graphs() == 1


def test_a_process_may_hold_many():
    """Capacities and programs beyond torch's own limit: all compiled, none turned eager, all as eager ones are."""
    assert torch._dynamo.config.recompile_limit < 14 <= MAX_GRAPHS
    made = [(Linear(), 4, 1, capacity) for capacity in range(1, 12)]
    made += [(Linear(), 6, 2, 2), (Network(), 4, 1, 2), (Network(), 4, 4, 2)]
    for model, batch_size, accumulate, capacity in made:
        stacks = [
            stack(program(model, batch_size, accumulate), [{"lr": 0.1, "dropout": 0.2}] * capacity, place)
            for place in (COMPILED, Place(dtype="float64", compile="never"))
        ]
        for members in stacks:
            members.run([3] * capacity)
        assert_close(stacks[1].state(capacity - 1), stacks[0].state(capacity - 1), 1e-12)
    assert _graphs() == len(made)


def test_beyond_the_limit_is_an_error(monkeypatch):
    """Never silently eager."""
    monkeypatch.setattr(step, "MAX_GRAPHS", 2)
    for capacity in (1, 2):
        stack(program(Linear(), 4, 1), [{}] * capacity, COMPILED).run([1] * capacity)
    with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
        stack(program(Linear(), 4, 1), [{}] * 3, COMPILED).run([1] * 3)
