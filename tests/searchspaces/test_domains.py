"""Each domain by itself: what it refuses, contains, draws, moves and codes."""

import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchspaces import Choice, Float, Int, Simplex, SpaceError
from tests import strategies
from tests.examples import examples

EXAMPLES = examples(100)

LOG = Float(1e-4, 1e-1, log=True)
BETA = Float(0.9, 0.9999, log_complement=True)
TENTHS = Float(0, 1, step=0.1)
SIZES = Choice(["small", "medium", "large"], ordered=True)
OPTIMIZER = Choice(["adamw", "sgd", "lamb"])
MIX = Simplex(["web", "code", "books"])


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (Float, {"low": 1, "high": 1}, r"Float.low=1.0 is not below high=1.0: widen"),
        (Float, {"low": 2, "high": 1}, r"Float.low=2.0 is not below high=1.0: widen"),
        (Float, {"low": 0, "high": math.inf}, r"Float.high=inf is not a finite number"),
        (Float, {"low": math.nan, "high": 1}, r"Float.low=nan is not a finite number"),
        (Float, {"low": 0, "high": 10**400}, r"Float.high=1000*0 is not a finite number"),
        (Float, {"low": True, "high": 2}, r"Float.low=True is not a finite number"),
        (Float, {"low": "1e-4", "high": 1}, r"Float.low='1e-4' .*YAML reads 1e-4 as text"),
        (Float, {"low": 0, "high": 1, "log": True}, r"Float.low=0.0 has no logarithm: raise it above 0 or drop log"),
        (Float, {"low": 0, "high": 1, "log": "yes"}, r"Float.log='yes' is not a bool"),
        (Float, {"low": -1e308, "high": 1e308}, r"Float.high=1e\+308 is too far from low"),
        (Float, {"low": 1, "high": 1 + 1e-15}, r"Float.high=1.000000000000001 is too near to low=1.0"),
        (Float, {"low": 0, "high": 1e-13, "log_complement": True}, r"Float.high=1e-13 is too near to low=0.0"),
        (Float, {"low": 0, "high": 1, "step": 0}, r"Float.step=0.0 is not positive"),
        (Float, {"low": 0, "high": 1, "step": -0.1}, r"Float.step=-0.1 is not positive"),
        (
            Float,
            {"low": 0, "high": 1, "step": 2},
            r"Float.step=2.0 does not fit between low=0.0 and high=1.0: lower it",
        ),
        (Float, {"low": 0, "high": 1, "step": 1e-13}, r"Float.step=1e-13 is too fine"),
        (Float, {"low": 0, "high": 1, "log_complement": True}, r"Float.high=1.0 has no log\(1 - x\): lower it below 1"),
        (Float, {"low": 0.1, "high": 0.9, "log": True, "log_complement": True}, r"log=True excludes log_complement"),
        (Float, {"low": 0, "high": 0.9, "step": 0.1, "log_complement": True}, r"step=0.1 excludes log_complement"),
        (Int, {"low": 3, "high": 3}, r"Int.low=3 is not below high=3"),
        (Int, {"low": 0.5, "high": 3}, r"Int.low=0.5 is not an integer: write a whole number"),
        (Int, {"low": 0, "high": 3, "log": True}, r"Int.low=0 has no logarithm"),
        (Int, {"low": 0, "high": 3, "step": 4}, r"Int.step=4 does not fit between low=0 and high=3"),
        (Int, {"low": 0, "high": 3, "step": 0}, r"Int.step=0 is not positive"),
        (Int, {"low": 0, "high": 10**13}, r"Int.step=1 is too fine for such bounds: raise it"),
        (Choice, {"options": []}, r"Choice.options=\[\] is not a list of one or more"),
        (Choice, {"options": "abc"}, r"Choice.options='abc' is not a list"),
        (Choice, {"options": {"a", "b"}}, r"Choice.options={.*} is not a list"),
        (Choice, {"options": ["a", "b", "a"]}, r"Choice.options: 'a' is there twice"),
        (Choice, {"options": [1, 1.0]}, r"Choice.options: 1.0 is there twice"),
        (Choice, {"options": [1, "1"]}, r"Choice.options: '1' is there twice"),
        (Choice, {"options": ["", "a"]}, r"Choice.options: '' is empty"),
        (Choice, {"options": [None, "a"]}, r"Choice.options: None is not a scalar"),
        (Choice, {"options": [math.nan]}, r"Choice.options: nan is not a scalar"),
        (Choice, {"options": ["a"], "ordered": 1}, r"Choice.ordered=1 is not a bool"),
        (Simplex, {"parts": ["a"]}, r"Simplex.parts=\('a',\) are not two or more names"),
        (Simplex, {"parts": [1, 2]}, r"Simplex.parts=\(1, 2\) are not two or more names"),
        (Simplex, {"parts": ["a", "a"]}, r"Simplex.parts: 'a' is there twice"),
        (Simplex, {"parts": ["a", "b"], "concentration": 0}, r"Simplex.concentration=0.0 is not positive"),
        (Int, {"low": 1, "high": 3, "when": {}}, r"Int.when={} is not a mapping"),
        (Int, {"low": 1, "high": 3, "when": "sgd"}, r"Int.when='sgd' is not a mapping"),
        (Int, {"low": 1, "high": 3, "when": {"optimizer": []}}, r"Int.when\['optimizer'\]=\[\] is not a list of one"),
    ],
)
def test_refuses(kind, arguments, message):
    """An unusable domain is refused in one line with the field, the value and the mend."""
    with pytest.raises(SpaceError, match=message) as caught:
        kind(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("domain", "inside", "outside"),
    [
        (LOG, [1e-4, 0.05, 1e-1, np.float64(0.01)], [0, 0.2, math.nan, math.inf, True, "0.01", None]),
        (Float(0, 2), [0, 1, 2.0, np.float32(0.3)], [-1e-300, 10**400, [1.0], np.array([1.0, 1.0])]),
        (Float(0.01, 0.03, step=0.02), [0.01, 0.03], [0.02]),
        (TENTHS, [0, 0.3, 0.7, 1], [0.1 * 3, 0.05, 1.1]),
        (Float(0, 1, step=0.4), [0.0, 0.4, 0.8], [1.0, 1.2]),
        (Int(-1, 6, step=2), [-1, 1, 5, np.int64(3)], [0, 6, 7, -3, 1.0, True, "1"]),
        (Choice([1, True, "1.5", 0.5]), [1, 1.0, True, 0.5, "1.5"], [1.5, False, 0, None, np.ones(2)]),
        (
            MIX,
            [{"web": 0.5, "code": 0.5, "books": 0}, {"books": 1 - 1e-10, "code": 0.0, "web": 0.0}],
            [
                {"web": 0.5, "code": 0.5},
                {"web": 0.5, "code": 0.5, "books": 0.0, "wiki": 0.0},
                {"web": 0.6, "code": 0.5, "books": -0.1},
                {"web": 0.6, "code": 0.5, "books": 0.0},
                {"web": math.nan, "code": 0.5, "books": 0.5},
                [0.5, 0.5, 0.0],
            ],
        ),
    ],
)
def test_contains(domain, inside, outside):
    """Only values of the right type, within the bounds and on the step are in a domain."""
    assert [value for value in inside if not domain.contains(value)] == []
    assert [value for value in outside if domain.contains(value)] == []


