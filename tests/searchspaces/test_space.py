"""Spaces: points, conditions, the unit cube, JSON and the hash."""

import copy
import dataclasses
import hashlib
import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchspaces import Choice, Float, Int, Simplex, Space, SpaceError
from tests import strategies
from tests.examples import examples

EXAMPLES = examples(60)

SPACE = Space(
    {
        "lr": Float(1e-4, 1e-1, log=True),
        "momentum": Float(0.0, 0.9, when={"optimizer": "sgd"}),
        "optimizer": Choice(["adamw", "lamb", "sgd"]),
        "layers": Int(1, 4),
        "beta2": Float(0.9, 0.999, log_complement=True, when={"optimizer": ["adamw", "lamb"], "layers": [3, 4]}),
        "mix": Simplex(["web", "code"]),
    }
)
SGD = {"lr": 0.01, "momentum": 0.5, "optimizer": "sgd", "layers": 4, "mix": {"web": 0.75, "code": 0.25}}
ADAMW = {"lr": 0.01, "optimizer": "adamw", "layers": 4, "beta2": 0.99, "mix": {"web": 0.75, "code": 0.25}}
CHAIN = Space(
    {
        "grandchild": Float(0, 1, when={"child": True}),
        "child": Choice([True, False], when={"parent": "on"}),
        "parent": Choice(["on", "off"], ordered=True),
    }
)


def test_is_an_ordered_mapping():
    """A space reads as a mapping in the order of its declaration."""
    assert list(SPACE) == ["lr", "momentum", "optimizer", "layers", "beta2", "mix"]
    assert SPACE["layers"] == Int(1, 4)
    assert ("lr" in SPACE, "learning_rate" in SPACE, len(SPACE)) == (True, False, 6)


