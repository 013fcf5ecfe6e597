"""Forms of laws: each is the formula that it is written as, and a fit finds what was put in."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt.laws.fit import Data, fit
from pbt.laws.forms import form_of, forms
from tests.examples import examples
from tests.laws.test_fit import TRUTH

#: As the papers have them: parameters and inputs by name.
WRITTEN = {
    "chinchilla": lambda p, x: p["E"] + p["A"] / x["params"] ** p["alpha"] + p["B"] / x["tokens"] ** p["beta"],
    "kaplan": lambda p, x: (
        ((p["N_c"] / x["params"]) ** (p["alpha_N"] / p["alpha_D"]) + p["D_c"] / x["tokens"]) ** p["alpha_D"]
    ),
    "kaplan_steps": lambda p, x: (p["N_c"] / x["params"]) ** p["alpha_N"] + (p["S_c"] / x["min_steps"]) ** p["alpha_S"],
    "overtraining": lambda p, x: (
        p["E"]
        + (p["a"] * (x["tokens"] / x["params"]) ** p["eta"] + p["b"] * (x["tokens"] / x["params"]) ** -p["eta"])
        * (6 * x["params"] * x["tokens"]) ** -p["eta"]
    ),
    "skaling": lambda p, x: p["E"] + (p["A"] / x["params"] ** p["alpha"] + p["B"] / x["tokens"] ** p["beta"]) ** p["k"],
    "farseer": lambda p, x: (
        np.exp(p["a3"] * x["params"] ** p["gamma"] + p["b3"])
        + np.exp(p["a2"] * x["params"] ** p["beta"] + p["b2"])
        * x["tokens"] ** -np.exp(p["a1"] * x["params"] ** p["alpha"] + p["b1"])
    ),
}
#: As the papers found them, in their units.
FOUND = {
    "chinchilla": TRUTH,
    "kaplan": {"N_c": 6.4e13, "D_c": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103},
    "kaplan_steps": {"N_c": 6.5e13, "S_c": 2.1e3, "alpha_N": 0.077, "alpha_S": 0.76},
    "overtraining": {"E": 1.8366, "a": 212.24, "b": 366.69, "eta": 0.13643},
    "skaling": {"E": 0.277, "A": 84.0, "B": 519.5, "alpha": 0.3731, "beta": 0.4005, "k": 0.518},
    "farseer": {
        "a1": -0.124,
        "b1": 0.424,
        "alpha": 0.123,
        "a2": 88.01,
        "b2": -6.287,
        "beta": -0.1,
        "a3": -0.021,
        "b3": -0.091,
        "gamma": 0.169,
    },
}


def sizes(rows=120, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "params": 10 ** rng.uniform(7.5, 10, rows),
        "tokens": 10 ** rng.uniform(9, 11.5, rows),
        "min_steps": 10 ** rng.uniform(3, 5.5, rows),
    }


def of(form, x):
    return {name: x[name] for name in form.inputs}


@pytest.mark.parametrize("name", forms())
def test_a_fit_finds_what_was_put_in(name):
    """And says it as the paper does; how it goes on beyond is the same, too."""
    form, x, far = form_of(name), sizes(), {"params": np.array([1e11]), "tokens": np.array([3e12])}
    far["min_steps"] = np.array([1e6])
    found = fit(form, Data.of(form, x, WRITTEN[name](FOUND[name], x)), starts=512)
    assert WRITTEN[name](found.written, x) == pytest.approx(found.predict(of(form, x)), rel=1e-9)
    assert found.predict(of(form, x)) == pytest.approx(WRITTEN[name](FOUND[name], x), rel=1e-5)
    assert found.predict(of(form, far)) == pytest.approx(WRITTEN[name](FOUND[name], far), rel=1e-3)


@pytest.mark.parametrize("name", [name for name in forms() if name != "farseer"])
def test_its_parameters_are_those_that_were_put_in(name):
    """Of Farseer's, many say the same."""
    form, x = form_of(name), sizes()
    found = fit(form, Data.of(form, x, WRITTEN[name](FOUND[name], x)), starts=512)
    assert found.written == pytest.approx(FOUND[name], rel=2e-2)


@pytest.mark.parametrize("name", forms())
@examples(5)
@given(seed=st.integers(0, 10_000))
def test_slopes_are_those_of_the_form(name, seed):
    """As differences are."""
    form, x = form_of(name), sizes(rows=20)
    data = Data.of(form, x, WRITTEN[name](FOUND[name], x))
    theta = form.starts(16, np.random.default_rng(seed), data.y)[seed % 16]
    slopes = form.jacobian(theta, data.x)
    for number in range(len(form.parameters)):
        way = np.eye(len(theta))[number] * 1e-5 * max(1.0, abs(theta[number]))
        risen = form.evaluate(theta + way, data.x) - form.evaluate(theta - way, data.x)
        expected = risen / (2.0 * way[number])
        assert slopes[:, number] == pytest.approx(expected, rel=1e-4, abs=1e-6 * np.abs(slopes).max())


@pytest.mark.parametrize("name", forms())
def test_a_form_says_what_it_is(name):
    form = form_of(name)
    assert form.name == name
    assert form.formula.startswith("L = ")
    assert "arXiv" in form.source
    assert set(form.exponents) <= set(FOUND[name])


def test_the_published_fit_of_overtraining_is_its_own_formula():
    """Its coefficients as the paper's code has them: L = alpha N^b + beta 6^(b/2) (D)^b + E."""
    alpha, beta, b, e = 166.211, 366.687, -0.272851, 1.836648
    x = sizes()
    theirs = alpha * x["params"] ** b + beta * math.pow(6.0, b / 2) * x["tokens"] ** b + e
    assert WRITTEN["overtraining"](FOUND["overtraining"], x) == pytest.approx(theirs, rel=1e-3)
