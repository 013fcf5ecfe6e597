"""Where to try next: the most improvement that can be expected at the target."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from pbt.surrogates.curves import NOBODY, Values, fit
from pbt.surrogates.improvement import Improvement, log_h, most_promising


class TestLogH:
    @pytest.mark.parametrize("u", [-30.0, -8.0, -3.0, -1.001, -0.999, 0.0, 2.0, 40.0])
    def test_is_the_logarithm_of_the_expected_improvement(self, u):
        """By quadrature of `max(u - z, 0)` over a normal z, scaled so that it does not underflow."""
        far = max(0.0, -u)
        scaled, _ = quad(lambda it: it * math.exp(-(it**2) / 2 + u * it - (u**2 - far**2) / 2), 0, max(2 * u, 0) + 40)
        if u <= 2:
            expected = math.log(scaled / math.sqrt(2 * math.pi)) - far**2 / 2
            assert float(log_h(torch.tensor(u, dtype=torch.float64))) == pytest.approx(expected, rel=1e-7)
        else:
            assert float(log_h(torch.tensor(u, dtype=torch.float64))) == pytest.approx(math.log(u))

    def test_rises_everywhere_and_has_a_gradient(self):
        u = torch.tensor(np.concatenate([-np.logspace(6, -3, 400), np.logspace(-3, 3, 200)]), requires_grad=True)
        values = log_h(u)
        assert (values.diff() > 0).all()
        values.sum().backward()
        assert torch.isfinite(u.grad).all()
        assert (u.grad > 0).all()


def seen(noise=0.0):
    """Runs of one length, whose value is a parabola of the first of two numbers."""
    rng = np.random.default_rng(0)
    cube = rng.uniform(0, 1, (25, 2))
    badness = (cube[:, 0] - 0.3) ** 2 + noise * rng.normal(size=25)
    return Values(np.arange(25), np.zeros(25), cube, badness)


def points(places):
    return torch.from_numpy(np.column_stack([np.full(len(places), NOBODY), np.zeros(len(places)), places]))


class TestImprovement:
    def test_is_what_draws_of_the_process_say(self):
        """Means over a hundred thousand draws of both places at once."""
        model = fit(seen())
        places = np.array([[0.3, 0.5], [0.5, 0.5], [0.35, 0.9]])
        best = points(np.array([[0.32, 0.4]]))
        found = Improvement(model, best[0])(points(places)[:, None]).exp()
        for place, value in zip(points(places), found.tolist(), strict=True):
            with torch.no_grad():
                both = model.process.posterior(torch.stack([place, best[0]])).distribution
            mean, covariance = both.mean.numpy(), both.covariance_matrix.numpy()
            draws = np.random.default_rng(1).multivariate_normal(mean, covariance, 100_000)
            gained = np.maximum(draws[:, 1] - draws[:, 0], 0)
            assert value == pytest.approx(gained.mean(), abs=5 * gained.std() / math.sqrt(1e5) + 1e-9)

    def test_of_the_best_place_itself_is_next_to_nothing(self):
        best = points(np.array([[0.32, 0.4]]))
        assert float(Improvement(fit(seen()), best[0])(best[:, None])) < math.log(1e-5)


class TestMostPromising:
    def test_finds_the_top(self):
        chosen = most_promising(fit(seen()), seen(), np.zeros((0, 2)), 0, lambda places: places)
        assert chosen[0] == pytest.approx(0.3, abs=0.03)

    def test_beats_ten_thousand_places(self):
        values = seen(noise=0.05)
        model = fit(values)
        chosen = most_promising(model, values, np.zeros((0, 2)), 0, lambda places: places)
        expected, _ = model.predict(np.full(25, NOBODY), np.zeros(25), values.cube)
        improvement = Improvement(model, points(values.cube[[np.argmin(expected)]])[0])
        places = np.random.default_rng(5).uniform(0, 1, (10_000, 2))
        with torch.no_grad():
            others = improvement(points(places)[:, None])
            assert float(improvement(points(chosen[None])[:, None])) >= float(others.max()) - 1e-3

    def test_takes_only_places_that_can_be_had_and_none_twice(self):
        values = seen()
        values = Values(values.run, values.depth, np.round(values.cube * 4) / 4, values.badness)
        chosen = most_promising(fit(values), values, np.zeros((0, 2)), 0, lambda places: np.round(places * 4) / 4)
        assert (chosen * 4 == np.round(chosen * 4)).all()
        assert not (values.cube == chosen).all(-1).any()

    def test_where_all_has_been_tried_something_is_tried_again(self):
        values = Values(np.arange(3), np.zeros(3), np.array([[0.0], [0.5], [1.0]]), np.array([1.0, 0.5, 2.0]))
        chosen = most_promising(fit(values), values, np.zeros((0, 1)), 0, lambda places: np.round(places * 2) / 2)
        assert chosen[0] in (0.0, 0.5, 1.0)
