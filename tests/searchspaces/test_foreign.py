"""Spaces of other tools, domain by domain."""

from __future__ import annotations

import json
import math

import optuna
import pytest

from searchspaces import Choice, Float, Int, SpaceError
from searchspaces.foreign import from_optuna, from_wandb

WANDB = [
    ({"min": 0.0, "max": 1.0}, Float(0.0, 1.0)),
    ({"min": 1, "max": 8}, Int(1, 8)),
    ({"values": ["sgd", "adam"]}, Choice(["sgd", "adam"])),
    ({"distribution": "categorical", "values": [16, 32]}, Choice([16, 32])),
    ({"distribution": "categorical_w_probabilities", "values": [1, 2], "probabilities": [0.5, 0.5]}, Choice([1, 2])),
    ({"distribution": "int_uniform", "min": 2, "max": 5}, Int(2, 5)),
    ({"distribution": "uniform", "min": 0, "max": 5}, Float(0.0, 5.0)),
    ({"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.25}, Float(0.0, 1.0, step=0.25)),
    ({"distribution": "q_uniform", "min": 16, "max": 128, "q": 16}, Int(16, 128, step=16)),
    ({"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-1}, Float(1e-4, 1e-1, log=True)),
    ({"distribution": "inv_log_uniform_values", "min": 1e-4, "max": 1e-1}, Float(1e-4, 1e-1, log=True)),
    ({"distribution": "q_log_uniform_values", "min": 16, "max": 256, "q": 16}, Int(16, 256, log=True, step=16)),
    ({"distribution": "log_uniform", "min": -9, "max": 0}, Float(math.exp(-9), 1.0, log=True)),
    ({"distribution": "inv_log_uniform", "min": 0, "max": 9}, Float(math.exp(-9), 1.0, log=True)),
]


@pytest.mark.parametrize(("entry", "domain"), WANDB)
def test_a_wandb_parameter_becomes_a_domain(entry, domain):
    """With a distribution, or by what W&B takes without one."""
    space, fixed = from_wandb({"method": "bayes", "parameters": {"x": entry}})
    assert (dict(space), fixed) == ({"x": domain}, {})


def test_a_wandb_sweeps_constants_and_nested_parameters():
    """What does not vary is no hyperparameter; nested ones get dotted names. `parameters` alone will do."""
    parameters = {
        "epochs": {"value": 10},
        "seed": {"distribution": "constant", "value": 1},
        "optimizer": {"parameters": {"lr": {"min": 0.1, "max": 0.2}, "name": {"value": "sgd"}}},
    }
    space, fixed = from_wandb(parameters)
    assert dict(space) == {"optimizer.lr": Float(0.1, 0.2)}
    assert fixed == {"epochs": 10, "seed": 1, "optimizer.name": "sgd"}


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"distribution": "normal", "mu": 0, "sigma": 1}, "x has the distribution 'normal', which has no counterpart"),
        ({"distribution": "uniform", "min": 0}, "x has the distribution 'uniform' without 'max': add it"),
        ({"distribution": "uniform", "min": 1, "max": 0}, "^x: Float"),
        ({"distribution": "uniform", "min": "a", "max": 0}, "^x: "),
        ({"distribution": "log_uniform", "min": 0, "max": 1e6}, "^x: "),
        (
            {"distribution": "categorical_w_probabilities", "values": [1, 2], "probabilities": [0.9, 0.1]},
            "x: probabilities differ, and options are drawn alike here",
        ),
        ({}, "x is {}: give value, values, or min and max"),
        (3, "x is 3: write a mapping"),
    ],
)
def test_a_wandb_parameter_without_counterpart_is_refused(entry, says):
    """By name, with the mend."""
    with pytest.raises(SpaceError, match=says):
        from_wandb({"parameters": {"x": entry}})


OPTUNA = [
    (optuna.distributions.FloatDistribution(0.0, 1.0), Float(0.0, 1.0)),
    (optuna.distributions.FloatDistribution(1e-5, 1e-1, log=True), Float(1e-5, 1e-1, log=True)),
    (optuna.distributions.FloatDistribution(0.0, 1.0, step=0.25), Float(0.0, 1.0, step=0.25)),
    (optuna.distributions.IntDistribution(1, 8), Int(1, 8)),
    (optuna.distributions.IntDistribution(1, 1024, log=True), Int(1, 1024, log=True)),
    (optuna.distributions.IntDistribution(16, 128, step=16), Int(16, 128, step=16)),
    (optuna.distributions.CategoricalDistribution(["a", 2, True]), Choice(["a", 2, True])),
]


@pytest.mark.parametrize(("distribution", "domain"), OPTUNA)
def test_a_distribution_of_optunas_becomes_a_domain(distribution, domain):
    """Itself, or as Optuna writes it, as text or read."""
    text = optuna.distributions.distribution_to_json(distribution)
    for given in (distribution, text, json.loads(text)):
        assert dict(from_optuna({"x": given})) == {"x": domain}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (3, "x is a int, which has no counterpart"),
        ("what?", "x is 'what\\?': give what distribution_to_json writes"),
        ({"low": 0}, "give what distribution_to_json writes"),
        ({"name": "FloatDistribution", "attributes": {"low": 0.0}}, "x is a FloatDistribution without 'high'"),
        (optuna.distributions.CategoricalDistribution([None, 1]), "^x: Choice.options"),
    ],
)
def test_what_is_no_distribution_is_refused(given, says):
    """By name, with the mend."""
    with pytest.raises(SpaceError, match=says):
        from_optuna({"x": given})
