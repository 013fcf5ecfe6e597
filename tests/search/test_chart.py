"""Where models see configurations."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from pbt.search.chart import Chart
from searchspaces import Choice, Float, Int, Simplex, Space
from tests.examples import examples

PLAIN = Space(
    {
        "optimizer": Choice(["sgd", "adam", "lion"]),
        "lr": Float(1e-5, 1.0, log=True),
        "momentum": Float(0.0, 0.99, when={"optimizer": "sgd"}),
        "layers": Int(1, 8),
    }
)
PARTS = ["web", "code", "books", "maths"]
MIXED = Space({**PLAIN, "mixture": Simplex(PARTS)})
SEEDS = st.integers(0, 2**32)


@examples(100)
@given(seed=SEEDS)
def test_without_mixtures_it_is_the_unit_cube(seed):
    hparams = PLAIN.sample(np.random.default_rng(seed))
    np.testing.assert_array_equal(PLAIN.encode(hparams), Chart(PLAIN).encode(hparams))


@examples(100)
@given(seed=SEEDS)
def test_a_place_leads_back_to_its_configuration(seed):
    hparams = MIXED.sample(np.random.default_rng(seed))
    again = Chart(MIXED).decode(Chart(MIXED).encode(hparams))
    assert hparams.pop("mixture") == pytest.approx(again.pop("mixture"))
    assert hparams.keys() == again.keys()
    assert hparams["lr"] == pytest.approx(again["lr"])
    assert hparams["layers"] == again["layers"]


@examples(100)
@given(places=st.lists(st.lists(st.floats(0, 1), min_size=10, max_size=10), min_size=1, max_size=3))
def test_every_place_can_be_brought_to_one_that_can_be_had(places):
    snapped = Chart(MIXED).snapped(np.array(places))
    for place in snapped:
        MIXED.check(Chart(MIXED).decode(place))
    np.testing.assert_allclose(np.square(snapped[:, -4:]).sum(axis=1), 1.0)
    np.testing.assert_allclose(Chart(MIXED).snapped(snapped), snapped, atol=1e-9)


def test_in_which_order_parts_stand_makes_no_difference():
    """In the unit cube it does: the last of them has no number of its own."""
    weights = dict(zip(PARTS, (0.1, 0.2, 0.3, 0.4), strict=True))
    other = dict(zip(PARTS, (0.3, 0.3, 0.2, 0.2), strict=True))
    far = []
    for order in itertools.permutations(PARTS):
        chart = Chart(Space({"mixture": Simplex(order)}))
        far.append(np.square(chart.encode({"mixture": weights}) - chart.encode({"mixture": other})).sum())
    np.testing.assert_allclose(far, 2.0 - 2.0 * sum(np.sqrt(weights[it] * other[it]) for it in PARTS))


def test_values_that_are_given_are_had_by_all():
    chart = Chart(MIXED, {"optimizer": "sgd", "layers": 3})
    for place in [*chart.sample(5, np.random.default_rng(0)), *chart.snapped(np.full((1, 10), 0.9))]:
        hparams = chart.decode(place)
        assert (hparams["optimizer"], hparams["layers"]) == ("sgd", 3)
        assert "momentum" in hparams


def test_a_process_ranks_mixtures_better_than_by_the_unit_cube():
    """Of losses that fall with a power of each share, as those of language models do with their data."""
    from pbt.surrogates.curves import NOBODY, Values, evened, fit

    parts = [f"part{it}" for it in range(8)]
    space, rng = Space({"mixture": Simplex(parts, concentration=0.3)}), np.random.default_rng(0)
    hparams = [space.sample(rng) for _ in range(160)]
    worth = rng.random(8)
    losses = np.array(
        [-sum(worth[it] * row["mixture"][name] ** 0.4 for it, name in enumerate(parts)) for row in hparams]
    )

    def agreement(encode):
        places = np.array([encode(row) for row in hparams])
        seen = Values(np.arange(60), np.zeros(60), places[:60], losses[:60])
        expected, _ = fit(seen, evened(losses[:60])).predict(np.full(100, NOBODY), np.zeros(100), places[60:])
        return spearmanr(expected, losses[60:]).statistic

    assert agreement(Chart(space).encode) > 0.95 > agreement(space.encode)