def test_is_immutable():
    """Neither the space, nor its mapping, nor the dict that it came from can change it."""
    source = {"lr": Float(0, 1)}
    space = Space(source)
    source["layers"] = Int(1, 4)
    assert list(space) == ["lr"]
    with pytest.raises(TypeError):
        space.domains["layers"] = Int(1, 4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        space.domains = {}


def test_can_be_pickled_and_copied():
    """A space travels between processes."""
    assert pickle.loads(pickle.dumps(SPACE)) == SPACE  # noqa: S301
    assert copy.deepcopy(SPACE) == SPACE


def test_repr_builds_an_equal_space():
    """What is printed in a failure can be pasted into a test."""
    scope = {"Space": Space, "Float": Float, "Int": Int, "Choice": Choice, "Simplex": Simplex}
    assert eval(repr(SPACE), scope) == SPACE


@pytest.mark.parametrize(
    ("domains", "message"),
    [
        ({"": Int(1, 2)}, r"'' cannot name a hyperparameter"),
        ({"a b": Int(1, 2)}, r"'a b' cannot name a hyperparameter: use letters, digits"),
        ({3: Int(1, 2)}, r"3 cannot name a hyperparameter"),
        ({"a": (1, 2)}, r"a=\(1, 2\) is not a domain: use Float, Int, Choice or Simplex"),
        (
            {"optimizer": Choice(["sgd"]), "a": Int(1, 2, when={"optimiser": "sgd"})},
            r"a.when names 'optimiser', which is not in the space: did you mean 'optimizer'\?",
        ),
        ({"lr": Float(0, 1), "a": Int(1, 2, when={"lr": 0.5})}, r"a.when names 'lr', which is a number in"),
        (
            {"o": Choice(["adamw", "sgd"]), "a": Int(1, 2, when={"o": ["sgd", "adam"]})},
            r"a.when has o='adam', which is not one of 'adamw', 'sgd': did you mean 'adamw'\?",
        ),
        ({"o": Choice([1, 2]), "a": Int(1, 2, when={"o": True})}, r"a.when has o=True, which is not one of 1, 2"),
        ({"a": Int(1, 2, when={"a": 1})}, r"go in a circle \(a -> a\): drop one `when`"),
        ({"a": Int(1, 2, when={"b": 1}), "b": Int(1, 2, when={"a": 1})}, r"go in a circle \(.* -> .* -> .*\)"),
    ],
)
def test_refuses_domains(domains, message):
    """A space whose names or conditions cannot hold is refused in one line with the mend."""
    with pytest.raises(SpaceError, match=message):
        Space(domains)


@pytest.mark.parametrize(
    ("hparams", "message"),
    [
        ({**SGD, "learning_rate": 1}, "'learning_rate' is not a hyperparameter of the space: choose one of lr, mom"),
        ({**SGD, "layer": 1}, "'layer' is not a hyperparameter of the space: did you mean 'layers'?"),
        ({**SGD, "lr": 5.0}, "lr=5.0 is not a number in [0.0001, 0.1]: the nearest is 0.1"),
        ({**SGD, "layers": 2.0}, "layers=2.0 is not an integer in [1, 4]: the nearest is 2"),
        ({**SGD, "optimizer": "adam"}, "optimizer='adam' is not one of 'adamw', 'lamb', 'sgd': did you mean 'adamw'?"),
        ({**SGD, "beta2": 0.99}, "beta2=0.99 is not active (needs optimizer='adamw' or 'lamb' and layers=3 or 4): rem"),
        ({k: v for k, v in SGD.items() if k != "momentum"}, "momentum is missing: give a number in [0.0, 0.9]"),
        (
            {k: v for k, v in SGD.items() if k != "optimizer"},
            "optimizer is missing: give one of 'adamw', 'lamb', 'sgd'",
        ),
        ([("lr", 0.1)], "hparams=[('lr', 0.1)] is not a mapping: write {name: value}"),
    ],
)
def test_check(hparams, message):
    """A point outside is refused with the hyperparameter, its value, the bounds and the mend."""
    with pytest.raises(SpaceError) as caught:
        SPACE.check(hparams)
    assert str(caught.value).startswith(message)
    assert not SPACE.contains(hparams)


@pytest.mark.parametrize(
    ("space", "hparams", "inside"),
    [
        (SPACE, SGD, True),
        (SPACE, ADAMW, True),
        (SPACE, {**ADAMW, "layers": 2}, False),
        (SPACE, {k: v for k, v in ADAMW.items() if k != "beta2"} | {"layers": 2}, True),
        (CHAIN, {"parent": "on", "child": True, "grandchild": 0.5}, True),
        (CHAIN, {"parent": "on", "child": False}, True),
        (CHAIN, {"parent": "on", "child": True}, False),
        (CHAIN, {"parent": "off"}, True),
        (CHAIN, {"parent": "off", "child": True, "grandchild": 0.5}, False),
        (CHAIN, {"parent": "off", "grandchild": 0.5}, False),
        (Space({}), {}, True),
    ],
)
def test_conditions(space, hparams, inside):
    """A hyperparameter is present exactly where each parent is active and has one of the values named."""
    assert space.contains(hparams) is inside


def test_sample_is_decode_of_uniform_places():
    """The same generator gives the same point through `sample` and through the unit cube."""
    for seed in range(20):
        u = np.random.default_rng(seed).random(SPACE.num_dims)
        assert SPACE.sample(np.random.default_rng(seed)) == SPACE.decode(u)


def test_sample_is_stable():
    """A seed means the same point in every version of this package."""
    space = Space({"lr": Float(0, 8), "layers": Int(1, 8), "optimizer": Choice(["a", "b", "c"])})
    sample = space.sample(np.random.default_rng(0))
    assert sample == {"lr": 5.0956934985716344, "layers": 3, "optimizer": "c"}


def test_samples_of_one_hyperparameter_do_not_depend_on_conditions():
    """Which children are active does not move the draws of the others."""
    flat = Space({name: dataclasses.replace(domain, when=None) for name, domain in SPACE.items()})
    for seed in range(20):
        conditional, full = (space.sample(np.random.default_rng(seed)) for space in (SPACE, flat))
        assert conditional.items() <= full.items()


@pytest.mark.parametrize(("probability", "expected"), [(0.0, 0.0), (0.25, 0.25), (1.0, 1.0)])
def test_perturb_resamples_with_the_given_probability(probability, expected):
    """What a factor cannot reach was drawn anew: away from zero of a linear range, about that often."""
    space = Space({"h0": Float(0, 1), "h1": Float(0, 1)})
    rng = np.random.default_rng(0)
    moved = [space.perturb({"h0": 0.0, "h1": 0.0}, rng, resample_probability=probability) for _ in range(1000)]
    assert np.mean([p["h0"] != 0 for p in moved]) == pytest.approx(expected, abs=0.05)
    # Each hyperparameter is resampled by itself.
    both = np.mean([p["h0"] != 0 and p["h1"] != 0 for p in moved])
    assert both == pytest.approx(expected**2, abs=0.05)


def test_perturb_defaults_are_those_of_the_paper():
    """Without arguments the factors are 0.8 and 1.2."""
    rng = np.random.default_rng(0)
    moved = {SPACE.perturb(SGD, rng, resample_probability=0)["lr"] for _ in range(50)}
    assert moved == {0.01 * 0.8, 0.01 * 1.2}


def test_perturb_samples_what_becomes_active_and_drops_the_rest():
    """Where a parent is switched, its children come and go with it."""
    rng = np.random.default_rng(0)
    off = CHAIN.perturb({"parent": "on", "child": True, "grandchild": 0.5}, rng, (1.2,), 0.0)
    assert off == {"parent": "off"}
    on = [CHAIN.perturb(off, rng, (0.8,), 0.0) for _ in range(200)]
    assert {p["child"] for p in on} == {True, False}
    grandchildren = [p["grandchild"] for p in on if p["child"]]
    assert len(set(grandchildren)) == len(grandchildren) > 50
    assert {p["child"] for p in on if "grandchild" not in p} == {False}


def test_perturb_keeps_what_it_is_told_to():
    """And with it whatever depends on it; all else moves."""
    rng, point = np.random.default_rng(0), {"parent": "on", "child": True, "grandchild": 0.5}
    moved = [CHAIN.perturb(point, rng, (0.8, 1.2), 1.0, keep=["parent", "child"]) for _ in range(50)]
    assert {(it["parent"], it["child"]) for it in moved} == {("on", True)}
    assert len({it["grandchild"] for it in moved}) == 50


def test_sample_with_given_values():
    """They are in the point where they are active, and change nothing that is drawn besides."""
    drawn = [SPACE.sample(np.random.default_rng(seed)) for seed in range(50)]
    given = [SPACE.sample(np.random.default_rng(seed), {"optimizer": "sgd", "momentum": 0.25}) for seed in range(50)]
    assert {(it["optimizer"], it["momentum"]) for it in given} == {("sgd", 0.25)}
    assert [it["lr"] for it in drawn] == [it["lr"] for it in given]
    off = [CHAIN.sample(np.random.default_rng(seed), {"child": True}) for seed in range(50)]
    assert {it.get("child") for it in off} == {True, None}
    with pytest.raises(SpaceError, match="optimizer='rmsprop' is not one of"):
        SPACE.sample(np.random.default_rng(0), {"optimizer": "rmsprop"})


def test_perturb_leaves_its_argument_alone():
    """The donor's hyperparameters are still the donor's."""
    before = copy.deepcopy(SGD)
    SPACE.perturb(SGD, np.random.default_rng(0))
    assert before == SGD


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hparams": {**SGD, "lr": 1}}, r"lr=1 is not a number in"),
        ({"factors": ()}, r"factors=\(\) are not positive numbers: use \(0.8, 1.2\)"),
        ({"factors": (0.8, -1)}, r"factors=\(0.8, -1\) are not positive"),
        ({"factors": (0, 1.2)}, r"factors=\(0, 1.2\) are not positive"),
        ({"factors": (float("inf"),)}, r"factors=\(inf,\) are not positive"),
        ({"resample_probability": 1.5}, r"resample_probability=1.5 is not in \[0, 1\]"),
        ({"resample_probability": None}, r"resample_probability=None is not in \[0, 1\]"),
    ],
)
def test_perturb_refuses(arguments, message):
    """Points outside and unusable arguments are refused."""
    with pytest.raises(SpaceError, match=message):
        SPACE.perturb(**{"hparams": SGD, "rng": np.random.default_rng(0), **arguments})


