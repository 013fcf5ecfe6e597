"""The Gaussian process over learning curves: what it expects, what it learns, and that it leaves no traces."""

import math
import types

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal, norm, skew, spearmanr

from pbt.surrogates.curves import NOBODY, CurveKernel, Values, evened, fit, with_parameters


def matern(distance):
    far = math.sqrt(5.0) * distance
    return (1 + far + far**2 / 3) * np.exp(-far)


def matrix(raw, a, b):
    """The kernel by its definition, of rows (run, depth, hyperparameters), in numpy."""
    trend, trend_scale, signal, fade, own, own_scale = np.exp(raw[:6])
    scales = np.exp(raw[6:])
    apart = np.abs(a[:, None, 1] - b[None, :, 1])
    near = matern(np.sqrt((((a[:, None, 2:] - b[None, :, 2:]) / scales) ** 2).sum(-1)))
    same = (a[:, None, 0] == b[None, :, 0]) & (a[:, None, 0] >= 0)
    return (
        trend * matern(apart / trend_scale)
        + signal * near * matern(apart / fade)
        + same * own * matern(apart / own_scale)
    )


def curves(runs, *, numbers=2, seed=0, noise=0.02, points=(2.0, 1.0, 0.3, 0.0)):
    """Runs that fall by a power law to what their first hyperparameter says; those that are worst are stopped early."""
    rng = np.random.default_rng(seed)
    cube = rng.uniform(0, 1, (runs, numbers))
    final = (cube[:, 0] - 0.4) ** 2 * 4
    length = len(points) - np.argsort(np.argsort(final)) * len(points) // runs
    rows = [(run, points[it]) for run in range(runs) for it in range(length[run])]
    run, depth = (np.array(column) for column in zip(*rows, strict=True))
    badness = final[run] + 0.5 * 10 ** (0.5 * depth) + noise * rng.normal(size=len(rows))
    return Values(run, depth, cube[run], badness)


def rows(values):
    return np.column_stack([values.run, values.depth, values.cube])


def raw_of(model):
    return model.process.covar_module.raw.detach().numpy()


class TestKernel:
    @pytest.fixture
    def kernel(self):
        made = CurveKernel(3)
        made.raw.data = torch.from_numpy(np.random.default_rng(3).normal(0.0, 0.5, 9))
        return made

    @pytest.fixture
    def points(self):
        rng = np.random.default_rng(4)
        return np.column_stack([rng.integers(-1, 3, 12), rng.uniform(0, 2, 12), rng.uniform(0, 1, (12, 3))])

    def test_is_what_its_definition_says(self, kernel, points):
        one, other = points[:7], points[7:]
        found = kernel.forward(torch.from_numpy(one), torch.from_numpy(other)).detach().numpy()
        np.testing.assert_allclose(found, matrix(kernel.raw.detach().numpy(), one, other), atol=1e-7)

    def test_its_diagonal_is_its_diagonal(self, kernel, points):
        """A place as such has no share in what is a run's own."""
        at = torch.from_numpy(points)
        whole = kernel.forward(at, at).detach()
        np.testing.assert_allclose(kernel.forward(at, at, diag=True).detach(), whole.diagonal(), atol=1e-5)

    def test_its_derivatives_are_its_derivatives(self, kernel, points):
        one, other = (torch.from_numpy(it).requires_grad_(True) for it in (points[:7], points[7:]))
        raw = kernel.raw.detach().clone().requires_grad_(True)
        forward = types.SimpleNamespace(raw=raw)

        def of(one, other, raw):
            forward.raw = raw
            return CurveKernel.forward(forward, one, other)

        assert torch.autograd.gradcheck(of, (one, other, raw), atol=1e-5)

    def test_gives_covariances(self, kernel, points):
        at = torch.from_numpy(points)
        assert np.linalg.eigvalsh(kernel.forward(at, at).detach().numpy()).min() > -1e-9


