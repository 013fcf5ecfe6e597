"""Scaling laws: what they find on real measurements, how far it holds, how sure they are, how fast they are.

A record has one row for each law and table: `law`, `dataset`, `params`, `ci`, `holdout_error`, `seconds`, `vs_scipy`;
and one for each law of how often its intervals of 95 % hold what was put in (`coverage`).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmarks.laws.coverage import coverage
from benchmarks.laws.measured import measured
from benchmarks.laws.speed import speed


@click.command(help=__doc__)
@click.option("--data", type=click.Path(exists=True, path_type=Path), default=lambda: os.environ.get("PBT_DATA"))
@click.option("--quick", is_flag=True, help="Intervals of 100 draws instead of 2,000, and fewer loops of scipy.")
@click.option("--json", "file", type=click.Path(path_type=Path))
def main(data: Path | None, quick: bool, file: Path | None) -> None:
    """Fit, ask, and compare."""
    if data is None:
        raise click.UsageError("Say where the data is: --data DIR, or PBT_DATA in the environment.")
    console, rows = Console(), []
    for row in _rows(data, quick):
        console.print({name: _short(value) for name, value in row.items()})
        rows.append(row)
    if file is not None:
        file.write_text(json.dumps({"quick": quick, "rows": rows}, indent=1) + "\n")


def _rows(data: Path, quick: bool) -> Any:
    yield speed(20 if quick else 100)
    yield from measured(data)
    yield from coverage(100 if quick else 2000)


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {name: _short(it) for name, it in value.items()}
    return [_short(it) for it in value] if isinstance(value, list | tuple) else value


if __name__ == "__main__":
    main()
