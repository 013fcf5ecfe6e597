"""Hypothesis strategies shared by the tests.

They build values from the public documentation of each type, not through the code under test: a point of a space is
drawn value by value and not with `decode` or `sample`.
"""

from dataclasses import replace
from fractions import Fraction

import numpy as np
from hypothesis import strategies as st

from searchspaces import Choice, Float, Int, Simplex, Space

NAMES = ("lr", "optimizer", "momentum", "layers", "mix", "aug.depth")
OPTIONS = ("adamw", "sgd", "lamb", True, 7, 0.5)


def rngs():
    """Numpy generators, each with its own seed."""
    return st.integers(0, 2**32 - 1).map(np.random.default_rng)


def factors():
    """One to three positive multipliers."""
    one = st.one_of(st.sampled_from([0.8, 1.2, 1.0, 2]), st.floats(1e-3, 1e3))
    return st.lists(one, min_size=1, max_size=3).map(tuple)


def probabilities():
    """Numbers in [0, 1], the ends often."""
    return st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1))


def _bounds(low, high, gap, size=1e-9):
    """Pairs of floats that lie at least `gap` apart, relative to the larger of them and `size`."""
    number = st.floats(low, high, allow_subnormal=False)
    return st.tuples(number, number).map(sorted).filter(lambda b: b[1] - b[0] > gap * max(size, *map(abs, b)))


@st.composite
def float_domains(draw, when=None):
    """Linear, log, `log_complement` and stepped floats."""
    scale = draw(st.sampled_from(["linear", "log", "log_complement", "step", "log step"]))
    if scale == "log_complement":
        low, high = draw(_bounds(-10.0, 0.999999, 1e-6, size=1.0))
        return Float(low, high, log_complement=True, when=when)
    if scale == "step":
        low, size = draw(st.decimals(-100, 100, places=2)), draw(st.integers(1, 300))
        step = draw(st.decimals("0.01", 10, places=2))
        return Float(float(low), float(low + size * step), step=float(step), when=when)
    low, high = draw(_bounds(1e-9, 1e9, 1e-6) if "log" in scale else _bounds(-1e9, 1e9, 1e-6))
    step = (high - low) * draw(st.floats(1e-3, 0.99)) if scale == "log step" else None
    return Float(low, high, log="log" in scale, step=step, when=when)


@st.composite
def int_domains(draw, when=None):
    """Linear and log integers, with and without a step, narrow and wide."""
    log = draw(st.booleans())
    low = draw(st.one_of(st.integers(1, 8), st.integers(1, 10**9)) if log else st.integers(-(10**9), 10**9))
    width = draw(st.one_of(st.integers(1, 10), st.integers(1, 10**10)))
    step = draw(st.one_of(st.just(1), st.integers(1, width)))
    return Int(low, low + width, log=log, step=step, when=when)


def choices(when=None):
    """Ordered and unordered choices of one to six options of every scalar type."""
    options = st.lists(st.sampled_from(OPTIONS), min_size=1, max_size=6, unique_by=repr)
    return st.builds(Choice, options, ordered=st.booleans(), when=st.just(when))


def simplexes(when=None):
    """Simplexes of two to five parts."""
    parts = st.lists(st.sampled_from("abcdefg"), min_size=2, max_size=5, unique=True)
    concentration = st.sampled_from([0.1, 1.0, 3.0])
    return st.builds(Simplex, parts, concentration=concentration, when=st.just(when))


def domains(when=None):
    """Domains of every kind."""
    return st.one_of(float_domains(when), int_domains(when), choices(when), simplexes(when))


@st.composite
def spaces(draw):
    """Spaces of up to five hyperparameters, parents and children in any order."""
    drawn = {}
    for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=5, unique=True)):
        drawn[name] = draw(domains(when=draw(_conditions(drawn))))
    return Space({name: drawn[name] for name in draw(st.permutations(list(drawn)))})


@st.composite
def _conditions(draw, drawn):
    """None, or values of one or two of the Choice and Int hyperparameters so far."""
    parents = [name for name, domain in drawn.items() if isinstance(domain, Choice | Int)]
    if not parents or draw(st.booleans()):
        return None
    named = draw(st.lists(st.sampled_from(parents), min_size=1, max_size=2, unique=True))
    return {name: draw(st.lists(values(drawn[name]), min_size=1, max_size=2, unique_by=repr)) for name in named}


def widened(space):
    """A wider space: it holds every point of this one, and others."""
    return Space({name: _widened(domain) for name, domain in space.items()})


def _widened(domain):
    match domain:
        case Float(step=None, log_complement=True):
            return replace(domain, low=domain.low - 1.0)
        case Float(step=None, log=True):
            return replace(domain, low=domain.low / 2, high=domain.high * 2)
        case Float(step=None):
            width = domain.high - domain.low
            return replace(domain, low=domain.low - width, high=domain.high + width)
        case Float():
            return replace(domain, high=float(Fraction(repr(domain.high)) + Fraction(repr(domain.step))))
        case Int():
            return replace(domain, high=domain.high + domain.step)
        case Choice():
            return replace(domain, options=(*domain.options, f"option {len(domain.options)}"))
        case Simplex():
            return domain


def values(domain):
    """Values of a domain, its ends included."""
    match domain:
        case Float(step=None):
            return st.one_of(st.sampled_from([domain.low, domain.high]), st.floats(domain.low, domain.high))
        case Float():
            low, high, step = (Fraction(repr(x)) for x in (domain.low, domain.high, domain.step))
            return st.integers(0, (high - low) // step).map(lambda i: float(low + i * step))
        case Int():
            last = (domain.high - domain.low) // domain.step
            return st.integers(0, last).map(lambda i: domain.low + i * domain.step)
        case Choice():
            return st.sampled_from(domain.options)
        case Simplex():
            return _weights(domain.parts)


def _weights(parts):
    weight = st.one_of(st.just(0.0), st.floats(1e-12, 1.0))
    rows = st.lists(weight, min_size=len(parts), max_size=len(parts)).filter(any)
    return rows.map(lambda row: {part: w / sum(row) for part, w in zip(parts, row, strict=True)})


@st.composite
def points(draw, space):
    """Points of a space: a value for each active hyperparameter."""
    everything = {name: draw(values(domain)) for name, domain in space.items()}
    return {name: value for name, value in everything.items() if _active(space, name, everything)}


def _active(space, name, everything):
    return all(
        any(repr(everything[parent]) == repr(value) for value in allowed) and _active(space, parent, everything)
        for parent, allowed in (space[name].when or {}).items()
    )


@st.composite
def spaces_and_points(draw):
    """A space and a point of it."""
    space = draw(spaces())
    return space, draw(points(space))


@st.composite
def domains_and_values(draw):
    """A domain and a value of it."""
    domain = draw(domains())
    return domain, draw(values(domain))
