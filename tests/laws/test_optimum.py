"""Laws of optima: the lowest point of many bowls that move."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize, minimize_scalar

from pbt.errors import SpecError
from pbt.laws.optimum import Runs, best_of_cells, fit_optimum, spread_optimum
from tests.examples import examples

#: About as learning rate and batch size move with parameters and tokens, and how much they matter.
MOVES = np.array([[0.7, -0.65, 0.28], [0.0, -0.05, 0.55]])
BENDS = np.array([[0.0152, -0.0053], [-0.0053, 0.0138]])
LARGE = {"params": 1e10, "tokens": 5e11}


def tried(seed=0, noise=0.0, sizes=4, tokens=3, moves=MOVES, wide=5.0):
    """A table of 8 learning rates by 6 batch sizes in each cell, around the best but not quite."""
    rng, rows = np.random.default_rng(seed), []
    for n in np.geomspace(6e7, 1e9, sizes):
        for d in np.geomspace(2e9, 1e11, tokens):
            lr, batch = np.exp(moves @ [1.0, np.log(n), np.log(d)] + rng.uniform(-0.4, 0.4, 2))
            rows += [
                (n, d, lr * u, batch * v) for u in np.geomspace(1 / wide, wide, 8) for v in np.geomspace(0.25, 4, 6)
            ]
    table = dict(zip(("params", "tokens", "lr", "batch"), np.array(rows).T, strict=True))
    table["loss"] = (1.7 + 400 / table["params"] ** 0.34 + 2000 / table["tokens"] ** 0.37) * np.exp(lost(table, moves))
    table["loss"] *= np.exp(noise * rng.normal(size=len(rows)))
    return table


def lost(table, moves=MOVES):
    x = np.column_stack([np.ones(len(table["lr"])), np.log(table["params"]), np.log(table["tokens"])])
    far = np.log(np.column_stack([table["lr"], table["batch"]])) - x @ moves.T
    return 0.5 * np.einsum("ri,ij,rj->r", far, BENDS, far)


def runs(table, varied=("lr", "batch"), inputs=("params", "tokens")):
    return Runs.of({name: table[name] for name in varied}, {name: table[name] for name in inputs}, table["loss"])


@pytest.fixture(scope="module")
def noisy():
    return fit_optimum(runs(tried(noise=0.002)))


@examples(10)
@given(
    powers=st.tuples(*[st.floats(-1.0, 1.0)] * 4),
    seed=st.integers(0, 1000),
)
def test_without_noise_what_was_put_in_comes_out(powers, seed):
    moves = np.array([[1.0, *powers[:2]], [0.5, *powers[2:]]])
    found = fit_optimum(runs(tried(seed, moves=moves)))
    assert found.bowl.bends == pytest.approx(BENDS, rel=1e-6)
    for name, row in zip(("lr", "batch"), moves, strict=True):
        expected = {"coefficient": np.exp(row[0]), "params": row[1], "tokens": row[2]}
        assert found.written[name] == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_it_is_least_squares_with_a_level_for_each_cell(noisy):
    """As numpy solves it with a column for each cell."""
    own = noisy.runs
    levels = np.eye(int(own.cell.max()) + 1)[own.cell]
    (u, v), (_, n, d) = own.z.T, own.x.T
    columns = np.column_stack([levels, u, u * n, u * d, v, v * n, v * d, 0.5 * u * u, u * v, 0.5 * v * v])
    root = np.sqrt(noisy.weights)
    found = np.linalg.lstsq(columns * root[:, None], own.y * root, rcond=None)[0][levels.shape[1] :]
    bends = np.array([[found[6], found[7]], [found[7], found[8]]])
    assert noisy.bowl.bends == pytest.approx(bends, rel=1e-6)
    assert noisy.bowl.moves == pytest.approx(-np.linalg.solve(bends, found[:6].reshape(2, 3)), rel=1e-5, abs=1e-7)


def test_nobody_finds_anything_better_with_powers_left_out():
    """Of the batch size's own power of parameters nothing is left, and of the rest the best."""
    found = fit_optimum(runs(tried(noise=0.002)), {"batch": ("tokens",)})
    own, bowl = found.runs, found.bowl
    assert bowl.moves[1, 1] == 0.0

    def off(moves, bends):
        far = own.z - own.x @ moves.T
        level = own.y - 0.5 * np.einsum("ri,ij,rj->r", far, bends, far)
        mean = np.bincount(own.cell, found.weights * level) / np.bincount(own.cell, found.weights)
        return 1e6 * (found.weights * np.square(level - mean[own.cell])).sum()

    def objective(theta):
        moves = np.array([theta[:3], [theta[3], 0.0, theta[4]]])
        return off(moves, np.array([[theta[5], theta[6]], [theta[6], theta[7]]]))

    begun = [*bowl.moves[0], bowl.moves[1, 0], bowl.moves[1, 2], bowl.bends[0, 0], bowl.bends[0, 1], bowl.bends[1, 1]]
    reached = minimize(objective, begun, method="BFGS")
    assert off(bowl.moves, bowl.bends) <= reached.fun * (1 + 1e-6)


def test_the_best_beside_a_given_batch_size_is_the_lowest_there(noisy):
    given_, at = {"batch": 3e6}, {"params": 3e8, "tokens": 1e10}
    lowest = minimize_scalar(lambda log_lr: noisy.penalty(at, {"lr": np.exp(log_lr), **given_}), bounds=(-12, 0))
    assert noisy.at(at, given_) == pytest.approx({"lr": np.exp(lowest.x), "batch": 3e6}, rel=1e-3)
    assert noisy.penalty(at, noisy.at(at)) == pytest.approx(0.0, abs=1e-12)


