"""The demonstration: population-based training of small language models against the same population left alone."""

from __future__ import annotations

import time
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from pbt.record.result import Result
from pbt.record.runs import prepare_storage
from pbt.report.show import show
from pbt.runtime.cluster import cluster
from pbt.spec import Budget, Component, Hosts, Objective, SweepSpec, Tracking
from pbt.sweep import Sweep


def demo_spec(strategy: str, folder: Path, data: Path | None = None, seed: int = 0) -> SweepSpec:
    """The demo's sweep with a strategy: `pbt`, or `fixed` for the baseline."""
    return SweepSpec(
        name=f"demo-{strategy}",
        trainable=Component(name="language", options={"data": str(data)} if data else {}),
        space=_SPACE,
        strategy=Component(name=strategy),
        objective=Objective(metric="bits_per_byte"),
        budget=Budget(members=16, generations=8, steps=40),
        hosts=Hosts(stacks=2),
        seed=seed,
        storage=str(folder),
        tracking=Tracking(uri=f"sqlite:///{folder.absolute() / 'mlflow.db'}"),
    )


#: Learning rates span two decades around the best that are known for it, about 0.005.
_SPACE = {
    "lr": {"type": "float", "low": 5e-4, "high": 5e-2, "log": True},
    "weight_decay": {"type": "float", "low": 1e-3, "high": 1.0, "log": True},
    "dropout": {"type": "float", "low": 0.0, "high": 0.3},
}


def run_demo(folder: Path, data: Path | None, seed: int) -> None:
    """Run both sweeps on one Ray, and compare their winners.

    Args:
        folder: Everything is written below it.
        data: The user's own text, or None.
        seed: Source of all randomness; both sweeps begin with the same 16 members.
    """
    console = Console()
    began = time.monotonic()
    prepare_storage(folder, option="--folder")
    sweeps = {name: Sweep.from_spec(demo_spec(name, folder, data, seed)) for name in ("fixed", "pbt")}
    with cluster(None):
        console.print("1 of 2: 16 members, each keeping its hyperparameters", style="bold")
        fixed = sweeps["fixed"].run()
        console.print("2 of 2: the same 16 members under population-based training", style="bold")
        evolved = sweeps["pbt"].run(baseline=fixed)
    show(evolved, console, brief=True)
    compare(evolved, fixed, console)
    console.print()
    console.print(
        f"{time.monotonic() - began:.0f} s in all. Everything is in {folder}; delete that folder to undo it.\n"
        f"`pbt show latest --storage {folder}` shows this again, with members and exploits.",
        highlight=False,
        soft_wrap=True,
    )


def compare(evolved: Result, fixed: Result, console: Console) -> None:
    """Print the two winners side by side."""
    budget = evolved.run.info["spec"]["budget"]
    steps = budget["members"] * budget["generations"] * budget["steps"]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("")
    for heading in ("validation", "test", "member"):
        table.add_column(heading, justify="right")
    for label, result in (("population-based training", evolved), ("best fixed configuration", fixed)):
        best = result.best
        table.add_row(label, f"{best.score:.4f}", f"{best.metrics['test/bits_per_byte']:.4f}", str(best.member))
    console.print()
    console.print(f"Bits per byte after {steps:,} member-steps each (lower is better)", style="bold", highlight=False)
    console.print(table)