@pytest.mark.parametrize(
    ("domain", "value", "mend"),
    [
        (LOG, 5, "the nearest is 0.1"),
        (LOG, "1e-3", "write a number (YAML reads 1e-4 as text and 1.0e-4 as a number)"),
        (LOG, None, "write a finite number"),
        (TENTHS, 0.1 * 3, "the nearest is 0.3"),
        (Int(2, 8, step=2), 5.2, "the nearest is 6"),
        (Int(1, 8), -(10**300), "the nearest is 1"),
        (OPTIMIZER, "adam", "did you mean 'adamw'?"),
        (OPTIMIZER, "muon", "choose one of adamw, sgd, lamb"),
        (MIX, 0.5, "give a mapping such as {'web': 0.3333333333333333, 'code': "),
        (MIX, {"web": 0.5, "coding": 0.5}, "'coding' is no part, did you mean 'code'?"),
        (MIX, {"web": 0.5}, "add code, books (a weight may be 0)"),
        (MIX, {"web": 2, "code": 1, "books": 1}, "divide non-negative weights by their sum"),
    ],
)
def test_mend(domain, value, mend):
    """A value that is not in the domain comes with the mend."""
    assert domain.mend(value).startswith(mend)


@pytest.mark.parametrize(
    ("domain", "value", "factor", "expected"),
    [
        # The factor multiplies the value on the linear and on the log scale.
        (Float(0, 1), 0.5, 1.2, 0.6),
        (LOG, 0.01, 1.2, 0.012),
        (LOG, 0.01, 0.8, 0.008),
        (LOG, 0.09, 1.2, 0.1),
        (LOG, 1e-4, 0.8, 1e-4),
        # The paper's toy: 1 is clipped, and zero stays.
        (Float(0, 1), 1.0, 1.2, 1.0),
        (Float(0, 1), 0.0, 1.2, 0.0),
        (Float(0, 1), 0.0, 0.8, 0.0),
        (Float(-2, 2), -1.0, 1.5, -1.5),
        (Float(-2, 2), -2.0, 1.5, -2.0),
        # Betas: 1 - beta is multiplied.
        (BETA, 0.99, 2, 0.98),
        (BETA, 0.99, 0.5, 0.995),
        (BETA, 0.95, 4, 0.9),
        # Steps: the nearest value, and at least one step.
        (TENTHS, 0.5, 1.2, 0.6),
        (TENTHS, 0.2, 1.2, 0.3),
        (TENTHS, 0.2, 0.8, 0.1),
        (TENTHS, 0.0, 1.2, 0.1),
        (TENTHS, 1.0, 1.2, 1.0),
        (Float(0, 1, step=0.4), 0.8, 1.2, 0.8),
        # Integers: rounded, never truncated, never stuck but at a bound.
        (Int(1, 8), 1, 0.8, 1),
        (Int(1, 8), 1, 1.2, 2),
        (Int(1, 8), 2, 0.8, 1),
        (Int(1, 8), 2, 1.2, 3),
        (Int(1, 8), 8, 1.2, 8),
        (Int(1, 8), 5, 1.0, 5),
        (Int(1, 100, log=True), 50, 1.2, 60),
        (Int(0, 8), 0, 1.2, 1),
        (Int(0, 8), 0, 0.8, 0),
        (Int(0, 8), 1, 0.8, 0),
        (Int(-8, 8), -2, 1.2, -3),
        (Int(-8, 8), -2, 0.8, -1),
        (Int(8, 128, step=8), 16, 1.2, 24),
        (Int(8, 128, step=8), 64, 1.2, 80),
        # Ordered choices go to a neighbour, unordered ones stay.
        (SIZES, "small", 1.2, "medium"),
        (SIZES, "medium", 0.8, "small"),
        (SIZES, "large", 1.2, "large"),
        (SIZES, "medium", 1.0, "medium"),
        (OPTIMIZER, "sgd", 1.2, "sgd"),
    ],
)
def test_perturb(domain, value, factor, expected):
    """A perturbation goes where the drawn factor says, within the domain."""
    moved = domain.perturb(value, np.random.default_rng(0), [factor])
    assert moved == pytest.approx(expected, rel=1e-12) if isinstance(expected, float) else moved == expected
    assert type(moved) is type(expected)