def test_columns():
    """Columns follow the order of the space; inactive ones hold the neutral value 0.5."""
    names = ("lr", "momentum", "optimizer=adamw", "optimizer=lamb", "optimizer=sgd", "layers", "beta2", "mix[web]")
    assert SPACE.dim_names == names
    assert SPACE.num_dims == 8
    u = SPACE.encode({**ADAMW, "layers": 3})
    assert (u.dtype, u.shape) == (np.float64, (8,))
    assert u == pytest.approx([2 / 3, 0.5, 1, 0, 0, 5 / 8, 0.5, 0.25])


def test_inactive_columns_do_not_matter():
    """Whatever the inactive columns hold, the point is the same."""
    u = SPACE.encode(SGD)
    moved = u.copy()
    moved[SPACE.dim_names.index("beta2")] = 0.9
    assert SPACE.decode(moved) == SPACE.decode(u)


@pytest.mark.parametrize(
    ("u", "message"),
    [
        (np.zeros(3), r"u has shape \(3,\), not \(8,\): give one number per column"),
        (np.zeros((1, 8)), r"u has shape \(1, 8\), not \(8,\)"),
        ([0.0] * 7 + [1.1], r"leaves the unit cube: clip it to \[0, 1\]"),
        ([0.0] * 7 + [float("nan")], r"leaves the unit cube"),
    ],
)
def test_decode_refuses(u, message):
    """A place that is not in the unit cube is refused."""
    with pytest.raises(SpaceError, match=message):
        SPACE.decode(u)


