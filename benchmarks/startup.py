"""How long a command line takes to answer: `pbt --help`, beside the peers' own, in turns.

    python -m benchmarks.startup [--quick] [--json FILE]

Each is a process of its own, from its start to its end; the first of each, which may read from the disk, is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from benchmarks.rounds import estimate, ratio, take_turns

#: What is timed, by name; each is found beside the interpreter.
COMMANDS = {name: (name, "--help") for name in ("pbt", "ray", "mlflow", "optuna")}
#: What is said to be enough.
ENOUGH_S = 0.5


def measure(rounds: int) -> dict[str, Any]:
    """Seconds of every command with intervals, and how many times as long as ours the peers take."""
    found = take_turns({name: _timed(*words) for name, words in COMMANDS.items()}, rounds + 1)
    warm = {name: times[1:] for name, times in found.items()}
    return {
        "seconds": {name: asdict(estimate(times)) for name, times in warm.items()},
        "vs_pbt": {name: asdict(ratio(times, warm["pbt"])) for name, times in warm.items() if name != "pbt"},
        "raw": warm,
        "under_half_a_second": estimate(warm["pbt"]).high < ENOUGH_S,
    }


def _timed(command: str, *arguments: str) -> Callable[[], float]:
    program = Path(sys.executable).with_name(command)

    def run() -> float:
        began = time.perf_counter()
        subprocess.run([program, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return time.perf_counter() - began

    return run


def main(quick: bool, output: Path | None) -> None:
    """Measure, and tell."""
    record: dict[str, Any] = {"machine": {"cpus": os.cpu_count(), "load_before": os.getloadavg()[0]}}
    record |= measure(3 if quick else 15)
    for name, seconds in record["seconds"].items():
        times = "" if name == "pbt" else f", {record['vs_pbt'][name]['median']:.1f} times as long as pbt"
        interval = f"[{seconds['low']:.2f}, {seconds['high']:.2f}]"
        click.echo(f"{' '.join(COMMANDS[name]):15} {seconds['median']:.2f} s {interval}{times}")
    if output:
        record["versions"] = {"python": sys.version.split()[0]} | {name: metadata.version(name) for name in COMMANDS}
        output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three rounds instead of fifteen")
    parser.add_argument("--json", type=Path, help="write the raw record to this file")
    given = parser.parse_args()
    main(given.quick, given.json)
