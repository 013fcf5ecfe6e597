"""Which configuration is tried next, given what others reached."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbt.search.curve_search import Run, observed, propose
from searchspaces import Choice, Float, Int, Simplex, Space

SQUARE = Space({"x": Float(0.0, 1.0), "y": Float(0.0, 1.0)})
MIXED = Space(
    {
        "optimizer": Choice(["sgd", "adam", "lion"]),
        "lr": Float(1e-5, 1.0, log=True),
        "momentum": Float(0.0, 0.99, when={"optimizer": "sgd"}),
        "layers": Int(1, 8),
        "mixture": Simplex(["web", "code", "books"]),
    }
)


def bowl(hparams):
    return (hparams["x"] - 0.7) ** 2 + (hparams["y"] - 0.2) ** 2


def run(hparams, loss, length=8, **options):
    """One that falls to a loss at 8 steps."""
    return Run(hparams, [(step, loss + 1.0 / step - 1 / 8) for step in range(1, length + 1)], **options)


def drawn(space, number, loss, seed=0, **options):
    rng = np.random.default_rng(seed)
    return [run(hparams, loss(hparams), **options) for hparams in (space.sample(rng) for _ in range(number))]


class TestPropose:
    def test_draws_until_there_are_enough_runs(self):
        few = drawn(SQUARE, 9, bowl)
        assert propose(SQUARE, few, 5) == SQUARE.sample(np.random.default_rng(5))
        waiting = [Run({"x": 0.5, "y": 0.5}, [], is_under_way=True)] * 20
        assert propose(SQUARE, few + waiting, 5) == SQUARE.sample(np.random.default_rng(5))

    def test_goes_where_the_best_is(self):
        """Ten drawn, and fifteen more, most of which are near it."""
        runs = drawn(SQUARE, 10, bowl)
        for number in range(15):
            chosen = propose(SQUARE, runs, number)
            runs.append(run(chosen, bowl(chosen)))
        assert min(bowl(it.hparams) for it in runs[10:]) < 1e-3 < min(bowl(it.hparams) for it in runs[:10])
        assert np.median([bowl(it.hparams) for it in runs[15:]]) < 0.05

    def test_learns_from_runs_that_were_stopped(self):
        """None but the first has been trained to the end, and it says nothing."""
        stopped = drawn(SQUARE, 25, bowl, length=2)
        runs = [run({"x": 0.0, "y": 1.0}, bowl({"x": 0.0, "y": 1.0})), *stopped]
        assert bowl(propose(SQUARE, runs, 0)) < 0.02

    def test_is_a_function_of_what_it_is_told(self):
        runs = drawn(SQUARE, 12, bowl)
        chosen = propose(SQUARE, runs, 3)
        np.random.default_rng(0).random()
        assert propose(SQUARE, list(runs), 3) == chosen

    def test_knows_who_is_on_the_way(self):
        """Eight workers ask one after another, with one seed; they differ, those the most who know least."""
        runs = drawn(SQUARE, 20, bowl)
        for _ in range(8):
            runs.append(Run(propose(SQUARE, runs, 0), [], is_under_way=True))
        places = np.array([[it.hparams["x"], it.hparams["y"]] for it in runs[20:]])
        apart = np.linalg.norm(places[:, None] - places[None], axis=-1)[np.triu_indices(8, 1)]
        assert apart.min() > 0
        assert np.linalg.norm(places[0] - places[1]) > 0.01

    def test_keeps_away_from_where_runs_diverge(self):
        def diverges(hparams):
            return math.nan if hparams["x"] > 0.5 else bowl(hparams)

        runs = [
            Run(it.hparams, [(1, math.nan)] if it.hparams["x"] > 0.5 else it.curve)
            for it in drawn(SQUARE, 30, lambda hparams: hparams["y"])
        ]
        chosen = [propose(SQUARE, runs, seed) for seed in range(5)]
        assert sum(math.isnan(diverges(it)) for it in chosen) <= 1

    @pytest.mark.parametrize("value", [math.nan, math.inf, 1.0])
    def test_works_where_all_are_alike(self, value):
        runs = [Run(SQUARE.sample(np.random.default_rng(it)), [(1, value)]) for it in range(12)]
        assert SQUARE.contains(propose(SQUARE, runs, 0))

    @settings(max_examples=10)
    @given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.booleans())
    def test_stays_in_the_space(self, seed, number, is_under_way):
        runs = drawn(MIXED, number, lambda it: it["layers"] - math.log(it["lr"]), seed, is_under_way=is_under_way)
        assert MIXED.contains(propose(MIXED, runs, seed, startup=1))

    @pytest.mark.full
    def test_finds_the_best_category_and_number(self):
        def loss(hparams):
            return (
                (hparams["optimizer"] != "adam") + (math.log10(hparams["lr"]) + 3) ** 2 / 4 + abs(hparams["layers"] - 5)
            )

        runs = drawn(MIXED, 15, loss)
        for number in range(20):
            chosen = propose(MIXED, runs, number)
            runs.append(run(chosen, loss(chosen)))
        best = min(runs, key=lambda it: loss(it.hparams)).hparams
        assert (best["optimizer"], best["layers"]) == ("adam", 5)
        assert 3e-4 < best["lr"] < 3e-3

    def test_a_space_of_one_point_has_one(self):
        only = Space({"kind": Choice(["a"])})
        assert propose(only, [Run({"kind": "a"}, [(1, 1.0)])] * 20, 0) == {"kind": "a"}


class TestObserved:
    def test_counts_decades_from_the_target(self):
        runs = [Run({"x": 0.1, "y": 0.2}, [(10, 3.0), (100, 2.0), (1000, 1.0)])]
        values = observed(SQUARE, runs)
        assert sorted(values.depth) == pytest.approx([0, 1, 2])
        assert sorted(observed(SQUARE, runs, target=10_000).depth) == pytest.approx([1, 2, 3])
        np.testing.assert_allclose(values.cube, [[0.1, 0.2]] * 3)

    def test_keeps_of_a_long_curve_its_end_and_what_is_twice_as_far_from_it_each_time(self):
        curve = [(step, 100.0 - step) for step in range(1, 101)]
        values = observed(SQUARE, [Run({"x": 0.1, "y": 0.2}, curve)])
        assert sorted(100 / 10**values.depth) == pytest.approx([1, 3, 6, 12, 25, 50, 100])

    def test_who_diverged_has_done_so_at_the_target(self):
        diverged = Run({"x": 0.1, "y": 0.2}, [(1, 5.0), (2, math.nan), (4, math.inf)])
        recovered = Run({"x": 0.3, "y": 0.2}, [(1, math.nan), (2, 4.0), (8, 3.0)])
        values = observed(SQUARE, [diverged, recovered])
        assert list(values.run) == [0, 1, 1]
        np.testing.assert_allclose(values.depth, [0.0, 0.0, math.log10(4)])
        assert not math.isfinite(values.badness[0])
        assert list(values.badness[1:]) == [3.0, 4.0]

    @given(st.lists(st.integers(1, 60), min_size=1, max_size=700))
    @settings(max_examples=20)
    def test_is_never_more_than_a_fit_can_bear(self, lengths):
        """Whoever is left out, each that is there is there to its end, and the best is."""
        rng = np.random.default_rng(0)
        runs = [
            Run({"x": 0.5, "y": 0.5}, [(it, float(bad)) for it, bad in enumerate(rng.random(number), 1)])
            for number in lengths
        ]
        values = observed(SQUARE, runs)
        assert len(values) <= 240
        ends = [it.curve[-1][1] for it in runs]
        assert min(ends) in values.badness
        assert len(values) >= min(len(runs), 240)
        for number in set(values.run):
            assert ends[number] in values.badness[values.run == number]
