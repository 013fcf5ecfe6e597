"""The demo's claim over seeds: population-based training against the best fixed configuration of the same population.

For each seed both sweeps of `pbt demo` run in this process, without Ray and MLflow: the decisions, and so the scores,
are the same. Reported are both winners' bits per byte and their paired difference, with a 95 % interval (Student's t).

python -m benchmarks.demo [--quick] [--json FILE]
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import click
from scipy import stats

from pbt import Sweep
from pbt.demo import demo_spec

METRIC = "bits_per_byte"


@click.command()
@click.option("--quick", is_flag=True, help="Two seeds instead of ten.")
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write the raw record here.")
def main(quick: bool, output: Path | None) -> None:
    """Compare over seeds 0, 1, ..."""
    rows = []
    for seed in range(2 if quick else 10):
        rows.append(compare(seed))
        click.echo(
            "seed {seed}: pbt {pbt[validation]:.4f} (test {pbt[test]:.4f}), "
            "fixed {fixed[validation]:.4f} (test {fixed[test]:.4f})".format(**rows[-1])
        )
    summary = {split: interval([row["pbt"][split] - row["fixed"][split] for row in rows]) for split in SPLITS}
    for split, (mean, half) in summary.items():
        click.echo(f"pbt - fixed, {split}: {mean:+.4f} ± {half:.4f} {METRIC} (95 %, {len(rows)} seeds, paired)")
    if output:
        versions = {name: metadata.version(name) for name in ("pbt", "torch", "numpy")}
        output.write_text(json.dumps({"rows": rows, "summary": summary, "versions": versions}, indent=1) + "\n")


SPLITS = ("validation", "test")


def compare(seed: int) -> dict[str, Any]:
    """Both winners of one seed."""
    found: dict[str, Any] = {"seed": seed}
    with tempfile.TemporaryDirectory() as folder:
        for strategy in ("pbt", "fixed"):
            spec = demo_spec(strategy, Path(folder), seed=seed)
            spec = dataclasses.replace(
                spec,
                hosts=dataclasses.replace(spec.hosts, kind="local"),
                tracking=dataclasses.replace(spec.tracking, enabled=False),
            )
            result = Sweep.from_spec(spec).run(progress=False)
            found[strategy] = {split: result.best.metrics[f"{split}/{METRIC}"] for split in SPLITS}
            found[strategy] |= {
                "digest": result.digest(),
                "schedule_lr": [s.hparams["lr"] for s in result.best.schedule],
            }
            found["member_steps"] = spec.budget.member_steps
    return found


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % interval."""
    spread = statistics.stdev(differences) / math.sqrt(len(differences))
    return statistics.fmean(differences), float(stats.t.ppf(0.975, len(differences) - 1)) * spread


if __name__ == "__main__":
    main()
