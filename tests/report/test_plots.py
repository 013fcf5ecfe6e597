"""What is drawn where, and that it can be read."""

from __future__ import annotations

import io
import math
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread
from numpy.testing import assert_allclose

from pbt.errors import PbtError
from pbt.member import SegmentKey
from pbt.record.result import Result, load
from pbt.report import canvas
from pbt.report.lineage_plot import assign_lanes
from pbt.report.plots import FIRST, curves_figure, lineage_figure, schedule_figure, write_plots
from tests import ledgers
from tests.report.drawn import drawn, illegible, points, strokes, words


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The scripted sweep."""
    return load(ledgers.tell(tmp_path_factory.mktemp("small") / "made-up-1"))


@pytest.fixture(scope="module", params=[(4, 5), (16, 8), (64, 12)], ids=lambda size: f"{size[0]} members")
def simulated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Sweeps of the sizes that pictures must bear; one member diverges and one fails."""
    members, generations = request.param
    run = tmp_path_factory.mktemp("simulated") / "run"
    return load(ledgers.simulate(run, members=members, generations=generations))


def _lineage(result: Result) -> Figure:
    return lineage_figure(result.lineage, result.run.info["objective"], best=result.winner, unit="bits/byte")


# --------------------------------------------------------------------------------------------------------- lineage


def test_every_segment_is_a_bar_in_its_member_s_row(small: Result) -> None:
    bars = drawn(_lineage(small), "segments")
    rows = [int(bar[0][1]) for bar in bars.get_segments()]
    # Twenty scores are numbers; member 4 has one that is not, member 3 one before it failed.
    assert {row: rows.count(row) for row in range(6)} == {0: 4, 1: 4, 2: 4, 3: 1, 4: 3, 5: 4}
    assert sorted(bars.get_array().tolist())[:2] == [1.3, 1.4]


def test_good_scores_are_dark(small: Result) -> None:
    bars = drawn(_lineage(small), "segments")
    lightness = [sum(bars.to_rgba(score)[:3]) for score in (1.3, 1.6, 2.0, 2.5)]
    assert lightness == sorted(lightness)


def test_where_large_is_good_large_is_dark(small: Result) -> None:
    objective = {"metric": "accuracy", "mode": "max", "split": "validation"}
    bars = drawn(lineage_figure(small.lineage, objective), "segments")
    assert sum(bars.to_rgba(2.5)[:3]) < sum(bars.to_rgba(1.3)[:3])


def test_the_winner_s_ancestry_is_traced_from_root_to_leaf(small: Result) -> None:
    figure = _lineage(small)
    halo = drawn(figure, "ancestry")
    assert [int(bar[0][1]) for bar in halo.get_segments()] == [0, 5, 5, 1]
    assert to_hex(halo.get_color()[0]) == canvas.WINNER
    labels = {label.get_text(): label.get_color() for label in figure.axes[0].get_yticklabels()}
    assert [member for member, colour in labels.items() if colour == canvas.WINNER] == ["1"]


def test_an_exploit_is_a_line_from_the_donor_s_end_to_the_receiver_s_start(small: Result) -> None:
    figure = _lineage(small)
    (line,) = drawn(figure, "exploits").get_segments()  # the two others belong to the winner's ancestry
    assert (line[0].tolist(), line[-1].tolist()) == ([100, 1], [124, 4])
    proud = [(link[0][1], link[-1][1]) for link in drawn(figure, "ancestry links").get_segments()]
    assert proud == [(0, 5), (5, 5), (5, 1)]


def test_failures_and_divergence_are_marked_where_they_happened(small: Result) -> None:
    figure = _lineage(small)
    assert points(figure, "failed") == [(140, 3)]
    assert points(figure, "diverged") == [(100, 4)]


def test_the_colour_bar_names_metric_unit_and_direction(small: Result) -> None:
    assert _lineage(small).axes[1].get_ylabel() == "validation bits_per_byte [bits/byte]\nlower is better"


def test_a_sweep_under_way_can_bedrawn(tmp_path: Path) -> None:
    result = load(ledgers.tell(tmp_path / "run", commits=5))
    figure = _lineage(result)
    assert len(drawn(figure, "no score").get_segments()) == 5 + 1 + 1  # under way, failed, diverged
    assert "under way" in [entry.get_text() for entry in figure.legends[0].get_texts()]


