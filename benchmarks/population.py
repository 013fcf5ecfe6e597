"""Large populations: what a strategy costs per event, and 100,000 simulated members through the real brain and ledger.

    python -m benchmarks.population [--quick] [--json FILE]

First the strategies alone: `handle` is given the reports of whole generations of 1,000, 10,000 and 100,000 members, in
random order, with random scores; one by one, or as many together as a stack has where it is not synchronous. If the
cost of an event grew in proportion to the logarithm of the population, the ratio of two sizes would be the ratio of
their logarithms: that bound is printed beside the measured ratio. Python's cyclic garbage collector is off meanwhile,
as in `timeit`: it visits all there is, the benchmark's own events included.

Then the whole decision path on simulated hosts: strategy, brain, ledger with its write-ahead file and Parquet parts,
exchange of states and checkpoints in memory.
"""

from __future__ import annotations

import gc
import json
import math
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from pbt import PBT, Budget, Checkpoints, Fixed
from pbt.member import lay_out
from pbt.record.ledger import Ledger, LedgerReader
from pbt.runtime.brain import Brain
from pbt.runtime.plan import Plan
from pbt.runtime.simulated import MemoryStore, SimulatedTrainable, World, simulate
from pbt.strategy import ContinueUntil, SegmentReported, StrategyOptions, SweepStarted, Task, Together
from searchspaces import Float, Space

SPACE = Space({"lr": Float(1e-4, 1e-1, log=True)})
STRATEGIES: dict[str, StrategyOptions] = {
    "fixed": Fixed(),
    "pbt": PBT(),
    "pbt, asynchronous": PBT(synchronous=False),
}
#: Members of a stack.
_CAPACITY = 500


def task(members: int, generations: int) -> Task:
    """A sweep of so many members."""
    budget = Budget(members=members, generations=generations, steps=1)
    return Task(space=SPACE, metric="loss", mode="min", budget=budget, seed=0)


def strategy_cost(options: StrategyOptions, members: int, generations: int) -> float:
    """Microseconds per report, from the second generation on."""
    strategy, rng = options.begin(task(members, generations)), random.Random(0)
    pending = strategy.handle([SweepStarted(id="start", slots=lay_out(members, max(1, members // _CAPACITY)))])
    age = dict.fromkeys(range(members), 0)
    spent, events = 0.0, 0
    for generation in range(generations - 1):
        told = [action for action in pending if isinstance(action, ContinueUntil)]
        rng.shuffle(told)
        reports = []
        for action in told:
            age[action.member] = action.consumed
            reports.append(
                SegmentReported(
                    id=f"report:{action.member}:{generation}",
                    member=action.member,
                    segment=generation,
                    age=action.consumed,
                    consumed=action.consumed,
                    metrics={"loss": rng.random()},
                    wall_s=1.0,
                )
            )
        stacks = [tuple(reports[first : first + _CAPACITY]) for first in range(0, members, _CAPACITY)]
        told_as = reports if options.synchronous else [Together(reports=stack) for stack in stacks]
        gc.collect()
        gc.disable()
        began = time.perf_counter()
        pending = [action for event in told_as for action in strategy.handle([event])]
        spent, events = spent + time.perf_counter() - began, events + len(reports)
        gc.enable()
    return 1e6 * spent / events


def whole_path(options: StrategyOptions, members: int, generations: int) -> dict[str, Any]:
    """A simulated sweep, through the real brain and ledger."""
    trainable, sweep = SimulatedTrainable(), task(members, generations)
    described = trainable.describe()
    metric = next(iter(described.metrics))
    plan = Plan(
        slots=lay_out(members, max(1, members // _CAPACITY)),
        bucket=trainable.bucket({}),
        defaults={name: spec.default for name, spec in described.hparams.items()},
        metric=metric,
        split="validation",
        tokens_per_step=described.tokens_per_step,
        budget=sweep.budget,
        synchronous=getattr(options, "synchronous", True),
        checkpoints=Checkpoints(every_minutes=None),
    )
    told = Task(space=SPACE, metric=metric, mode=described.metrics[metric].mode, budget=sweep.budget, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        began = time.perf_counter()
        report = simulate(
            lambda states, clock, again: Brain(plan, options.begin(told), Ledger(run, existing=again), states, clock),
            run=run,
            world=World(hosts=max(1, members // _CAPACITY)),
            trainable=trainable,
            store=MemoryStore(),
        )
        seconds = time.perf_counter() - began
        tables = LedgerReader(run).tables()
        size = sum(path.stat().st_size for path in run.rglob("*.parquet"))
    segments = tables["outcomes"].num_rows
    assert report.finished
    assert segments == members * generations
    return {
        "members": members,
        "segments": segments,
        "rows": sum(table.num_rows for table in tables.values()),
        "seconds": seconds,
        "segments_per_second": segments / seconds,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "ledger_mib": size / 2**20,
    }


@click.command()
@click.option("--quick", is_flag=True, help="1,000 and 10,000 members only.")
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write the raw record here.")
@click.option("--whole", nargs=2, type=(str, int), hidden=True, help="One whole path, in a process of its own.")
def main(quick: bool, output: Path | None, whole: tuple[str, int] | None) -> None:
    """Measure, print, and write the record."""
    if whole:
        click.echo(json.dumps(whole_path(STRATEGIES[whole[0]], whole[1], 3)))
        return
    sizes = (1_000, 10_000) if quick else (1_000, 10_000, 100_000)
    record: dict[str, Any] = {"microseconds_per_event": {}, "whole": {}}
    for name, options in STRATEGIES.items():
        costs = {size: min(strategy_cost(options, size, 4) for _ in range(3)) for size in sizes}
        record["microseconds_per_event"][name] = costs
        growth, bound = costs[sizes[-1]] / costs[sizes[0]], math.log(sizes[-1]) / math.log(sizes[0])
        shown = ", ".join(f"{size:,}: {cost:.1f} us" for size, cost in costs.items())
        click.echo(f"{name}: {shown}; grows {growth:.2f} times, the logarithm {bound:.2f} times")
    for name in ("pbt", "pbt, asynchronous"):
        # A process of its own: memory is that of this sweep alone.
        command = [sys.executable, "-m", "benchmarks.population", "--whole", name, str(sizes[-1])]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        record["whole"][name] = found
        click.echo(
            f"{name}: {found['members']:,} members, {found['segments']:,} segments, {found['rows']:,} rows in "
            f"{found['seconds']:.0f} s: {found['segments_per_second']:,.0f} segments a second; "
            f"{found['peak_memory_mib']:,.0f} MiB at most, {found['ledger_mib']:.0f} MiB on disk"
        )
    if output:
        output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
