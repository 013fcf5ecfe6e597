"""The coordinate check: whether activations move alike at all sizes, as a table, a picture or JSON.

Where they do, hyperparameters tuned at one size hold at the others; see `trainables.core.coordinates`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from pbt.errors import PbtError
from pbt.report import canvas, text
from trainables import Place, Trainable, load
from trainables.core.coordinates import Coordinates, coordinates, final_changes, growth


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What is checked.

    Attributes:
        trainable: A registered name, or `module.path:Class`.
        options: Its options, the same at all sizes.
        varied: The option that sizes are of: `width` or `depth`.
        sizes: Its values.
        hparams: Hyperparameters that are not the trainable's defaults.
        steps: Steps trained.
        seeds: Number of seeds averaged over.
        tolerance: By which share a change may grow with each doubling of the size, or shrink by the same factor.
        place: Where to train.
    """

    trainable: str
    options: Mapping[str, Any]
    varied: str
    sizes: Sequence[int]
    hparams: Mapping[str, Any]
    steps: int
    seeds: int
    tolerance: float
    place: Place

    def at(self, size: int) -> Trainable:
        """The trainable at a size."""
        return load(self.trainable, {**self.options, self.varied: size})

    @property
    def better(self) -> str | None:
        """The parametrization made for this, if the trainable has another one."""
        made_for_it = ("completep",) if self.varied == "depth" else ("mup", "completep")
        own = getattr(self.at(self.sizes[0]), "parametrization", None)
        return None if own is None or own in made_for_it else made_for_it[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What was found.

    Attributes:
        setup: What was checked.
        found: By size and activation.
        changes: How far each activation moved, `(sizes,)`.
        growth: The factor by which that grows with each doubling of the size.
    """

    setup: Setup
    found: Mapping[int, Mapping[str, Coordinates]]
    changes: Mapping[str, np.ndarray]
    growth: Mapping[str, float]

    @property
    def outside(self) -> list[str]:
        """Activations that grow or shrink by more than the tolerance, the worst first."""
        outside = [name for name, factor in self.growth.items() if not self.is_within(factor)]
        return sorted(outside, key=lambda name: -_distance(self.growth[name]))

    @property
    def holds(self) -> bool:
        """Whether every activation moves alike at all sizes."""
        return not self.outside

    @property
    def verdict(self) -> str:
        """What was found, in a sentence or two."""
        varied, share = self.setup.varied, f"{self.setup.tolerance:.0%}"
        if self.holds:
            return (
                f"Holds: every activation moves about as far whatever the {varied}, within {share} for each doubling."
            )
        worst = self.outside[0]
        factor = self.growth[worst]
        if math.isnan(factor):
            return f"Cannot tell: {worst} does not move at all, or without bound. Check the learning rate."
        beyond = f"{len(self.outside)} of {text.count(len(self.growth), 'activation')}"
        return (
            f"Does not hold: with each doubling of the {varied}, {worst} moves {text.number(factor, 3)} times as far "
            f"({beyond} beyond {share}). Do not expect hyperparameters tuned at one {varied} to be right at another."
        )

    def is_within(self, factor: float) -> bool:
        """Whether a factor of growth is within the tolerance, upwards or downwards."""
        return _distance(factor) <= math.log1p(self.setup.tolerance)


def _distance(factor: float) -> float:
    """How far a factor is from 1, up or down; farthest if it is no number."""
    return math.inf if math.isnan(factor) else abs(math.log(factor))


def check(setup: Setup, console: Console | None = None) -> Check:
    """Train at all sizes and compare.

    Args:
        setup: What to check.
        console: Where progress is shown; None shows it on standard error.

    Raises:
        PbtError: There is nothing to compare.
        TrainableError: The trainable cannot be built at a size, or has no activations to watch.
    """
    sizes = list(setup.sizes)
    if len(set(sizes)) < 2 or len(set(sizes)) < len(sizes):
        raise PbtError(f"--{setup.varied}s is {','.join(map(str, sizes))}. Give at least two, each once.")
    trainables = {size: setup.at(size) for size in sizes}  # whatever is refused is refused before anything trains
    found: dict[int, Mapping[str, Coordinates]] = {}
    console = console or Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=sum(size**2 for size in sizes))
        for size, trainable in trainables.items():
            progress.update(task, description=f"Training at {setup.varied} {size}")
            found |= coordinates(
                {size: trainable}, setup.hparams, steps=setup.steps, seeds=range(setup.seeds), place=setup.place
            )
            progress.advance(task, size**2)  # roughly the time it takes
    changes = final_changes(found)
    factors = {name: growth(sizes, change) for name, change in changes.items()}
    return Check(setup=setup, found=found, changes=changes, growth=factors)


def show(found: Check, console: Console | None = None) -> None:
    """Print the table and the verdict."""
    console = console or Console()
    console.print(_table(found))
    console.print(Text(found.verdict, style="green" if found.holds else "yellow"))
    if not found.holds and found.setup.better:
        console.print(f"`--parametrization {found.setup.better}` is made for that.")


def _table(found: Check) -> Table:
    title = f"How far activations move in {text.count(found.setup.steps, 'step')}, by {found.setup.varied}"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    table.add_column("activation")
    for size in found.setup.sizes:
        table.add_column(f"{size:,}", justify="right")
    table.add_column("each doubling", justify="right")
    for name, changes in found.changes.items():
        factor = found.growth[name]
        style = "" if found.is_within(factor) else "yellow"
        cells = (text.number(float(change), 3) for change in changes)
        table.add_row(Text(name), *cells, Text(f"x {factor:.2f}", style=style))
    return table


def as_json(found: Check) -> str:
    """The same facts as JSON, with sizes and changes after every step."""
    setup = found.setup
    facts = {
        "trainable": setup.trainable,
        "options": dict(setup.options),
        "hparams": dict(setup.hparams),
        "varied": setup.varied,
        "sizes": list(setup.sizes),
        "steps": setup.steps,
        "seeds": setup.seeds,
        "tolerance": setup.tolerance,
        "holds": found.holds,
        "verdict": found.verdict,
        "activations": {
            name: {"growth": _number(factor), "change": [_number(value) for value in found.changes[name]]}
            for name, factor in found.growth.items()
        },
        "by_size": {
            size: {
                name: {"size": [_number(x) for x in layer.size], "change": [_number(x) for x in layer.change]}
                for name, layer in layers.items()
            }
            for size, layers in found.found.items()
        },
    }
    return json.dumps(facts, indent=2, default=str)


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return float(value) if math.isfinite(value) else None


def check_plot(path: Path) -> None:
    """Refuse a picture that could not be drawn, before anything trains.

    Raises:
        PbtError: matplotlib is not installed, the folder is not there, or the file's ending is not known.
    """
    known = canvas.new_figure(1.0, 1.0).canvas.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in known:
        raise PbtError(f"--plot is {str(path)!r}. Give a file that ends in .png, .svg or .pdf.")
    if not path.absolute().parent.is_dir():
        raise PbtError(f"--plot is {str(path)!r}, but there is no folder {str(path.parent)!r}. Make it first.")


def plot(found: Check, path: Path) -> None:
    """Draw the change of each activation over size, both logarithmic: what holds is level."""
    figure = canvas.new_figure(8.0, 5.0)
    axes = figure.subplots()
    setup = found.setup
    title = f"Change of activations after {text.count(setup.steps, 'step')}: level is right"
    canvas.dress(axes, title, setup.varied, "mean absolute change")
    for name, changes in found.changes.items():
        axes.plot(setup.sizes, changes, marker="o", markersize=4, linewidth=1.4, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(setup.sizes), [f"{size:,}" for size in setup.sizes])
    axes.set_yscale("log")
    canvas.plain_log_ticks(axes)
    canvas.legend_below(figure, axes.get_legend_handles_labels()[0])
    figure.savefig(path, dpi=canvas.DPI)
