"""Pictures of a run. Needs `pbt[plots]`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pbt.record.result import Result, load
from pbt.report import canvas
from pbt.report.lineage_plot import lineage_figure
from pbt.report.plots.cost import cost_figure
from pbt.report.plots.curves import curves_figure
from pbt.report.plots.density import density_figure
from pbt.report.plots.expected import expected_figure
from pbt.report.plots.exploits import exploits_figure
from pbt.report.plots.importance import importance_figure
from pbt.report.plots.parallel import parallel_figure
from pbt.report.plots.schedules import schedule_figure
from pbt.report.plots.scores import scores_figure
from pbt.report.plots.search import search_figure
from pbt.report.plots.subject import best_member, unit
from pbt.report.plots.timeline import timeline_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "FIRST",
    "cost_figure",
    "curves_figure",
    "density_figure",
    "expected_figure",
    "exploits_figure",
    "figures",
    "importance_figure",
    "lineage_figure",
    "parallel_figure",
    "schedule_figure",
    "scores_figure",
    "search_figure",
    "timeline_figure",
    "write_plots",
]

#: The pictures that every sweep ends with, however short; that of a search, if it is one.
FIRST = ("search", "lineage", "curves", "schedules")


def figures(result: Result, baseline: Result | None = None) -> Mapping[str, Callable[[], Figure]]:
    """What draws each picture of a run that has trained something, by name.

    Args:
        result: The run.
        baseline: A run to compare with; its best member is drawn among the learning curves.
    """
    is_search = "target_steps" in result.run.info
    search = {"search": lambda: search_figure(result), "expected": lambda: expected_figure(result)}
    return (search if is_search else {}) | {
        "lineage": lambda: _lineage(result),
        "curves": lambda: curves_figure(result, baseline),
        "schedules": lambda: schedule_figure(result),
        "scores": lambda: scores_figure(result),
        "density": lambda: density_figure(result),
        "parallel": lambda: parallel_figure(result),
        "importance": lambda: importance_figure(result),
        "timeline": lambda: timeline_figure(result),
        "cost": lambda: cost_figure(result),
        "exploits": lambda: exploits_figure(result),
    }


def _lineage(result: Result) -> Figure:
    info = result.run.info
    return lineage_figure(result.lineage, info["objective"], best=best_member(result), unit=unit(info))


def write_plots(
    run: Path | Result,
    folder: Path,
    baseline: Path | Result | None = None,
    names: Collection[str] | None = None,
) -> list[Path]:
    """Draw a run's pictures as PNG files: `lineage.png`, `curves.png` and so on, see `figures`.

    Args:
        run: The run, or its folder.
        folder: Where the files go; made if it is not there.
        baseline: A run to compare with; its best member is drawn among the learning curves.
        names: Which pictures; None draws all.

    Returns:
        The files; none if the run has not trained anything yet.

    Raises:
        PbtError: matplotlib is not installed.
        RunNotFound: There is no such run.
    """
    result, other = (load(one) if isinstance(one, Path) else one for one in (run, baseline))
    if result is None or not len(result.frame):
        return []
    chosen = {name: draw for name, draw in figures(result, other).items() if names is None or name in names}
    drawn = {folder / f"{name}.png": canvas.as_png(draw()) for name, draw in chosen.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for file, picture in drawn.items():
        file.write_bytes(picture)
    return list(drawn)