def test_perturb_draws_each_factor():
    """Factors are drawn with equal probability."""
    rng = np.random.default_rng(0)
    ups = sum(Int(1, 100).perturb(50, rng, (0.8, 1.2)) == 60 for _ in range(2000))
    assert 900 < ups < 1100


def test_simplex_perturb_multiplies_and_renormalises():
    """Each weight has a factor of its own: ratios of weights move by ratios of factors; zero stays."""
    rng = np.random.default_rng(0)
    before = {"web": 0.5, "code": 0.3, "books": 0.2}
    moves = set()
    for _ in range(50):
        after = MIX.perturb(before, rng, (0.5, 2.0))
        moves.add(tuple(round(after[p] / before[p] * before["web"] / after["web"], 9) for p in ("code", "books")))
    assert moves == {(a, b) for a in (0.25, 1, 4) for b in (0.25, 1, 4)} - {(0.25, 4), (4, 0.25)}
    assert MIX.perturb({"web": 1, "code": 0, "books": 0}, rng, (1e-300, 1e300)) == {"web": 1.0, "code": 0, "books": 0}


@pytest.mark.parametrize(
    ("domain", "value", "columns"),
    [
        (Float(0, 4), 1, [0.25]),
        (LOG, 1e-3, [1 / 3]),
        (Float(0, 0.99, log_complement=True), 0.9, [0.5]),
        (Float(0, 1, step=0.25), 0.5, [0.5]),
        (Int(1, 4), 1, [0.125]),
        (Int(1, 2, log=True), 1, [math.log(3) / math.log(5) / 2]),
        (Int(0, 9, step=5), 5, [0.75]),
        (SIZES, "small", [1 / 6]),
        (OPTIMIZER, "sgd", [0, 1, 0]),
        (Choice([False, True]), True, [0.75]),
        (Choice(["only"]), "only", [0.5]),
        (MIX, {"web": 0.5, "code": 0.25, "books": 0.25}, [0.25, 0.5]),
        (MIX, {"web": 1, "code": 0, "books": 0}, [0, 0.5]),
    ],
)
def test_encode(domain, value, columns):
    """Values lie on the domain's scale, binned values in the middle of their bin, options at equal distances."""
    assert domain.encode(value) == pytest.approx(columns)
    assert len(columns) == domain.num_dims