def test_encode_refuses_points_outside():
    """What is not in the space has no place in the cube."""
    with pytest.raises(SpaceError, match="lr=1 is not"):
        SPACE.encode({**SGD, "lr": 1})


JSON = {
    "lr": {"type": "float", "low": 0.0001, "high": 0.1, "log": True},
    "momentum": {"type": "float", "low": 0.0, "high": 0.9, "when": {"optimizer": ["sgd"]}},
    "optimizer": {"type": "choice", "options": ["adamw", "lamb", "sgd"]},
    "layers": {"type": "int", "low": 1, "high": 4},
    "beta2": {
        "type": "float",
        "low": 0.9,
        "high": 0.999,
        "when": {"optimizer": ["adamw", "lamb"], "layers": [3, 4]},
        "log_complement": True,
    },
    "mix": {"type": "simplex", "parts": ["web", "code"]},
}


def test_to_json():
    """The JSON has a type, the arguments that are not defaults, and the order of the space."""
    assert SPACE.to_json() == JSON
    assert list(SPACE.to_json()) == list(SPACE)


def test_from_json_takes_what_is_written_by_hand():
    """One value may stand for a list of one, and whole floats for integers."""
    by_hand = {**JSON, "momentum": {"type": "float", "low": 0, "high": 0.9, "when": {"optimizer": "sgd"}}}
    assert Space.from_json({**by_hand, "layers": {"type": "int", "low": 1.0, "high": 4, "log": False}}) == SPACE


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ([], r"space=\[\] is not a mapping: write"),
        ({"lr": 0.1}, r"lr=0.1 is not a mapping: write {type: float, low: 0, high: 1}"),
        ({"lr": {"low": 0, "high": 1}}, r"lr.type=None is unknown: choose one of float, int, choice, simplex"),
        ({"lr": {"type": "flaot"}}, r"lr.type='flaot' is unknown: did you mean 'float'\?"),
        ({"lr": {"type": ["float"]}}, r"lr.type=\['float'\] is unknown"),
        ({"lr": {"type": "float", "low": 0, "hihg": 1}}, r"lr.hihg is not a key of 'float': did you mean 'high'\?"),
        ({"lr": {"type": "int", "low": 1, "high": 9, "log_complement": True}}, r"lr.log_complement is not a key of"),
        ({"lr": {"type": "float", "low": 0}}, r"lr.high is missing: add it to"),
        ({"lr": {"type": "float", "low": 2, "high": 1}}, r"lr: Float.low=2.0 is not below high=1.0"),
    ],
)
def test_from_json_refuses(spec, message):
    """Unknown types and keys are refused with the nearest known one, and every fault names its hyperparameter."""
    with pytest.raises(SpaceError, match=message):
        Space.from_json(spec)


def test_hash_is_stable():
    """The hash is the same in every process and version: it names spaces in old ledgers."""
    assert Space({}).hash == "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945"
    assert SPACE.hash == "6ef7427d4ce404cafd6d5b0aee759031c15c0c4ede8fab663704ea4619e11713"


def test_hash_is_that_of_the_canonical_json():
    """Pairs in the order of the space, keys sorted, no defaults, 1 for 1.0: anyone can recompute it."""
    space = Space(
        {"lr": Float(1, 2.5, log=True), "depth": Int(1, 4, when={"act": "relu"}), "act": Choice(["relu", "é"])}
    )
    text = (
        '[["lr",{"high":2.5,"log":true,"low":1,"type":"float"}],'
        '["depth",{"high":4,"low":1,"type":"int","when":{"act":["relu"]}}],'
        '["act",{"options":["relu","\\u00e9"],"type":"choice"}]]'
    )
    assert space.hash == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ({"a": Float(low=1, high=2)}, {"a": Float(low=1.0, high=2.0)}, True),
        ({"a": Float(0.0, 1)}, {"a": Float(-0.0, 1)}, True),
        ({"a": Choice([1, 2.0])}, {"a": Choice([1.0, 2])}, True),
        ({"a": Int(1, 9, step=1)}, {"a": Int(1, 9)}, True),
        (
            {"a": Choice([1]), "b": Int(1, 2, when={"a": 1})},
            {"a": Choice([1]), "b": Int(1, 2, when={"a": [1.0]})},
            True,
        ),
        ({"a": Choice([True])}, {"a": Choice([1])}, False),
        ({"a": Int(1, 2)}, {"a": Float(1, 2)}, False),
        ({"a": Int(1, 2)}, {"b": Int(1, 2)}, False),
        ({"a": Float(1, 2)}, {"a": Float(1, 2, log=True)}, False),
        ({"a": Choice(["x", "y"])}, {"a": Choice(["y", "x"])}, False),
        ({"a": Choice(["x", "y"])}, {"a": Choice(["x", "y"], ordered=True)}, False),
        ({"a": Int(1, 2), "b": Int(1, 3)}, {"b": Int(1, 3), "a": Int(1, 2)}, False),
    ],
)
def test_equality_is_that_of_the_hash(one, other, equal):
    """Spelling does not matter; names, types, values and their order do."""
    assert (Space(one).hash == Space(other).hash) is equal
    assert (Space(one) == Space(other)) is equal
    assert len({Space(one), Space(other)}) == (1 if equal else 2)


