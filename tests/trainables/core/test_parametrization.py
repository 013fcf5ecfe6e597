"""Parametrizations: the tables of the papers, written out independently, and what is refused."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest
import torch

from tests.trainables.core.optim.problem import PARAMETERS, Bumpy, NoData, weights
from trainables.base import HparamSpec, Place, TrainableError
from trainables.core.model import Parameter, Program
from trainables.core.optim import LAMB, LARS, REGISTERED, SGD, AdamW, NAdamW, Scale, ready
from trainables.core.parametrization import PARAMETRIZATIONS, Multipliers, Scaling
from trainables.core.schedules import Constant
from trainables.core.stack import CoreStack

ROLES = ("embedding", "hidden", "output", "gain", "bias")
VOCABULARY, BASE = 256, 64

#: Yang et al. 2022, table 8: initial variance, multiplier, SGD lr, Adam lr, by fan_in and fan_out.
_INPUT = (lambda i, o: 1 / i, lambda i, o: 1, lambda i, o: o, lambda i, o: 1)
_OUTPUT = (lambda i, o: 1, lambda i, o: 1 / i, lambda i, o: i, lambda i, o: 1)
_HIDDEN = (lambda i, o: 1 / i, lambda i, o: 1, lambda i, o: 1, lambda i, o: 1 / i)
TABLE_8 = {"embedding": _INPUT, "gain": _INPUT, "bias": _INPUT, "hidden": _HIDDEN, "output": _OUTPUT}


def _fans(role, width):
    """(fan_in, fan_out); gains and biases are matrices on an input of size 1."""
    return {"embedding": (VOCABULARY, width), "hidden": (width, width), "output": (width, VOCABULARY)}.get(
        role, (1, width)
    )


@pytest.mark.parametrize("width", [16, 64, 192, 256])
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("family", ["adam", "sgd"])
def test_mup_is_table_8(family, role, width):
    """Every constant is the table's at this width over the table's at the base, and lr * decay stays."""
    found = Scaling(name="mup", family=family, width=width / BASE).tensor(role)

    def ratio(column):
        return TABLE_8[role][column](*_fans(role, width)) / TABLE_8[role][column](*_fans(role, BASE))

    # What the standard parametrization makes of the width by itself: matrices have 1 / sqrt(fan_in).
    usual = math.sqrt(BASE / width) if role in ("hidden", "output") else 1.0
    assert found.std * usual == pytest.approx(math.sqrt(ratio(0)))
    assert found.forward == pytest.approx(ratio(1))
    assert found.lr == pytest.approx(ratio(3 if family == "adam" else 2))
    assert found.lr * found.decay == pytest.approx(1.0)


#: Dey et al. 2025, table 1 at m_N = 4, m_L = 8 and alpha = 1: (lr, weight decay, eps), by role and place.
TABLE_1 = {
    "mup": {
        ("embedding", False): (1.0, 1.0, 1 / 4),
        ("gain", True): (1.0, 1.0, 1 / 4),
        ("bias", True): (1.0, 1.0, 1 / 4),
        ("hidden", True): (1 / 4, 4.0, 1 / 4),
        ("gain", False): (1.0, 1.0, 1 / 4),
        ("output", False): (1.0, 1.0, 1 / 4),
    },
    "completep": {
        ("embedding", False): (1.0, 1.0, 1 / 4),
        ("gain", True): (1.0, 1.0, 1 / 32),
        ("bias", True): (1.0, 1.0, 1 / 32),
        ("hidden", True): (1 / 4, 4.0, 1 / 32),
        ("gain", False): (1.0, 1.0, 1 / 4),
        ("output", False): (1.0, 1.0, 1 / 4),
    },
}


@pytest.mark.parametrize("name", TABLE_1)
def test_adam_is_table_1(name):
    """Learning rate, decoupled decay and eps under AdamW, the residual multiplier and the output's."""
    scaling = Scaling(name=name, width=4.0, depth=8.0)
    found = {place: scaling.tensor(*place) for place in TABLE_1[name]}
    assert {place: (m.lr, m.decay, m.eps) for place, m in found.items()} == TABLE_1[name]
    assert {role for (role, _), m in found.items() if m.forward != 1.0} == {"output"}
    assert found["output", False].forward == 1 / 4
    assert scaling.residual == {"mup": 1.0, "completep": 1 / 8}[name]
    assert scaling.attention(64, 16) == 4 / 64


@pytest.mark.parametrize("name", PARAMETRIZATIONS)
@pytest.mark.parametrize("branch", [False, True])
@pytest.mark.parametrize("role", ROLES)
def test_all_are_standard_at_the_base(name, role, branch):
    """At the base's size every constant is exactly 1, and attention as usual."""
    scaling = Scaling(name=name)
    assert scaling.tensor(role, branch) == Multipliers()
    assert (scaling.residual, scaling.attention(16, 16)) == (1.0, None)