class TestFit:
    def test_predicts_by_the_book(self):
        """Equations 2.25 and 2.26 of Rasmussen and Williams, with an inverse."""
        values = curves(12)
        model = fit(values)
        at, raw = rows(values), raw_of(model)
        new = np.column_stack(
            [[NOBODY, 0, 5, 11], [0.0, 0.0, 0.5, 2.0], np.random.default_rng(1).uniform(0, 1, (4, 2))]
        )
        inverse = np.linalg.inv(matrix(raw, at, at) + model.noise**2 * np.eye(len(at)))
        between = matrix(raw, new, at)
        mean, deviation = model.predict(new[:, 0], new[:, 1], new[:, 2:])
        np.testing.assert_allclose(mean, between @ inverse @ evened(values.badness), atol=1e-5)
        variance = np.diag(matrix(raw, new, new) - between @ inverse @ between.T)
        np.testing.assert_allclose(deviation, np.sqrt(variance), atol=1e-4)

    def test_its_parameters_are_the_most_probable(self):
        """Nowhere near them is the posterior density, in scipy, higher."""
        values = curves(12)
        model = fit(values)
        raw, noise = raw_of(model), 2 * math.log(model.noise)
        best = density(values, raw, noise)
        rng = np.random.default_rng(0)
        for size in (0.01, 0.1, 0.5):
            for _ in range(20):
                move = size * rng.normal(size=len(raw) + 1)
                assert density(values, raw + move[1:], noise + move[0]) < best + 1e-4

    def test_much_is_fitted_nearly_as_well_as_if_all_of_it_had_been_asked_from_the_start(self, monkeypatch):
        values = curves(80)
        assert len(values) > 160
        quick = fit(values)
        monkeypatch.setattr("pbt.surrogates.curves._ENOUGH", 1000)
        patient = fit(values)
        reached, best = (density(values, raw_of(it), 2 * math.log(it.noise)) for it in (quick, patient))
        assert reached > best - 1.0

    def test_stopped_runs_tell_which_will_be_good(self):
        """Most were never trained to the end; what is expected of others there follows the truth."""
        values = curves(40)
        at_end = (values.depth == 0).sum()
        assert at_end <= 10
        places = np.random.default_rng(9).uniform(0, 1, (200, 2))
        mean, _ = fit(values).predict(np.full(200, NOBODY), np.zeros(200), places)
        assert spearmanr(mean, (places[:, 0] - 0.4) ** 2).statistic > 0.95

    def test_those_that_were_trained_further_being_better_is_no_reason_to_think_training_helps_little(self):
        """What all runs have in common is told from who was trained on."""
        values = curves(40)
        model = fit(values)
        worst = values.run[np.argmax(np.where(values.depth == 2.0, values.badness, -np.inf))]
        own = values.cube[values.run == worst][:1]
        expected = model.predict(np.full(4, worst), np.array([2.0, 1.0, 0.3, 0.0]), np.repeat(own, 4, axis=0))[0]
        assert (np.diff(expected) < 0).all()

    def test_a_run_is_known_better_than_its_hyperparameters(self):
        values = curves(20, noise=0.0)
        values = Values(values.run, values.depth, values.cube, values.badness + 0.5 * (values.run == 3))
        model = fit(values)
        place = values.cube[values.run == 3][:1]
        twin = np.array([99]), np.zeros(1), place  # another run at the same place
        assert model.predict(np.array([3]), *twin[1:])[0] > model.predict(*twin)[0]

    def test_what_is_pending_changes_no_expectation_and_leaves_less_to_learn(self):
        model = fit(curves(20))
        place = np.array([[0.9, 0.9]])
        at = (np.array([NOBODY]), np.zeros(1), place)
        before, after = model.predict(*at), model.with_pending(*at).predict(*at)
        assert after[0] == pytest.approx(before[0], abs=1e-6)
        assert after[1] < 0.8 * before[1]
        assert model.with_pending(np.zeros(0), np.zeros(0), np.zeros((0, 2))) is model

    def test_the_same_values_give_the_same_process_whatever_else_is_drawn(self):
        values = curves(15)
        torch.manual_seed(1)
        first = raw_of(fit(values))
        state = torch.manual_seed(2).get_state()
        np.testing.assert_array_equal(raw_of(fit(values)), first)
        assert torch.equal(torch.get_rng_state(), state)

    @pytest.mark.parametrize("depths", [(0.0,), (1.0,)])
    def test_runs_of_one_length_are_enough(self, depths):
        mean, _ = fit(curves(20, points=depths)).predict(
            np.full(2, NOBODY), np.zeros(2), np.array([[0.4, 0.5], [1.0, 0.5]])
        )
        assert mean[0] < mean[1]

    def test_a_single_value_is_enough(self):
        mean, deviation = fit(Values(np.zeros(1, int), np.zeros(1), np.zeros((1, 2)), np.ones(1))).predict(
            np.array([NOBODY]), np.zeros(1), np.ones((1, 2))
        )
        assert math.isfinite(mean[0])
        assert deviation[0] > 0


