"""`Language` under each parametrization: the contract, the base, what is multiplied, its buckets."""

import math
from typing import ClassVar

import pytest
import torch

from tests.contracts.stack_contract import Change, StackContract
from tests.contracts.states import assert_same
from tests.trainables.changes import ADAM, ADAM_SAMPLES, REST
from trainables import Language, Place, TrainableError
from trainables.core.model import initial_values
from trainables.core.step import compiler

TINY = {"width": 8, "depth": 2, "heads": 2, "context": 8, "batch": 2, "eval_bytes": 128}
SMALLER = {"base_width": 4, "base_depth": 1, "base_heads": 2}


class TestContract(StackContract):
    """The contract, with multipliers on everything: width and depth twice the base's."""

    SAMPLES = ADAM_SAMPLES
    CHANGES: ClassVar = ADAM | REST

    @pytest.fixture
    def trainable(self, text):
        return Language(**TINY, **SMALLER, data=text, parametrization="completep")


class TestContractOfMup(TestContract):
    """In width only, with Nesterov momentum."""

    CHANGES: ClassVar = {**TestContract.CHANGES, "momentum_decay": Change(to=0.5)}

    @pytest.fixture
    def trainable(self, text):
        return Language(**TINY, **SMALLER, data=text, parametrization="mup", optimizer="nadamw")


def _parameters(**options):
    return Language(**TINY, **options)._program({}).model.parameters()


def _trained(trainable):
    stack = trainable.build(trainable.bucket({}), 1, Place(compile="never"))
    stack.admit(0, {"dropout": 0.1}, seed=3)
    stack.run([5])
    return stack.state(0)


@pytest.mark.parametrize(
    ("name", "optimizer"), [("mup", "adamw"), ("mup", "nadamw"), ("mup", "sgdw"), ("completep", "adamw")]
)
def test_the_base_is_standard(text, name, optimizer):
    """With the base's width, depth and heads, training is that of `standard`, bit for bit."""
    options = {**TINY, "data": text, "optimizer": optimizer}
    base = {"base_width": 8, "base_depth": 2, "base_heads": 2, "parametrization": name}
    assert_same(_trained(Language(**options)), _trained(Language(**options, **base)))


def test_multipliers_are_those_of_each_role():
    """Twice the width and depth of the base, under AdamW: (lr, decay, eps) of each kind of tensor."""
    found = _parameters(**SMALLER, parametrization="completep")
    scales = {name: (p.scale.lr, p.scale.decay, p.scale.eps) for name, p in found.items()}
    hidden, inside, outside = (0.5, 2.0, 0.25), (1.0, 1.0, 0.25), (1.0, 1.0, 0.5)
    for i in range(2):
        for name in ("attention.qkv", "attention.out", "mlp.up", "mlp.down"):
            assert scales.pop(f"blocks.{i}.{name}") == hidden
        for name in ("attention.norm", "mlp.norm"):
            assert scales.pop(f"blocks.{i}.{name}") == inside
    assert scales == {"embedding": outside, "norm": outside, "head": outside}


def test_initial_weights():
    """`mup` begins as `standard` does, `completep` with branches as wide as at the base's depth."""
    standard, mup, completep = (
        initial_values(_parameters(**SMALLER, parametrization=name), 1) for name in ("standard", "mup", "completep")
    )
    for name, tensor in standard.items():
        assert torch.equal(tensor, mup[name])
        ends = name.endswith(("attention.out", "mlp.down"))
        torch.testing.assert_close(completep[name], tensor * (math.sqrt(2.0) if ends else 1.0), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("name", "residual"), [("mup", 1.0), ("completep", 0.5)])
