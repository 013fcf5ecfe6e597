"""Sweeps killed with SIGKILL, again and again: is anything lost or doubled, and how long does it take to go on?

    python -m benchmarks.faults [--kills 100] [--ray] [--quick] [--json FILE]

A sweep (population-based training of the paper's toy, seven members on two stacks, exploits across them) is driven by
a process of its own, which is killed at a random moment: most often while it trains and records, sometimes while it is
still taking the sweep up again. Another process resumes it, until the sweep has come to its end; then its digest is
compared with that of the same sweep left alone. As many sweeps are run as it takes.

With `--ray`, the same sweep on two hosts under Ray, of which now one host, now the brain is killed, and the sweep goes
on by itself; or its driver, and with it brain and hosts, and another resumes it.

There is no peer in this run: Ray Tune 2.60 saves no scheduler state, and its synchronous PBT hangs after
`Tuner.restore`, so there is no time to compare with.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from benchmarks.faults import drivers, under_ray


@click.command()
@click.option("--kills", default=100, show_default=True, help="How many drivers, without Ray.")
@click.option("--ray", is_flag=True, help="Kill hosts, brains and drivers under Ray, too.")
@click.option("--quick", is_flag=True, help="Eight kills, with --ray two of each: about two minutes each.")
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write the raw record here.")
def main(kills: int, ray: bool, quick: bool, output: Path | None) -> None:
    """Kill, go on, compare."""
    record: dict[str, Any] = {}
    if kills:
        record = drivers.measure(8, 200) if quick else drivers.measure(kills, 1000)
        _tell(record)
    if ray:
        record["ray"] = under_ray.measure(2 if quick else 8)
        for what, found in record["ray"].items():
            click.echo(f"under Ray, {what} killed:")
            _tell(found)
    if output:
        output.write_text(json.dumps(record, indent=1) + "\n")


def _tell(record: dict[str, Any]) -> None:
    recover, bare = record["seconds_to_recover"], record.get("seconds_to_recover_without_starting_python")
    click.echo(f"{record['kills']} kills in {len(record['sweeps'])} sweeps, {record['recovered']} recovered in full")
    click.echo(f"segments lost {record['segments_lost']}, doubled {record['segments_doubled']}")
    if recover:
        click.echo(f"until it trains again: median {recover['median']:.1f} s, at most {recover['max']:.1f} s")
    if bare:
        click.echo(f"without starting Python: median {bare['median']:.2f} s, at most {bare['max']:.2f} s")


if __name__ == "__main__":
    main()
