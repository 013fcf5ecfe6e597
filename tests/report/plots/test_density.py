"""Where the population's hyperparameters were."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from pbt.record.result import Result
from pbt.report import canvas
from pbt.report.plots.density import density_figure
from tests.report.drawn import all_drawn, drawn, titles, words


def test_every_hyperparameter_has_a_panel_and_every_part_its_own(rich: Result) -> None:
    """A simplex of three parts is three panels."""
    expected = ["lr", "beta2", "layers", "warmup", "schedule", "final", "nesterov"]
    parts = [f"mixture/{part}" for part in ("code", "prose", "talk")]
    assert [*expected, *parts] == titles(density_figure(rich))


def test_a_column_of_a_density_adds_up_to_all_members(rich: Result) -> None:
    """At each age; where a hyperparameter is not active for some, to those for whom it is."""
    figure = density_figure(rich)
    lr = np.asarray(drawn(figure, "density").get_array().filled(0)).reshape(24, -1)
    assert 8 == lr.shape[1]
    assert_allclose(1.0, lr.sum(axis=0))
    final = np.asarray(drawn(figure, "density", panel=5).get_array().filled(0)).reshape(24, -1)
    frame = rich.frame
    active = np.array(["final" in frame.distinct[entry] for entry in frame.hparams])
    shares = [active[frame.generation == generation].mean() for generation in range(8)]
    assert_allclose(shares, final.sum(axis=0))
    assert f"not active in {100 * (1 - active.mean()):.0f}% of the segments" in words(figure)


def test_shares_of_options_are_stacked_to_the_top(small: Result) -> None:
    """Three of six members begin with `sgd`, three with `adamw`."""
    figure = density_figure(small)
    sgd, adamw = (drawn(figure, f"option {name}", panel=1) for name in ("sgd", "adamw"))
    assert 0.5 == pytest.approx(sgd.get_data().values[0])
    assert_allclose(sgd.get_data().values, adamw.get_data().baseline)
    assert_allclose(1.0, adamw.get_data().values)
    names = [text.get_text() for text in all_drawn(figure, "option name", panel=1)]
    assert ["sgd", "adamw"] == names


def test_the_winner_s_path_is_what_its_weights_saw(small: Result) -> None:
    """Age by age: 0.001, then twice 0.002, then 0.012."""
    heights = drawn(density_figure(small), "winner").get_ydata()
    assert_allclose([0.001, 0.002, 0.002, 0.012], np.unique(np.round(heights, 6))[[0, 1, 1, 2]])
    assert_allclose(0.012, heights[-1])


def test_axes_follow_the_domain(rich: Result) -> None:
    """Logarithmic where the domain is; whole numbers a row each."""
    figure = density_figure(rich)
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert ("log", "log") == (panels["lr"].get_yscale(), panels["warmup"].get_yscale())
    rows = len(drawn(figure, "density", panel=2).get_coordinates()) - 1
    assert 6 == rows


@pytest.mark.parametrize(
    ("places", "moved"),
    [
        ([0.1, 0.5], [0.1, 0.5]),
        ([0.5, 0.5], [0.5, 0.6]),
        ([0.98, 0.99], [0.9, 1.0]),
        ([0.9, 0.1, 0.12], [0.9, 0.1, 0.2]),
    ],
)
def test_labels_that_would_touch_are_moved_apart(places: list[float], moved: list[float]) -> None:
    """As little as needed, in their order, within the limits."""
    assert_allclose(moved, canvas.apart(places, 0.1, 0.0, 1.0))
