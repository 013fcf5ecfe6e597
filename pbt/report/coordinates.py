"""The coordinate check: whether activations move alike at all sizes, as a table, a picture or JSON.

Where they do, hyperparameters tuned at one size hold at the others; see `trainables.core.coordinates`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
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
from trainables.core.coordinates import Coordinates, coordinates, drifts


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What is checked.

    Attributes:
        trainable: A registered name, or `module.path:Class`.
        options: Its options, the same at all sizes.
        varied: The option that sizes are of: `width` or `depth`.
        sizes: Its values, the first of which the others are compared with.
        hparams: Hyperparameters that are not the trainable's defaults.
        steps: Steps trained.
        seeds: Number of seeds averaged over.
        tolerance: By which share of the first size's change another's may differ.
        device: Where to train.
    """

    trainable: str
    options: Mapping[str, Any]
    varied: str
    sizes: Sequence[int]
    hparams: Mapping[str, Any]
    steps: int
    seeds: int
    tolerance: float
    device: str = "cpu"

    def at(self, size: int) -> Trainable:
        """The trainable at a size."""
        return load(self.trainable, {**self.options, self.varied: size})

    @property
    def is_standard(self) -> bool:
        """Whether the trainable could have another parametrization, and has not."""
        return getattr(self.at(self.sizes[0]), "parametrization", None) == "standard"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What was found.

    Attributes:
        setup: What was checked.
        found: By size and activation.
        drifts: By activation, how many times as far it moved at each size as at the first, `(sizes,)`.
    """

    setup: Setup
    found: Mapping[int, Mapping[str, Coordinates]]
    drifts: Mapping[str, np.ndarray]

    @property
    def outside(self) -> dict[str, tuple[int, float]]:
        """Activations outside the tolerance, the worst first: at which size, and its drift there."""
        worst = {name: max(zip(self.setup.sizes, d, strict=True), key=_distance) for name, d in self.drifts.items()}
        outside = [(name, at) for name, at in worst.items() if not self.is_within(at[1])]
        return {name: (at[0], float(at[1])) for name, at in sorted(outside, key=lambda one: -_distance(one[1]))}

    @property
    def holds(self) -> bool:
        """Whether every activation moves alike at all sizes."""
        return not self.outside

    @property
    def verdict(self) -> str:
        """What was found, in a sentence or two."""
        setup, outside = self.setup, self.outside
        first, last = setup.sizes[0], setup.sizes[-1]
        if not outside:
            return (
                f"Holds: after {text.count(setup.steps, 'step')}, every activation moves as far at {setup.varied} "
                f"{last} as at {first}, to within {setup.tolerance:.0%}."
            )
        name, (size, drift) = next(iter(outside.items()))
        if not math.isfinite(drift):
            return (
                f"Does not hold: {name} moves not at all, or without bound, at {setup.varied} {first} or {size}. "
                "Check the learning rate."
            )
        others = f"; {len(outside)} of {len(self.drifts)} activations differ" if len(self.drifts) > 1 else ""
        return (
            f"Does not hold: {name} moves {text.number(drift, 3)} times as far at {setup.varied} {size} as at {first}"
            f"{others} by more than {setup.tolerance:.0%}. Do not expect hyperparameters tuned at one {setup.varied} "
            "to be right at another."
        )

    def is_within(self, drift: float) -> bool:
        """Whether a drift is within the tolerance, upwards or downwards by the same factor."""
        return _distance((0, drift)) <= math.log1p(self.setup.tolerance)


def _distance(at: tuple[int, float]) -> float:
    """How far a drift is from 1, as a factor up or down; 0 and what is not finite are farthest."""
    drift = float(at[1])
    return abs(math.log(drift)) if math.isfinite(drift) and drift > 0 else math.inf


def check(setup: Setup, done: Callable[[int], None] = lambda size: None) -> Check:
    """Train at all sizes and compare.

    Args:
        setup: What to check.
        done: Called after each size.

    Raises:
        PbtError: There is nothing to compare.
        TrainableError: The trainable cannot be built at a size, or has no activations to watch.
    """
    sizes = list(setup.sizes)
    if len(set(sizes)) < 2 or len(set(sizes)) < len(sizes):
        raise PbtError(f"--{setup.varied}s is {_listed(sizes)}. Give at least two, each once.")
    trainables = {size: setup.at(size) for size in sizes}  # whatever is refused is refused before anything trains
    place = Place(device=setup.device, compile="never")
    found: dict[int, Mapping[str, Coordinates]] = {}
    for size, trainable in trainables.items():
        found |= coordinates(
            {size: trainable}, setup.hparams, steps=setup.steps, seeds=tuple(range(setup.seeds)), place=place
        )
        done(size)
    return Check(setup=setup, found=found, drifts=drifts(found))


def check_visibly(setup: Setup) -> Check:
    """`check`, with a progress bar on standard error."""
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(
            f"Training at {setup.varied}s {_listed(setup.sizes)}", total=sum(map(_work, setup.sizes))
        )
        return check(setup, lambda size: progress.advance(task, _work(size)))


def _work(size: int) -> int:
    """Roughly how long a size takes against others."""
    return size**2


def show(found: Check, console: Console | None = None) -> None:
    """Print the table and the verdict."""
    console = console or Console()
    console.print(_table(found))
    console.print(Text(found.verdict, style="green" if found.holds else "yellow"))
    if not found.holds and found.setup.is_standard:
        console.print(
            f"`--parametrization {'completep' if found.setup.varied == 'depth' else 'mup'}` is made for that."
        )


def _listed(sizes: Sequence[int]) -> str:
    return ",".join(map(str, sizes))


def _table(found: Check) -> Table:
    first, *others = found.setup.sizes
    title = f"How far activations move in {text.count(found.setup.steps, 'step')}, by {found.setup.varied}"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    table.add_column("activation")
    table.add_column(str(first), justify="right")
    for size in others:
        table.add_column(str(size), justify="right")
    for name, drift in found.drifts.items():
        cells = [Text(f"x {text.number(d, 3)}", style="" if found.is_within(d) else "yellow") for d in drift[1:]]
        table.add_row(name, text.number(float(found.found[first][name].change[-1]), 3), *cells)
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
            name: {
                "drift": [_number(value) for value in drift],
                "change": [[_number(value) for value in found.found[size][name].change] for size in setup.sizes],
                "size": [[_number(value) for value in found.found[size][name].size] for size in setup.sizes],
            }
            for name, drift in found.drifts.items()
        },
    }
    return json.dumps(facts, indent=2)


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return float(value) if math.isfinite(value) else None


def plot(found: Check, path: Path) -> None:
    """Draw the change of each activation over size, both logarithmic: what holds is level.

    Raises:
        PbtError: matplotlib is not installed, or the file cannot be written.
    """
    figure = canvas.new_figure(8.0, 5.0)
    axes = figure.subplots()
    setup = found.setup
    title = f"Change of activations after {text.count(setup.steps, 'step')}: level is right"
    canvas.dress(axes, title, setup.varied, "mean absolute change")
    for name in found.drifts:
        changes = [float(found.found[size][name].change[-1]) for size in setup.sizes]
        axes.plot(setup.sizes, changes, marker="o", markersize=4, linewidth=1.4, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(setup.sizes), [str(size) for size in setup.sizes])
    axes.set_yscale("log")
    canvas.legend_below(figure, axes.get_legend_handles_labels()[0])
    try:
        figure.savefig(path, dpi=canvas.DPI)
    except (OSError, ValueError) as error:
        raise PbtError(f"--plot: {path} cannot be written ({error}). Give a file that ends in .png.") from error