def test_is_not_equal_to_its_dict():
    """A space is more than its mapping: its order counts."""
    assert dict(SPACE) != SPACE


@EXAMPLES
@given(strategies.spaces(), strategies.rngs())
def test_sample_is_in_the_space(space, rng):
    """Any draw is a point of the space, in its order."""
    hparams = space.sample(rng)
    space.check(hparams)
    assert list(hparams) == [name for name in space if name in hparams]


@EXAMPLES
@given(strategies.spaces_and_points(), strategies.rngs(), strategies.factors(), strategies.probabilities())
def test_perturb_is_in_the_space(case, rng, factors, probability):
    """From any point, with any generator, factors and probability, a perturbation is a point of the space."""
    space, hparams = case
    space.check(hparams)
    moved = space.perturb(hparams, rng, factors, probability)
    space.check(moved)
    assert list(moved) == [name for name in space if name in moved]


@EXAMPLES
@given(strategies.spaces_and_points(), st.integers(0, 2**32))
def test_draws_depend_on_the_generator_alone(case, seed):
    """The same seed gives the same draws."""
    space, hparams = case
    one, other = np.random.default_rng(seed), np.random.default_rng(seed)
    assert space.sample(one) == space.sample(other)
    assert space.perturb(hparams, one) == space.perturb(hparams, other)


@EXAMPLES
@given(strategies.spaces_and_points())
def test_encode_and_decode_are_inverse(case):
    """A point survives the unit cube, and the way back lands on a point."""
    space, hparams = case
    u = space.encode(hparams)
    assert u.shape == (space.num_dims,) == (len(set(space.dim_names)),)
    assert ((u >= 0) & (u <= 1)).all()
    back = space.decode(u)
    space.check(back)
    assert list(back) == [name for name in space if name in hparams]
    assert space.encode(back) == pytest.approx(u, abs=1e-6)
    for name, value in hparams.items():
        if isinstance(space[name], Int | Choice):
            assert back[name] == value


@EXAMPLES
@given(st.data(), strategies.spaces())
def test_decode_reaches_only_the_space(data, space):
    """Every place of the unit cube is a point of the space."""
    u = data.draw(st.lists(st.floats(0, 1), min_size=space.num_dims, max_size=space.num_dims))
    space.check(space.decode(u))


@EXAMPLES
@given(strategies.spaces())
def test_json_keeps_the_space(space):
    """Through JSON text a space comes back equal, with the same hash, draws and columns."""
    back = Space.from_json(json.loads(json.dumps(space.to_json())))
    assert back == space
    assert back.hash == space.hash
    assert dict(back) == dict(space)
    assert back.dim_names == space.dim_names


def test_a_point_among_more_values():
    """What is unknown or not active is left out; what is missing or outside is refused, as by `check`."""
    space = Space({"optimizer": Choice(["sgd", "adamw"]), "momentum": Float(0.0, 0.9, when={"optimizer": "sgd"})})
    assert {"optimizer": "sgd", "momentum": 0.5} == space.point({"momentum": 0.5, "lr": 1.0, "optimizer": "sgd"})
    assert ["optimizer", "momentum"] == list(space.point({"momentum": 0.5, "optimizer": "sgd"}))
    assert {"optimizer": "adamw"} == space.point({"optimizer": "adamw", "momentum": 7.0})
    with pytest.raises(SpaceError, match="momentum is missing"):
        space.point({"optimizer": "sgd"})
