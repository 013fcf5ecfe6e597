"""How good what strategies find is, beside Ray Tune's own and beside baselines, at equal member-steps.

    python -m benchmarks.population_quality [--quick] [--json FILE] [--plots FOLDER] [--tasks ...] [--methods ...]

Every method trains every task with several seeds. Methods with the same seed begin with the same population: the same
hyperparameters, the same weights. The winner is the member that is best on the validation split at the end, and it is
judged on the test split, once (of the noisy bandit the whole population is judged: see `tasks`). Ours have their
defaults, and so have Ray's. Ray's keep to the bounds of the space by the function that its documentation advises; its
PB2 is given bounds, as it has no other scale.

`--read FILE` shows and draws a record that was written before.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.population_quality import report
from benchmarks.population_quality.ours import STRATEGIES
from benchmarks.population_quality.outcome import Outcome
from benchmarks.population_quality.record import outcomes, summary, without_nan
from benchmarks.population_quality.runs import RAYS, Run, carry_out, prepare
from benchmarks.population_quality.tasks import TASKS

METHODS = (*STRATEGIES, *RAYS)
_SEEDS, _QUICK_SEEDS = 5, 2
#: Of what is printed where there is no terminal, in characters.
_WIDTH = 120


@click.command()
@click.option("--quick", is_flag=True, help="Two seeds and smaller budgets: at most ten minutes.")
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write the raw record here.")
@click.option("--resume", is_flag=True, help="Keep what is in that record; carry out what is missing or failed.")
@click.option("--plots", type=click.Path(path_type=Path), help="Draw a picture for every task into this folder.")
@click.option("--tasks", default="", help=f"Of {', '.join(TASKS)}, separated by commas; all unless told otherwise.")
@click.option("--methods", default="", help=f"Of {', '.join(METHODS)}, separated by commas.")
@click.option("--seeds", type=click.IntRange(min=1), help=f"How many; {_SEEDS}, or {_QUICK_SEEDS} if quick.")
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True, help="Runs at once.")
@click.option("--markdown", is_flag=True, help="Print tables for a page, too.")
@click.option("--read", type=click.Path(exists=True, path_type=Path), help="Show this record instead of making one.")
def main(
    quick: bool,
    output: Path | None,
    resume: bool,
    plots: Path | None,
    tasks: str,
    methods: str,
    seeds: int | None,
    jobs: int,
    markdown: bool,
    read: Path | None,
) -> None:
    """Train, compare, print, and write the record."""
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    record: dict[str, Any] = json.loads(read.read_text()) if read else {}
    before: dict[str, Any] = json.loads(output.read_text()) if resume and output and output.exists() else {}
    if not read:
        names, chosen = _chosen("tasks", tasks, TASKS), _chosen("methods", methods, METHODS)
        numbers = range(seeds or (_QUICK_SEEDS if quick else _SEEDS))
        began = time.monotonic()
        runs = [Run(*it, quick) for it in product(names, chosen, numbers)]
        known = outcomes(before) if before else {}

        def keep(found: Mapping[Run, Outcome]) -> None:
            """Of the seeds that are complete, as soon as they are: the whole takes long."""
            both = {**known, **found}
            lacking = {run.seed for run in runs if run not in both}
            all_found = {run: both[run] for run in runs if run.seed not in lacking}
            taken = before.get("wall_s", 0.0) + time.monotonic() - began
            record.update(summary(all_found, quick), wall_s=taken, jobs=jobs)
            if output:
                output.write_text(json.dumps(without_nan(record), indent=1) + "\n")

        left = [run for run in runs if run not in known]
        measure(left, jobs, keep, console) if left else keep({})
    report.show(record, console)
    if markdown:
        console.print(report.markdown(record), highlight=False, soft_wrap=True, markup=False)
    if plots:
        for path in report.draw(record, plots):
            console.print(f"drawn: {path}", highlight=False)


def _chosen(option: str, told: str, known: Iterable[str]) -> list[str]:
    """Names in the order in which they are known."""
    named = [name.strip() for name in told.split(",") if name.strip()]
    for name in named:
        if name not in known:
            raise click.BadParameter(f"{name!r} is unknown; give some of {', '.join(known)}", param_hint=f"--{option}")
    return [name for name in known if not named or name in named]


def measure(
    runs: Sequence[Run],
    jobs: int,
    keep: Callable[[Mapping[Run, Outcome]], None],
    console: Console | None = None,
) -> None:
    """Carry runs out, several at once, seed after seed.

    Args:
        runs: What to train.
        jobs: How many at once, each in a process that is kept for the next.
        keep: Called with the outcomes of all seeds that are complete, whenever another one is.
        console: For a display of progress.
    """
    found: dict[Run, Outcome] = {}
    left = Counter(run.seed for run in runs)
    with ExitStack() as stack:
        bar = stack.enter_context(_progress(console))
        pool = _pool(stack, jobs, with_ray=any(run.method in RAYS for run in runs))
        shown = bar.add_task("", total=len(runs))
        under_way = {pool.submit(carry_out, run): run for run in sorted(runs, key=_place)}
        for future in as_completed(under_way):
            run = under_way[future]
            found[run] = future.result()
            left[run.seed] -= 1
            bar.advance(shown)
            bar.console.print(_line(run, found[run]), highlight=False, soft_wrap=True)
            if left[run.seed] == 0:
                keep({run: found[run] for run in runs if left[run.seed] == 0})


def _pool(stack: ExitStack, jobs: int, with_ray: bool) -> ProcessPoolExecutor:
    address = None
    if with_ray:
        from benchmarks.population_quality.rays import cluster

        address = stack.enter_context(cluster(jobs))
    context = multiprocessing.get_context("spawn")
    lanes = context.Queue()
    for lane in range(jobs):
        lanes.put(lane)
    pool = stack.enter_context(ProcessPoolExecutor(jobs, context, prepare, (lanes, address)))
    stack.callback(pool.shutdown, wait=True, cancel_futures=True)
    return pool


def _place(run: Run) -> tuple[int, bool]:
    """Seed after seed, and of each what takes longest first, so that no process waits for it at the end."""
    return run.seed, run.method not in RAYS


def _progress(console: Console | None) -> Progress:
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("runs,"), TimeElapsedColumn(), TextColumn("left:"))
    return Progress(*columns, TimeRemainingColumn(), console=console or Console(quiet=True))


def _line(run: Run, outcome: Outcome) -> str:
    told = outcome.error or f"{outcome.score:.4g} (validation {outcome.validation:.4g}, test {outcome.test:.4g})"
    return f"{run.task} {run.method} {run.seed}: {told}, {outcome.seconds:.0f} s"


if __name__ == "__main__":
    main()
