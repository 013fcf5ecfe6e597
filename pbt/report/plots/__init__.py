"""Pictures of a run. Needs `pbt[plots]`."""

from __future__ import annotations

from pathlib import Path

from pbt.record.result import load
from pbt.report import canvas
from pbt.report.lineage_plot import lineage_figure
from pbt.report.plots.curves import curves_figure
from pbt.report.plots.schedules import schedule_figure
from pbt.report.plots.subject import best_member, unit

__all__ = ["curves_figure", "lineage_figure", "schedule_figure", "write_plots"]


def write_plots(run: Path, folder: Path, baseline_run: Path | None = None) -> list[Path]:
    """Draw a run's pictures as PNG files: `lineage.png`, `curves.png`, `schedules.png`.

    Args:
        run: The run's folder.
        folder: Where the files go; made if it is not there.
        baseline_run: A run to compare with; its best member is drawn among the learning curves.

    Returns:
        The files; none if the run has not trained anything yet.

    Raises:
        PbtError: matplotlib is not installed.
        RunNotFound: There is no such run.
    """
    result = load(run)
    if not result.lineage.segments:
        return []
    info = result.run.info
    figures = {
        "lineage": lineage_figure(result.lineage, info["objective"], best=best_member(result), unit=unit(info)),
        "curves": curves_figure(result, load(baseline_run) if baseline_run else None),
        "schedules": schedule_figure(result),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=canvas.DPI)
    return [folder / f"{name}.png" for name in figures]
