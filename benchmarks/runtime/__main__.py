"""What the runtime costs: overhead per generation and exploit latency, beside Ray Tune's population-based training.

    python -m benchmarks.runtime [--quick] [--json FILE]

A population of eight whose members hold a block of memory and train for a stated while (by sleeping: whoever trains
does not disturb what is measured), of whom two are exploited in every generation. Ours: eight in one stack on one host,
or four on each of two; Ray's (2.60): a trial for each member, with `reuse_actors` and without, synchronous and
asynchronous. All run one after the other on the same machine, on its local disk, each under a Ray of its own.

Then two hosts that really train against two bare processes that train the same, taking turns; and one brain's actor
that is asked by 1,000 hosts of 100 members which do nothing but answer.
"""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import click

from benchmarks.runtime.scaling import many_hosts, weak_scaling
from benchmarks.runtime.sides import Case, measure
from pbt.runtime.cluster import cluster
from pbt.runtime.machine import git_commit, hardware, software


def cases(quick: bool) -> list[Case]:
    """What is measured, in order."""
    found = []
    for state_mb in (1.0, 50.0):
        for synchronous in (True, False):
            if quick and not synchronous:
                continue
            common: dict[str, Any] = {"state_mb": state_mb, "synchronous": synchronous}
            ours = {**common, "impl": "ours", "segment_s": 0.0}
            found.append(Case(**ours, where="stack", generations=40 if quick else 200))
            found.append(Case(**ours, where="across", generations=40 if quick else 200))
            # Of 2, 4 and 8 at once, two are best for Ray where actors are reused and nothing is trained.
            rays = {**common, "where": "disk", "segment_s": 0.0}
            found.append(Case(**rays, impl="ray-reuse", generations=10 if quick else 40, at_once=2))
            if not quick:
                found.append(Case(**rays, impl="ray", generations=7))
    for synchronous in (True, False):
        common = {"state_mb": 50.0, "synchronous": synchronous, "segment_s": 2.0}
        if quick and not synchronous:
            continue
        generations = 6 if quick else 15
        for where in ("across",) if quick else ("stack", "across"):
            found.append(Case(**common, impl="ours", where=where, generations=generations))
        if not quick:
            found.append(Case(**common, impl="ray-reuse", where="disk", generations=generations))
    return sorted(found, key=lambda case: case.impl) if quick else found  # one Ray does for all of ours


def line(row: dict[str, Any]) -> str:
    """One case, for people."""
    name = f"{row['impl']}, {row['where']}, {'synchronous' if row['synchronous'] else 'asynchronous'}"
    share = "" if row["overhead_share"] is None else f", {row['overhead_share']:.1%} of training"
    exploit = "none" if row["exploit_ms"] is None else f"{row['exploit_ms']:.2f} ms"
    return (
        f"{name:32} {row['state_mb']:3.0f} MB, segments of {row['segment_s']:.0f} s: "
        f"{1e3 * row['generation_overhead_s']:8.1f} ms a generation{share}; exploit {exploit} ({row['exploits']})"
    )


def ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How many times our overhead Ray's is, at equal states and segments."""
    found = []
    for ours in rows:
        for ray in rows:
            alike = all(ours[name] == ray[name] for name in ("state_mb", "segment_s", "synchronous"))
            if ours["impl"] == "ours" and ray["impl"] != "ours" and alike:
                times = ray["generation_overhead_s"] / ours["generation_overhead_s"]
                names = ("where", "state_mb", "segment_s", "synchronous")
                found.append({"over": ray["impl"], "times": times, **{name: ours[name] for name in names}})
    return found


@click.command()
@click.option("--quick", is_flag=True, help="Fewer cases and generations: at most four minutes.")
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write the raw record here.")
@click.option("--only", default="", help="Only rows whose text has this in it; no scaling.")
def main(quick: bool, output: Path | None, only: str) -> None:
    """Measure, print, and write the record."""
    record: dict[str, Any] = {"git_commit": git_commit(Path.cwd()), "software": software(), "hardware": hardware()}
    rows: list[dict[str, Any]] = []

    def keep(**more: Any) -> None:
        """At once: the whole takes half an hour."""
        record.update(more)
        if output:
            output.write_text(json.dumps(record, indent=1) + "\n")

    chosen = [case for case in cases(quick) if only in f"{case.impl} {case.where}"]
    # Ray's own trials are each given another Ray: after them it may think that a core is still taken.
    for _, together in groupby(enumerate(chosen), lambda item: item[1].impl == "ours" or item[0]):
        with cluster(None):
            for _, case in together:
                rows.append(measure(case))
                click.echo(line(rows[-1]))
                keep(rows=rows, ratios=ratios(rows))
    for found in ratios(rows):
        pace = "synchronous" if found["synchronous"] else "asynchronous"
        click.echo(
            f"{found['over']} has {found['times']:,.0f} times the overhead of ours ({found['where']}), "
            f"{found['state_mb']:.0f} MB, segments of {found['segment_s']:.0f} s, {pace}"
        )
    if not only:
        with cluster(None):
            paces = (False,) if quick else (False, True)
            keep(**weak_scaling(rounds=1 if quick else 5, generations=5 if quick else 12, paces=paces))
        for name in ("weak_scaling", "weak_scaling_synchronous"):
            if name in record:
                click.echo(f"{name}: {record[name]}")
        with cluster(None):
            keep(many_hosts=many_hosts(50 if quick else 1_000, 100, 3))
        click.echo(json.dumps(record["many_hosts"]))


if __name__ == "__main__":
    main()