@pytest.mark.parametrize("role", ROLES)
def test_standard_is_standard_at_every_size(role):
    """Any optimizer, any size: nothing is multiplied."""
    scaling = Scaling(optimizer="lamb", family="", width=7.0, depth=3.0)
    assert scaling.tensor(role, True) == Multipliers()
    assert (scaling.residual, scaling.attention(64, 16)) == (1.0, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "completp"}, r"parametrization is 'completp'; did you mean 'completep'\?"),
        ({"name": "xyz"}, "parametrization is 'xyz'; known: completep, mup, standard"),
        ({"name": ["mup"]}, r"parametrization is \['mup'\]"),
        ({"name": "mup", "optimizer": "lamb", "family": ""}, "'mup' has no rule for optimizer 'lamb'.*adam and sgd"),
        ({"name": "completep", "optimizer": "sgd", "family": "sgd"}, "'completep' has no rule for optimizer 'sgd'"),
        ({"name": "mup", "width": 0.0}, "width multiplier is 0.0"),
        ({"name": "mup", "depth": math.nan}, "depth multiplier is nan"),
    ],
)
def test_bad_scalings_are_refused(options, message):
    """Each message names what is wrong and the mend."""
    with pytest.raises(TrainableError, match=message):
        Scaling(**options)


def test_an_unknown_role_is_refused():
    """The message has the nearest role."""
    with pytest.raises(TrainableError, match=r"role is 'hiden'; did you mean 'hidden'\?"):
        Scaling().tensor("hiden")


def test_families_of_optimizers():
    """Adam-like and SGD-like rules have one; those with trust ratios and torch's own have none."""
    families = {name: ready(name).family for name in REGISTERED}
    assert {name for name, family in families.items() if family == "adam"} == {"adamw", "nadamw"}
    assert {name for name, family in families.items() if family == "sgd"} == {"sgd", "nesterov", "sgdw"}


# --- optimizers apply multipliers

SCALES = {
    "weight": Scale(lr=0.25, decay=3.0, eps=100.0),
    "gate": Scale(lr=2.0, decay=0.5, eps=0.01),
}


@dataclass(frozen=True)
class Scaled(Bumpy):
    """The same problem, whose loss is a sum over elements: tensors do not hear of each other."""

    def parameters(self) -> Mapping[str, Parameter]:
        return {name: replace(p, scale=SCALES.get(name, p.scale)) for name, p in PARAMETERS.items()}


def _trained(model, optimizer, hparams, steps=20):
    program = Program(
        model=model,
        feed=NoData(),
        optimizer=optimizer,
        schedule=Constant(),
        extra_hparams={"scale": HparamSpec(kind="live", default=1.0)},
    )
    stack = CoreStack(program, 2, Place(dtype="float64", compile="never"))
    for slot in range(2):
        stack.admit(slot, {**hparams, "lr": 0.01 * (slot + 1)}, seed=slot)
    stack.run([steps] * 2)
    return stack


@pytest.mark.parametrize(
    "optimizer",
    [
        AdamW(eps=1e-3),
        NAdamW(eps=1e-3),
        SGD(),
        SGD(momentum=True),
        SGD(momentum=True, nesterov=True, decay="decoupled"),
        SGD(decay="decoupled"),
        SGD(decay=None),
    ],
)
def test_each_tensor_has_its_own_hparams(optimizer):
    """A tensor with multipliers goes where it would with hyperparameters multiplied for all."""
    hparams = {} if "weight_decay" not in optimizer.hparams else {"weight_decay": 0.1}
    found = _trained(Scaled(), optimizer, hparams)
    plain = _trained(Bumpy(), optimizer, hparams)
    for slot in range(2):
        assert torch.equal(weights(found, slot)["bias"], weights(plain, slot)["bias"])
    for name, scale in SCALES.items():
        alike = replace(optimizer, eps=1e-3 * scale.eps) if optimizer.family == "adam" else optimizer
        program = _with_lr(alike, hparams, scale)
        for slot in range(2):
            assert not torch.equal(weights(found, slot)[name], weights(plain, slot)[name])
            torch.testing.assert_close(weights(found, slot)[name], weights(program, slot)[name], rtol=1e-12, atol=1e-13)


def _with_lr(optimizer, hparams, scale):
    multiplied = {name: value * scale.decay for name, value in hparams.items()}
    stack = _trained(Bumpy(), optimizer, multiplied, steps=0)
    stack.set_hparams([0, 1], lr=[0.01 * scale.lr, 0.02 * scale.lr])
    stack.run([20, 20])
    return stack


@pytest.mark.parametrize("optimizer", [LAMB(), LARS(), ready("torch.rmsprop")])
def test_optimizers_without_rules_refuse_multipliers(optimizer):
    """Rather than ignore them."""
    with pytest.raises(TrainableError, match=f"{optimizer.name} has no rule"):
        _trained(Scaled(), optimizer, {})
