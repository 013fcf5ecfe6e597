"""Intervals of laws: they hold what was put in about as often as they say."""

import numpy as np

from pbt.laws.fit import Data, fit
from pbt.laws.forms import form_of
from pbt.laws.intervals import spread
from tests.laws.test_fit import TRUTH

LARGE = {"params": np.array([3e10]), "tokens": np.array([6e11])}
FORM = form_of("chinchilla")


def loss(params, tokens):
    return TRUTH["E"] + TRUTH["A"] / params ** TRUTH["alpha"] + TRUTH["B"] / tokens ** TRUTH["beta"]


def fitted(seed, rows=150, noise=0.003, shared=0.0, sizes=None):
    """A law of models of random sizes, or of so many sizes whose rows share their luck."""
    rng = np.random.default_rng(seed)
    own = np.arange(rows) if sizes is None else np.repeat(np.arange(sizes), rows // sizes)
    params = 10 ** rng.uniform(8, 10, rows) if sizes is None else np.geomspace(5e7, 1e10, sizes)[own]
    tokens = 10 ** rng.uniform(9, 11.5, rows)
    off = noise * rng.normal(size=rows) + shared * rng.normal(size=own.max() + 1)[own]
    measured = loss(params, tokens) * np.exp(off)
    return fit(FORM, Data.of(FORM, {"params": params, "tokens": tokens}, measured), starts=256), own


def test_they_hold_what_was_put_in():
    """Of 60 draws, 95 % intervals of two exponents and of a prediction three times as far."""
    held = np.zeros(3)
    for seed in range(60):
        law, _ = fitted(seed)
        found = spread(law, draws=200, seed=seed)
        low, high = found.predict(LARGE)
        written = found.written()
        held += [written[name].low <= TRUTH[name] <= written[name].high for name in ("alpha", "beta")] + [
            bool(low[0] <= loss(3e10, 6e11) <= high[0])
        ]
    assert (held >= 52).all()


def test_rows_that_share_their_luck_are_fewer_observations():
    """Intervals by rows are too narrow then; those by size are wider."""
    law, own = fitted(0, rows=120, noise=0.001, shared=0.003, sizes=12)
    by_row, by_size = spread(law, draws=300), spread(law, own, draws=300)
    wide, narrow = (np.subtract(*it.predict(LARGE)[::-1])[0] for it in (by_size, by_row))
    assert wide > 1.5 * narrow


def test_a_higher_level_is_wider_and_all_hold_the_estimate():
    law, _ = fitted(0)
    found = spread(law, draws=300)
    for name, value in law.written.items():
        half, most = found.written(0.5)[name], found.written(0.99)[name]
        assert most.low <= half.low <= value <= half.high <= most.high


def test_the_same_seed_gives_the_same_intervals():
    law, _ = fitted(0, rows=60)
    assert spread(law, draws=50, seed=3).written() == spread(law, draws=50, seed=3).written()
    assert spread(law, draws=50, seed=3).written() != spread(law, draws=50, seed=4).written()


def test_few_sizes_make_intervals_wider_than_what_is_drawn():
    """Of twelve, each decides much; leaving one out says so."""
    law, own = fitted(0, rows=120, noise=0.001, shared=0.003, sizes=12)
    found = spread(law, own, draws=300)
    low, high = found.predict(LARGE)
    drawn = np.exp(law.form.evaluate(found.theta, law.data.centred(LARGE)))
    assert high[0] - low[0] > 1.1 * np.subtract(*np.quantile(drawn, [0.975, 0.025]))
    assert len(found.without) == 12