def test_forward_multipliers(name, residual):
    """The model is `standard` with the multipliers folded into queries, ends of branches and head."""
    plain, scaled = (
        Language(**TINY, **SMALLER, parametrization=which)._program({}).model for which in ("standard", name)
    )
    generator = torch.Generator().manual_seed(0)
    shapes = {n: p.shape for n, p in plain.parameters().items()}
    params = {n: torch.randn(1, *shape, generator=generator, dtype=torch.float64) for n, shape in shapes.items()}
    folded = {n: t.clone() for n, t in params.items()}
    for n, tensor in folded.items():
        if n.endswith(("attention.out", "mlp.down")):
            tensor *= residual
        if n.endswith("qkv"):
            # Scores times sqrt(2) / 4 instead of 1 / sqrt(4).
            tensor[:, :8] *= math.sqrt(2.0) / math.sqrt(4.0)
    folded["head"] /= 2.0
    batch = torch.randint(256, (3, 9), generator=generator)
    for metric, value in scaled.evaluate(params, batch).items():
        torch.testing.assert_close(value, plain.evaluate(folded, batch)[metric], rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"base_width": 32},
        {"base_depth": 4},
        {"base_heads": 4},
        {"parametrization": "mup", "base_depth": 4},
        {"schedule_knots": 3},
        {"noise_decay": 0.5},
    ],
)
def test_what_has_no_effect_is_not_named(text, options):
    """Neither in the bucket nor in the weights: members with and without it may share a stack."""
    usual = {name: value for name, value in options.items() if name == "parametrization"}
    with_it, without = (Language(**TINY, data=text, **given) for given in (options, usual))
    assert with_it.bucket({}) == without.bucket({})
    assert_same(_trained(with_it), _trained(without))


@pytest.mark.parametrize(
    "options",
    [
        {"parametrization": "mup", "base_heads": 4},
        {"parametrization": "completep", "base_depth": 4},
        {"schedule": "piecewise_linear", "schedule_knots": 3},
        {"accumulate": 2, "noise_decay": 0.5},
    ],
)
def test_what_has_an_effect_is_named(options):
    """The same options, where they make another program."""
    name, value = list(options.items())[-1]
    assert Language(**TINY, **options).bucket({}).endswith(f"-{name}{value}")


def test_buckets_name_what_is_not_the_default():
    """Names on record stay; another parametrization or base is another bucket."""
    plain, mup, base = (
        Language(**TINY, **o).bucket({})
        for o in ({}, {"parametrization": "mup"}, {"parametrization": "mup", "base_width": 32})
    )
    assert plain == "language-width8-depth2-heads2-context8-batch2"
    assert mup == f"{plain}-parametrizationmup"
    assert base == f"{mup}-base_width32"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parametrization": "mu"}, r"parametrization is 'mu'; did you mean 'mup'\?"),
        ({"parametrization": "mup", "optimizer": "lamb"}, "'mup' has no rule for optimizer 'lamb'"),
        ({"parametrization": "mup", "optimizer": "lars"}, "'mup' has no rule for optimizer 'lars'"),
        ({"parametrization": "mup", "optimizer": "torch.rmsprop"}, "'mup' has no rule for optimizer 'torch.rmsprop'"),
        ({"parametrization": "completep", "optimizer": "nesterov"}, "'completep' has no rule for optimizer 'nesterov'"),
        ({"base_width": 0}, "base_width is 0"),
        ({"base_depth": 1.5}, "base_depth is 1.5"),
        ({"base_heads": True}, "base_heads is True"),
        ({"base_width": 10}, "base_width is 10; give a multiple of 4"),
    ],
)
def test_bad_options_are_refused(options, message):
    """Each message names the option, the value and the mend, in one line."""
    with pytest.raises(TrainableError, match=message) as caught:
        Language(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.full
@pytest.mark.skipif(compiler() is None, reason="no C++ compiler for torch.compile")
def test_compiled_equals_eager(text):
    """The multipliers are constants of the one graph, micro-batches included."""
    trainable = Language(
        **TINY | {"width": 16}, data=text, parametrization="completep", base_width=8, base_heads=1, accumulate=2
    )
    states = []
    for how in ("never", "always"):
        stack = trainable.build(trainable.bucket({}), 2, Place(dtype="float64", compile=how))
        for slot in range(2):
            stack.admit(slot, {"lr": 0.01 * (slot + 1), "dropout": 0.1 * slot}, seed=slot)
        stack.run([5, 5])
        states.append(stack.state(1))
    for eager, compiled in zip(states[0].shards, states[1].shards, strict=True):
        torch.testing.assert_close(eager.tensor, compiled.tensor, rtol=1e-9, atol=1e-12)
