"""Hyperparameters as numbers and categories."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt.population.coordinates import Coordinates
from searchspaces import Choice, Float, Int, Simplex, Space
from tests import strategies

SPACE = Space(
    {
        "nesterov": Choice([True, False], when={"optimizer": "sgd"}),
        "lr": Float(1e-4, 1.0, log=True),
        "optimizer": Choice(["adamw", "sgd", "lamb"]),
        "size": Choice(["s", "m", "l"], ordered=True),
        "momentum": Float(0.0, 1.0, when={"nesterov": True}),
        "only": Choice(["this"]),
        "layers": Int(1, 4),
        "drop": Float(0.0, 1.0, when={"layers": [3, 4]}),
        "mix": Simplex(["a", "b", "c"]),
    }
)

MIX = {"a": 0.0, "b": 1.0, "c": 0.0}


def test_unordered_choices_are_categories_and_all_else_are_numbers():
    """A choice of a single option is neither."""
    known = Coordinates(SPACE)
    assert known.choices == ("nesterov", "optimizer")
    assert known.options == (2, 3)
    hparams = {
        "nesterov": False,
        "lr": 0.01,
        "optimizer": "sgd",
        "size": "m",
        "only": "this",
        "layers": 1,
        "mix": MIX,
    }
    assert known.categories(hparams) == [1, 1]
    # lr, size, momentum (inactive), layers (first of four bins), drop (inactive), and two sticks of the mix.
    np.testing.assert_allclose(known.numbers(hparams), [0.5, 0.5, 0.5, 0.125, 0.5, 1.0, 0.0])
    again = known.point(known.numbers(hparams), [1, 1])
    assert again == {**hparams, "lr": pytest.approx(0.01)}


def test_what_is_bound_is_as_in_the_point():
    """Categories by name; which numbers belong to names is told apart."""
    known = Coordinates(SPACE)
    hparams = {"lr": 0.01, "optimizer": "lamb", "size": "m", "only": "this", "layers": 3, "drop": 0.5, "mix": MIX}
    assert known.bound([0, 1], hparams, ["optimizer", "layers"]) == [0, 2]
    assert known.bound([0, 1], hparams, ["nesterov"]) == [-1, 1]
    assert known.columns(["layers", "mix", "optimizer"]).tolist() == [False, False, False, True, False, True, True]


@given(value=st.integers(1, 10**7))
def test_numbers_that_are_bound_are_not_rounded(value):
    """Weights are made for this value, not for one nearby: rounded to three digits, most others are another one."""
    known = Coordinates(Space({"width": Int(1, 10**7, log=True), "lr": Float(0.0, 1.0)}))
    numbers = known.numbers({"width": value, "lr": 0.123456})
    assert known.point(numbers, [], bound=known.columns(["width"])) == {"width": value, "lr": 0.123}


def test_what_a_category_switches_off_is_not_free():
    """Also if it switches off a category; what depends on a number may always become active."""
    known = Coordinates(SPACE)
    names = ["lr", "size", "momentum", "layers", "drop", "mix", "mix"]
    off = {
        (0, 1): set(),
        (1, 1): {"momentum"},
        (0, 0): {"momentum"},
        (-1, 2): {"momentum"},
    }
    for categories, expected in off.items():
        assert {name for name, free in zip(names, known.free(categories), strict=True) if not free} == expected


def test_an_inactive_category_is_none():
    """Whatever is said of it, it is left out."""
    known = Coordinates(SPACE)
    for named in (-1, 0, 1):
        hparams = known.point(np.full(known.num_numbers, 0.3), [named, 0])
        assert "nesterov" not in hparams
        assert known.categories(hparams) == [-1, 0]


@given(space=strategies.spaces(), data=st.data())
def test_every_place_is_a_point_and_every_point_a_place(space, data):
    """Any numbers and categories give a point of the space, whose own give it again, to three digits of the cube."""
    known = Coordinates(space)
    rng = data.draw(strategies.rngs())
    categories = [int(rng.integers(-1, number)) for number in known.options]
    hparams = known.point(rng.random(known.num_numbers), categories)
    space.check(hparams)
    again = known.point(known.numbers(hparams), known.categories(hparams))
    assert again.keys() == hparams.keys()
    np.testing.assert_allclose(known.numbers(again), known.numbers(hparams), atol=1e-3)
    assert known.categories(again) == known.categories(hparams)