def test_of_many_members_the_best_and_the_winner_s_ancestors_are_drawn(tmp_path: Path) -> None:
    result = load(ledgers.simulate(tmp_path / "run", members=80, generations=4))
    figure = _lineage(result)
    shown = {int(label.get_text()) for label in figure.axes[0].get_yticklabels()}
    path = result.lineage.path(result.lineage.last(result.best.member).key)
    assert 64 == len(shown)
    assert {segment.key.member for segment in path} <= shown
    assert 78 not in shown, "it failed"
    assert "64 of 80 members" in figure.axes[0].get_title(loc="left")
    assert len(path) == len(drawn(figure, "ancestry").get_segments())


@pytest.mark.parametrize(
    ("spans", "lanes"),
    [
        ({"a": (0, 2), "b": (3, 5)}, {"a": 0, "b": 0}),
        ({"a": (0, 5), "b": (1, 2)}, {"a": 1, "b": 0}),
        ({"a": (0, 3), "b": (3, 6)}, {"a": 0, "b": 1}),
        ({"a": (0, 9), "b": (1, 4), "c": (3, 6), "d": (7, 8)}, {"a": 2, "b": 0, "c": 1, "d": 0}),
    ],
)
def test_lines_that_would_run_over_each_other_get_their_own_lanes(spans: Any, lanes: Any) -> None:
    keys = {name: SegmentKey(ord(name), 0) for name in spans}
    found = assign_lanes({keys[name]: span for name, span in spans.items()})
    assert {name: found[keys[name]] for name in spans} == lanes


# ---------------------------------------------------------------------------------------------------------- curves


def test_the_winner_s_curve_follows_its_ancestry(small: Result) -> None:
    """Member 1 won with weights of members 0 and 5: the curve is theirs, not its own."""
    assert points(curves_figure(small), "winner") == [(100, 2.0), (200, 1.6), (300, 1.5), (400, 1.3)]


def test_a_member_goes_on_from_the_donor_s_score(small: Result) -> None:
    figure = curves_figure(small)
    lines = strokes(figure, "members")
    assert [(100, 2.1), (200, 1.95), (300, 1.9)] in lines
    assert [(300, 1.5), (400, 1.3)] in lines
    assert sorted(points(figure, "exploits")) == [(100, 2.0), (100, 2.1), (300, 1.5)]
    jumps = [jump for jump in strokes(figure, "jumps") if len(jump) == 2]  # member 4 had diverged
    assert jumps == [[(300, 1.9), (300, 1.5)], [(100, 2.5), (100, 2.0)]]


def test_divergence_is_marked_at_the_edge(small: Result) -> None:
    assert points(curves_figure(small), "diverged") == [(100, 0.98)]


def test_the_later_half_is_shown_closer(small: Result) -> None:
    whole, closer = curves_figure(small).axes
    assert_allclose(closer.get_xlim(), (196, 404))
    assert closer.get_ylim()[1] < 2.2 < whole.get_ylim()[1]


def test_a_baseline_s_best_member_is_drawn_beside(small: Result, tmp_path: Path) -> None:
    other = load(ledgers.simulate(tmp_path / "other", members=4, generations=4, diverges=False))
    figure = curves_figure(small, other)
    line = points(figure, "baseline")
    assert [x for x, _ in line] == [100, 200, 300, 400]
    assert line[-1][1] == other.best.score
    entry = f"best of other, member {other.best.member}: {other.best.score:.4f}"
    assert entry in [text.get_text() for text in figure.legends[0].get_texts()]


def test_one_that_ran_away_does_not_squeeze_the_others(simulated: Result) -> None:
    """One member scores some forty times what the others do."""
    figure = curves_figure(simulated)
    scores = [row["value"] for row in simulated.rows["metrics"] if row["split"] == "validation"]
    assert max(score for score in scores if math.isfinite(score)) > 40
    assert 2.0 < figure.axes[0].get_ylim()[1] < 4.0
    assert any("beyond the edge" in note.get_text() for note in figure.axes[0].texts)


@pytest.mark.parametrize(
    ("values", "usual"),
    [
        ([1.0, 1.1, 1.2, 40.0], [1.0, 1.1, 1.2]),
        ([1.0, math.nan, 1.1, math.inf], [1.0, 1.1]),
        ([2.0, 2.0, 2.0, 2.1], [2.0, 2.0, 2.0, 2.1]),
        ([], []),
    ],
)
def test_what_is_usual(values: list[float], usual: list[float]) -> None:
    assert canvas.usual(values).tolist() == usual


# ------------------------------------------------------------------------------------------------------- schedules