@pytest.mark.parametrize(
    ("domain", "labels"),
    [
        (LOG, ("x",)),
        (SIZES, ("x",)),
        (Choice([1, 2]), ("x",)),
        (OPTIMIZER, ("x=adamw", "x=sgd", "x=lamb")),
        (MIX, ("x[web]", "x[code]")),
    ],
)
def test_labels(domain, labels):
    """Each column has a name."""
    assert domain.labels("x") == labels


@pytest.mark.parametrize(
    ("domain", "text"),
    [
        (LOG, "a number in [0.0001, 0.1]"),
        (TENTHS, "a number in [0.0, 1.0] in steps of 0.1"),
        (Int(1, 8), "an integer in [1, 8]"),
        (Int(2, 8, step=2), "an integer in [2, 8] in steps of 2"),
        (OPTIMIZER, "one of 'adamw', 'sgd', 'lamb'"),
        (MIX, "weights of web, code, books that sum to 1"),
    ],
)
def test_str(domain, text):
    """A domain reads as what it allows."""
    assert str(domain) == text


def _ks_distance(draws, cdf):
    """The largest distance of the empirical distribution from `cdf` (Kolmogorov and Smirnov)."""
    expected = np.array([cdf(x) for x in np.sort(draws)])
    steps = np.arange(len(draws) + 1) / len(draws)
    return max(np.abs(expected - steps[1:]).max(), np.abs(expected - steps[:-1]).max())