def density(values, raw, log_noise):
    """Log of the posterior density of parameters but for a constant, by scipy."""
    covariance = matrix(raw, rows(values), rows(values)) + math.exp(log_noise) * np.eye(len(values))
    likelihood = multivariate_normal(cov=covariance, allow_singular=True).logpdf(evened(values.badness))
    numbers = len(raw) - 6
    mean = np.array([0, 0, 0, 0, -3, 0, *[math.sqrt(2) + math.log(numbers) / 2] * numbers])
    deviation = np.array([1, 0.7, 1, 0.7, 1, 0.7, *[math.sqrt(3)] * numbers])
    return likelihood + norm.logpdf(raw, mean, deviation).sum() + norm.logpdf(log_noise, -4.0, 1.5)


class TestEvened:
    def test_what_is_normal_already_stays_as_it_is(self):
        badness = np.random.default_rng(0).normal(3.0, 0.1, 200)
        found = evened(badness)
        assert abs(found.mean()) < 1e-12
        assert found.std() == pytest.approx(1.0)
        assert np.corrcoef(found, badness)[0, 1] > 0.999

    def test_what_is_skewed_is_made_even(self):
        badness = np.exp(np.random.default_rng(0).normal(size=200))
        assert abs(skew(evened(badness))) < 0.3 < 1.5 < skew(badness)

    def test_units_make_no_difference(self):
        badness = np.exp(np.random.default_rng(0).normal(size=30))
        np.testing.assert_allclose(evened(badness), evened(1000.0 * badness - 7.0), atol=1e-4)

    @given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=30))
    def test_the_order_stays(self, badness):
        values = np.array(badness)
        found = evened(values)
        assert np.isfinite(found).all()
        assert (np.diff(found[np.argsort(values)]) >= -1e-9).all()

    def test_what_diverged_is_as_bad_as_the_worst(self):
        scores = evened(np.array([1.0, math.nan, 2.0, math.inf, 3.0]))
        assert scores[1] == scores[3] == scores[4] == max(scores)
        assert scores[0] < scores[2] < scores[4]

    def test_one_loss_of_1e30_leaves_the_others_apart(self):
        scores = evened(np.array([*np.linspace(1.0, 2.0, 20), 1e30]))
        assert np.diff(scores[:20]).min() > 0.01

    @pytest.mark.parametrize("value", [7.0, math.nan, math.inf])
    def test_equals_are_equal(self, value):
        assert set(evened(np.full(4, value))) == {0.0}


def test_what_is_left_out_is_expected_from_all_other_runs():
    """Against processes that were told of all but one run, some of which had come to a second rung."""
    cube = np.random.default_rng(2).random((12, 2))
    run = np.concatenate([np.arange(12), [0, 5]])
    depth = np.concatenate([np.ones(12), np.zeros(2)])
    values = Values(run, depth, cube[run], cube[run, 0] + 0.1 * cube[run, 1] + 0.3 * depth)
    targets = evened(values.badness)
    model = fit(values)
    found = model.left_out()
    for number in (0, 5, 11):
        rest = run != number
        others = Values(run[rest], depth[rest], cube[run[rest]], values.badness[rest])
        told = with_parameters(others, targets[rest], model.parameters)
        own = ~rest
        expected, _ = told.predict(run[own], depth[own], cube[run[own]])
        np.testing.assert_allclose(found[own], expected, atol=1e-5)