def test_a_plateau_ends_where_its_share_is_lost(noisy):
    best = noisy.at(LARGE)
    for name, factor in noisy.plateau(0.002).items():
        for other in (best[name] * factor, best[name] / factor):
            assert noisy.penalty(LARGE, {**best, name: other}) == pytest.approx(0.002)


def test_a_learning_rate_alone_has_a_law_at_each_batch_size():
    """Which is another than that of the best batch size: along the valley, by how it lies."""
    found = fit_optimum(runs(tried(), ("lr",), ("params", "tokens", "batch")))
    slope = -BENDS[0, 1] / BENDS[0, 0]
    expected = {"params": -0.65 + slope * 0.05, "tokens": 0.28 - slope * 0.55, "batch": slope}
    assert {k: found.written["lr"][k] for k in expected} == pytest.approx(expected, rel=1e-5)


def test_runs_that_went_wrong_do_not_move_it():
    table = tried(noise=0.001)
    whole = fit_optimum(runs(table)).at(LARGE)
    highest = table["lr"] > 4.0 * np.exp(
        np.column_stack([np.ones(len(table["lr"])), np.log(table["params"]), np.log(table["tokens"])]) @ MOVES[0]
    )
    table["loss"] = np.where(highest, np.where(table["batch"] > 1e6, np.nan, 11.0), table["loss"])
    assert highest.sum() > 10
    assert fit_optimum(runs(table)).at(LARGE) == pytest.approx(whole, rel=0.1)


def test_intervals_hold_what_was_put_in():
    """Of 80 draws: two exponents, the best learning rate far beyond, and what following it loses."""
    held = np.zeros(4)
    best = np.exp(MOVES @ [1.0, np.log(LARGE["params"]), np.log(LARGE["tokens"])])
    for seed in range(80):
        found = spread_optimum(fit_optimum(runs(tried(seed, noise=0.002))), draws=300, seed=seed)
        told, at, own = found.written(), found.at(LARGE), found.optimum.at(LARGE)
        held += [
            told["lr"]["params"].low <= -0.65 <= told["lr"]["params"].high,
            told["batch"]["tokens"].low <= 0.55 <= told["batch"]["tokens"].high,
            at["lr"].low <= best[0] <= at["lr"].high,
            lost({**{k: np.array([v]) for k, v in (LARGE | own).items()}})[0] <= found.penalty(LARGE).high,
        ]
    assert (held >= 70).all()


def test_the_same_seed_gives_the_same_intervals(noisy):
    assert spread_optimum(noisy, 50, seed=3).at(LARGE) == spread_optimum(noisy, 50, seed=3).at(LARGE)
    assert spread_optimum(noisy, 50, seed=3).at(LARGE) != spread_optimum(noisy, 50, seed=4).at(LARGE)


def test_every_cell_has_a_best_and_where_it_was_not_tried_there_is_none():
    """Here the largest models on the fewest tokens were given none but too high learning rates."""
    table, smallest = tried(noise=0.001), 1.2 * np.exp(MOVES[0] @ [1.0, np.log(1e9), np.log(2e9)])
    is_kept = (table["params"] < 9e8) | (table["tokens"] > 3e9) | (table["lr"] > smallest)
    found = best_of_cells(fit_optimum(runs({name: it[is_kept] for name, it in table.items()})))
    refused = [it for it in found if it.refused]
    assert [it.refused for it in refused] == ["lr is best below what was tried"]
    assert refused[0].inputs == pytest.approx({"params": 1e9, "tokens": 2e9})
    for it in found:
        best = np.exp(MOVES @ [1.0, np.log(it.inputs["params"]), np.log(it.inputs["tokens"])])
        assert it.values["lr"] == pytest.approx(best[0], rel=2.0 * (it.factors["lr"] - 1.0))
        assert it.values["batch"] == pytest.approx(best[1], rel=2.0 * (it.factors["batch"] - 1.0))


def test_how_far_beyond_the_runs_something_lies_is_told(noisy):
    assert noisy.runs.beyond({"params": 2e9, "tokens": 1e10}) == pytest.approx({"params": 2.0})
    assert noisy.runs.beyond({"params": 2e8, "tokens": 1e9}) == pytest.approx({"tokens": 2.0})
    assert noisy.runs.beyond({"params": 2e8, "tokens": 1e10}) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda it: {"loss": -it["loss"]}, "loss: .* is not positive"),
        (lambda it: {"lr": 0.0 * it["lr"]}, "lr: .* is not positive"),
        (lambda it: {"params": 0 * it["params"] + 1e8}, "params: is the same in all runs"),
        (lambda it: {"tokens": 20 * it["params"]}, "params and tokens: vary together"),
        (lambda it: {"lr": it["params"] ** -0.5}, "lr: does not vary among runs that are alike otherwise"),
        (lambda it: {"loss": 3.0 - 0.1 * lost(it)}, "has no value at which the loss is lowest"),
    ],
)
def test_runs_that_do_not_tell_are_refused(change, message):
    table = tried()
    with pytest.raises(SpecError, match=message):
        fit_optimum(runs(table | change(table)))


def test_a_law_depends_on_what_is_there():
    with pytest.raises(SpecError, match=r"depends\.batch: 'width' is no input. Name some of params, tokens"):
        fit_optimum(runs(tried()), {"batch": ("width",)})
    with pytest.raises(SpecError, match=r"depends\.batches: is not varied. Name some of lr, batch"):
        fit_optimum(runs(tried()), {"batches": ("tokens",)})