@pytest.mark.parametrize("source", ["sample", "decode"])
@pytest.mark.parametrize(
    ("domain", "cdf"),
    [
        (Float(-1, 3), lambda x: (x + 1) / 4),
        (LOG, lambda x: math.log10(x * 1e4) / 3),
        (BETA, lambda x: 1 - math.log10((1 - x) * 1e4) / 3),
        # Of three uniform weights each is Beta(1, 2).
        *(((MIX, part), lambda x: 1 - (1 - x) ** 2) for part in MIX.parts),
    ],
)
def test_continuous_prior(source, domain, cdf):
    """`sample`, and `decode` of uniform places, follow the prior (KS at the 1 % level, fixed seed)."""
    domain, part = domain if isinstance(domain, tuple) else (domain, None)
    draws = _draws(domain, source, 2000)
    assert _ks_distance([x[part] if part else x for x in draws], cdf) < 1.63 / math.sqrt(2000)


@pytest.mark.parametrize("source", ["sample", "decode"])
@pytest.mark.parametrize(
    ("domain", "shares"),
    [
        (Int(-1, 2), {-1: 1, 0: 1, 1: 1, 2: 1}),
        (Int(1, 4, log=True), {k: math.log((k + 0.5) / (k - 0.5)) for k in (1, 2, 3, 4)}),
        (Int(1, 9, log=True, step=4), {1: math.log(3 / 0.5), 5: math.log(7 / 3), 9: math.log(11 / 7)}),
        (Float(0, 0.5, step=0.2), {0.0: 1, 0.2: 1, 0.4: 1}),
        (SIZES, {"small": 1, "medium": 1, "large": 1}),
        (OPTIMIZER, {"adamw": 1, "sgd": 1, "lamb": 1}),
        (Choice([False, True]), {False: 1, True: 1}),
    ],
)
def test_discrete_prior(source, domain, shares):
    """Discrete values are uniform, or have their share of the log scale (4 standard errors, fixed seed)."""
    draws = _draws(domain, source, 4000)
    assert set(draws) == set(shares)
    for value, share in shares.items():
        p = share / sum(shares.values())
        assert draws.count(value) / 4000 == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 4000))


def _draws(domain, source, count):
    rng = np.random.default_rng(20)
    if source == "sample":
        return [domain.sample(rng) for _ in range(count)]
    return [domain.decode(u) for u in rng.random((count, domain.num_dims)).tolist()]


@pytest.mark.parametrize("concentration", [0.2, 1.0, 5.0])
def test_simplex_concentration(concentration):
    """The variance of a weight is that of the symmetric Dirichlet distribution."""
    domain = Simplex(["a", "b", "c"], concentration=concentration)
    draws = np.array([list(w.values()) for w in _draws(domain, "sample", 3000)])
    expected = (1 / 3) * (2 / 3) / (3 * concentration + 1)
    assert draws.mean(axis=0) == pytest.approx([1 / 3] * 3, abs=0.03)
    assert draws.var(axis=0) == pytest.approx([expected] * 3, rel=0.1)


def test_bounds_become_plain_floats_and_ints():
    """Numpy scalars and whole floats are stored as plain Python numbers."""
    domain = Float(np.float32(0.5), 2)
    assert (type(domain.low), type(domain.high)) == (float, float)
    assert [type(x) for x in dataclasses.astuple(Int(1.0, np.int64(8), step=2.0))[:2]] == [int, int]
    assert [type(x) for x in Choice([np.int64(1), np.float64(0.5), np.str_("a")]).options] == [int, float, str]


def test_domains_are_frozen_and_comparable():
    """Domains are values: equal by content, hashable, and never changed."""
    assert Float(1, 2) == Float(1.0, 2.0)
    assert len({Int(1, 2, when={"a": 1}), Int(1, 2, when={"a": [1]})}) == 1
    assert dataclasses.replace(Int(1, 2, when={"a": 1}), high=3) == Int(1, 3, when={"a": [1]})
    with pytest.raises(dataclasses.FrozenInstanceError):
        LOG.low = 0.5