def test_every_varied_hyperparameter_has_a_panel_on_its_own_scale(small: Result) -> None:
    figure = schedule_figure(small)
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_title(loc="left")}
    assert list(panels) == ["lr", "optimizer", "nesterov", "mix/books (the rest is web)"]
    assert panels["lr"].get_yscale() == "log"
    assert_allclose(panels["lr"].get_ylim(), (1e-4, 1e-1), rtol=0.5)
    assert [label.get_text() for label in panels["optimizer"].get_yticklabels()] == ["sgd", "adamw"]
    assert [label.get_text() for label in panels["nesterov"].get_yticklabels()] == ["no", "yes"]
    assert_allclose(panels["mix/books (the rest is web)"].get_ylim(), (-0.04, 1.04))


def test_the_winner_s_schedule_is_what_its_weights_saw(small: Result) -> None:
    figure = schedule_figure(small)
    assert points(figure, "winner") == [
        *[(0, 0.001), (100, 0.001)],
        *[(100, 0.002), (200, 0.002), (200, 0.002), (300, 0.002)],
        *[(300, 0.012), (400, 0.012)],
    ]
    assert [y for _, y in points(figure, "winner", panel=1)] == [0, 0, 1, 1, 1, 1, 0, 0]  # sgd, adamw, sgd


def test_members_of_one_option_lie_beside_each_other(small: Result) -> None:
    lines = strokes(schedule_figure(small), "members", panel=1)
    heights = {line[0][1] for line in lines if line[0][0] == 0}
    assert len(heights) == 6
    assert all(abs(height - round(height)) < 0.25 for height in heights)


def test_a_decay_rate_has_an_axis_of_nines(tmp_path: Path) -> None:
    run = ledgers.tell(tmp_path / "run")
    result = load(run)
    domain = {"type": "float", "low": 0.9, "high": 0.9999, "log_complement": True}
    result.run.info["hparams"].clear()  # type: ignore[attr-defined]
    result.run.info["hparams"]["momentum"] = domain
    figure = schedule_figure(result)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert {"0.9", "0.99", "0.999"} <= set(shown)
    places = [axes.transData.transform((0, value))[1] for value in (0.9, 0.99, 0.999)]
    assert_allclose(places[1] - places[0], places[2] - places[1], rtol=1e-6)


# ----------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("draw", [_lineage, curves_figure, schedule_figure], ids=["lineage", "curves", "schedules"])
def test_no_words_lie_over_others(simulated: Result, draw: Any) -> None:
    figure = draw(simulated)
    assert illegible(figure) == []
    assert len(words(figure)) > 10


def test_the_pictures_asked_for_are_written(small: Result, tmp_path: Path) -> None:
    files = write_plots(small.path, tmp_path / "deep" / "plots", small.path, FIRST)
    assert [file.name for file in files] == ["lineage.png", "curves.png", "schedules.png"]
    width, _ = _png_size(tmp_path / "deep" / "plots" / "curves.png")
    assert width == round(11.5 * 150)


def _png_size(file: Path) -> tuple[int, int]:
    data = file.read_bytes()
    assert data.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def test_a_picture_is_what_savefig_would_write(small: Result) -> None:
    """To the pixel, with its words where the layout puts them."""
    file = io.BytesIO()
    schedule_figure(small).savefig(file, dpi=110, format="png")
    assert_allclose(imread(io.BytesIO(canvas.as_png(schedule_figure(small), 110))), imread(io.BytesIO(file.getvalue())))


def test_a_run_that_has_not_begun_has_no_pictures(tmp_path: Path) -> None:
    from pbt.record.ledger import Ledger

    run = ledgers.run_json(tmp_path / "bare", members=2, generations=2, steps=2)
    Ledger(run).close(finished=False)
    assert write_plots(run, tmp_path / "plots") == []


def test_without_matplotlib_the_way_to_get_it_is_named(small: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(PbtError, match=r"pip install 'pbt\[plots\]'"):
        schedule_figure(small)


@pytest.mark.full
def test_matplotlib_is_loaded_only_to_draw_and_pyplot_never(small: Result, tmp_path: Path) -> None:
    """pyplot picks a window system and keeps figures: global state that a library has no business with."""
    program = (
        "import sys, pathlib; from pbt.report.plots import write_plots; assert 'matplotlib' not in sys.modules; "
        f"write_plots(pathlib.Path({str(small.path)!r}), pathlib.Path({str(tmp_path)!r})); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
