"""Where to try next."""

import math

import numpy as np
import pytest
import torch

from pbt.surrogates.acquisition import exploration, maximise
from pbt.surrogates.gaussian import Points, fit

NONE = np.zeros((0, 2))


def model(number=60, noise=0.05):
    """A bowl around (0.7, 0.2), seen with some noise."""
    rng = np.random.default_rng(0)
    cube = rng.uniform(0, 1, (number, 2))
    values = -((cube - [0.7, 0.2]) ** 2).sum(1) + noise * rng.normal(size=number)
    return fit(Points(np.zeros(number), np.zeros(number), cube, np.zeros((number, 0), dtype=np.int64)), values)


def here(cube=(0.5, 0.5)):
    return Points(np.zeros(1), np.zeros(1), np.array([cube]), np.zeros((1, 0), dtype=np.int64))


def best(model, *, free=(True, True), weight=0.0, seed=0, snap=lambda it: it, at=None, known=NONE):
    return maximise(model, here() if at is None else at, np.array(free), weight, seed, snap, known)


def test_the_top_is_found():
    """As a fine grid finds it."""
    known = model()
    axis = np.linspace(0, 1, 101)
    grid = np.array([(x, y) for x in axis for y in axis])
    mean, _ = known.predict(here().with_cube(grid))
    found, _ = known.predict(here().with_cube(best(known)[None]))
    assert found[0] >= mean.max()
    assert np.abs(best(known) - [0.7, 0.2]).max() < 0.1


def test_columns_that_are_not_free_stay():
    """Also where another would be better."""
    found = best(model(), free=(True, False), at=here((0.0, 0.9)))
    assert found[1] == 0.9
    assert abs(found[0] - 0.7) < 0.15
    assert (best(model(), free=(False, False), at=here((0.1, 0.9))) == [0.1, 0.9]).all()


def test_what_comes_back_can_be_had():
    """The best of the places that are snapped, not the snapped best of all."""
    found = best(model(), snap=lambda it: np.round(it * 4) / 4)
    assert (found * 4 == np.round(found * 4)).all()
    assert (found == [0.75, 0.25]).all()


def test_known_places_are_considered():
    """One that no other comes near is chosen."""
    place = np.array([[0.7, 0.2]])
    found = best(model(), snap=lambda it: it if (it == place[0]).all() else np.zeros(2), known=place)
    assert (found == place[0]).all()


def test_a_batch_spreads_out():
    """With what is pending in the doubts, eight places differ; without, they are one and the same."""
    known = model(noise=0.3, number=15)
    alone = [best(known, weight=2.0) for _ in range(4)]
    assert np.ptp(alone, axis=0).max() == 0.0
    batch = []
    for seed in range(8):
        waiting = here().with_cube(np.array(batch).reshape(-1, 2))
        batch.append(best(known.with_pending(waiting), weight=2.0, seed=seed))
    gaps = [np.abs(a - b).max() for i, a in enumerate(batch) for b in batch[:i]]
    assert np.median(gaps) > 0.2


def test_a_seed_settles_it_and_nothing_else_is_asked():
    """The same seed, the same place; torch's generator stays as it was."""
    known = model(10)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    found = [best(known, weight=1.0, seed=seed) for seed in (5, 5)]
    assert (found[0] == found[1]).all()
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("observations", "expected"), [(0, 0.0), (2, 0.0), (25, math.sqrt(0.2 * math.log(10.0))), (250, 0.9597)]
)
def test_doubt_weighs_more_the_more_was_seen(observations, expected):
    """By hand: 0.2 log(0.4 n) under the root."""
    assert exploration(observations) == pytest.approx(expected, abs=1e-4)