def _is_plain(value):
    if isinstance(value, dict):
        return all(type(k) is str and type(v) is float for k, v in value.items())
    return type(value) in (float, int, str, bool)


@EXAMPLES
@given(strategies.domains(), strategies.rngs())
def test_sample_is_in_the_domain(domain, rng):
    """Any draw is a plain value of the domain."""
    value = domain.sample(rng)
    assert domain.contains(value)
    assert _is_plain(value)


@EXAMPLES
@given(strategies.domains_and_values(), strategies.rngs(), strategies.factors())
def test_perturb_is_in_the_domain(case, rng, factors):
    """From any value, with any factors, a perturbation is a plain value of the domain."""
    domain, value = case
    assert domain.contains(value)
    moved = domain.perturb(value, rng, factors)
    assert domain.contains(moved)
    assert _is_plain(moved)


@EXAMPLES
@given(st.data(), st.floats(1e-3, 1e3))
def test_perturb_is_multiplicative_on_the_log_scale(data, factor):
    """On a log scale a factor is the same shift in the unit cube from everywhere, up to the bounds."""
    domain = data.draw(strategies.float_domains().filter(lambda d: d.log and d.step is None))
    value = data.draw(strategies.values(domain))
    shift = math.log(factor) / (math.log(domain.high) - math.log(domain.low))
    moved = domain.perturb(value, np.random.default_rng(0), (factor,))
    expected = min(max(domain.encode(value)[0] + shift, 0.0), 1.0)
    assert domain.encode(moved)[0] == pytest.approx(expected, abs=1e-8)


@EXAMPLES
@given(st.data(), st.floats(1e-2, 1e2).filter(lambda f: f != 1))
def test_int_moves_along_the_factor_and_is_never_stuck(data, factor):
    """An integer moves in the drawn direction, from zero too, unless the bound is in the way."""
    domain = data.draw(strategies.int_domains())
    value = data.draw(strategies.values(domain))
    moved = domain.perturb(value, np.random.default_rng(0), (factor,))
    upwards = (factor > 1) == (value >= 0)
    blocked = value + (domain.step if upwards else -domain.step)
    if domain.contains(blocked):
        assert (moved > value) if upwards else (moved < value)
    else:
        assert moved == value


@EXAMPLES
@given(strategies.domains_and_values())
def test_encode_and_decode_are_inverse(case):
    """Values survive the unit cube: discrete ones exactly, others to 1e-12."""
    domain, value = case
    columns = domain.encode(value)
    assert len(columns) == domain.num_dims
    assert all(0 <= u <= 1 for u in columns)
    back = domain.decode(columns)
    assert domain.contains(back)
    match domain:
        case Float(step=None, log=log):
            scale = abs(value) if log else max(abs(domain.low), abs(domain.high), domain.log_complement)
            assert abs(back - value) <= 1e-12 * scale
        case Simplex():
            assert back == pytest.approx(value, abs=1e-12)
        case _:
            assert back == value
            assert type(back) is type(value)


@EXAMPLES
@given(st.data(), strategies.domains())
def test_decode_reaches_only_the_domain(data, domain):
    """Every place of the unit cube, its corners included, decodes to a plain value of the domain."""
    place = st.one_of(st.sampled_from([0.0, 1.0, math.nextafter(1, 0)]), st.floats(0, 1))
    value = domain.decode(data.draw(st.lists(place, min_size=domain.num_dims, max_size=domain.num_dims)))
    assert domain.contains(value)
    assert _is_plain(value)


@EXAMPLES
@given(st.one_of(strategies.float_domains(), strategies.int_domains()), st.lists(st.floats(0, 1), min_size=2))
def test_decode_is_monotone(domain, places):
    """Numbers rise with their column: a model sees their order."""
    decoded = [domain.decode([u]) for u in sorted(places)]
    assert all(a <= b for a, b in pairwise(decoded))
