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
import math
import multiprocessing
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.population_quality import report, statistics
from benchmarks.population_quality.ours import STRATEGIES
from benchmarks.population_quality.outcome import Outcome
from benchmarks.population_quality.runs import RAYS, Run, carry_out, prepare
from benchmarks.population_quality.tasks import TASKS, task
from pbt.runtime.machine import git_commit, hardware, software

METHODS = (*STRATEGIES, *RAYS)
_SEEDS, _QUICK_SEEDS = 5, 2
#: Of what is printed where there is no terminal, in characters.
_WIDTH = 120
#: Longest first, so that none is left over at the end.
_ORDER = ("ray_pb2", "ray_pbt")


@click.command()
@click.option("--quick", is_flag=True, help="Two seeds and smaller budgets: at most ten minutes.")
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write the raw record here.")
@click.option("--plots", type=click.Path(path_type=Path), help="Draw a picture for every task into this folder.")
@click.option("--tasks", default="", help=f"Of {', '.join(TASKS)}, separated by commas; all unless told otherwise.")
@click.option("--methods", default="", help=f"Of {', '.join(METHODS)}, separated by commas.")
@click.option("--seeds", type=click.IntRange(min=1), help=f"How many; {_SEEDS}, or {_QUICK_SEEDS} if quick.")
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True, help="Runs at once.")
@click.option("--read", type=click.Path(exists=True, path_type=Path), help="Show this record instead of making one.")
def main(
    quick: bool,
    output: Path | None,
    plots: Path | None,
    tasks: str,
    methods: str,
    seeds: int | None,
    jobs: int,
    read: Path | None,
) -> None:
    """Train, compare, print, and write the record."""
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    if read is not None:
        record = json.loads(read.read_text())
    else:
        names, chosen = _chosen("tasks", tasks, TASKS), _chosen("methods", methods, METHODS)
        numbers = range(seeds or (_QUICK_SEEDS if quick else _SEEDS))
        began = time.monotonic()
        outcomes = measure([Run(*it, quick) for it in product(names, chosen, numbers)], jobs, console)
        record = summary(outcomes, quick) | {"wall_s": time.monotonic() - began, "jobs": jobs}
    if output:
        output.write_text(json.dumps(_without_nan(record), indent=1) + "\n")
    report.show(record, console)
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


def measure(runs: Sequence[Run], jobs: int, console: Console | None = None) -> dict[Run, Outcome]:
    """Carry runs out, several at once, each in a process that is kept for the next.

    Args:
        runs: What to train.
        jobs: How many at once.
        console: For a display of progress.
    """
    found: dict[Run, Outcome] = {}
    with ExitStack() as stack:
        bar = stack.enter_context(_progress(console))
        address = None
        if any(run.method in RAYS for run in runs):
            from benchmarks.population_quality.rays import cluster

            address = stack.enter_context(cluster(jobs))
        context = multiprocessing.get_context("spawn")
        lanes = context.Queue()
        for lane in range(jobs):
            lanes.put(lane)
        pool = stack.enter_context(ProcessPoolExecutor(jobs, context, prepare, (lanes, address)))
        stack.callback(pool.shutdown, wait=True, cancel_futures=True)
        shown = bar.add_task("", total=len(runs))
        under_way = {pool.submit(carry_out, run): run for run in sorted(runs, key=_length)}
        for future in as_completed(under_way):
            run = under_way[future]
            found[run] = outcome = future.result()
            bar.advance(shown)
            bar.console.print(_line(run, outcome), highlight=False, soft_wrap=True)
    return {run: found[run] for run in runs}


def _length(run: Run) -> int:
    return _ORDER.index(run.method) if run.method in _ORDER else len(_ORDER)


def _progress(console: Console | None) -> Progress:
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("runs,"), TimeElapsedColumn(), TextColumn("left:"))
    return Progress(*columns, TimeRemainingColumn(), console=console or Console(quiet=True))


def _line(run: Run, outcome: Outcome) -> str:
    told = outcome.error or f"{outcome.score:.4g} (validation {outcome.validation:.4g}, test {outcome.test:.4g})"
    return f"{run.task} {run.method} {run.seed}: {told}, {outcome.seconds:.0f} s"


def summary(outcomes: Mapping[Run, Outcome], quick: bool) -> dict[str, Any]:
    """The record: a row for each task and method, and what they say of each other."""
    names, methods = (list(dict.fromkeys(getattr(run, it) for run in outcomes)) for it in ("task", "method"))
    tasks = {name: task(name, quick) for name in names}
    trained = {(run.task, run.method) for run in outcomes}
    rows = [_row(*it, outcomes) for it in product(names, methods) if it in trained]
    scores: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    for row in rows:
        scores[row["task"]][row["method"]] = row["scores"]
    modes = {name: it.judged_by[1] for name, it in tasks.items()}
    compared = statistics.compare(scores, modes, report.questions(methods))
    facts = [
        {
            "name": name,
            "title": it.title,
            "score": it.judged_by[0],
            "mode": it.judged_by[1],
            "objective": it.metric,
            "budget": {key: getattr(it.budget, key) for key in ("members", "generations", "steps")},
            "member_steps": it.budget.member_steps,
        }
        for name, it in tasks.items()
    ]
    return {
        "rows": rows,
        "comparisons": [asdict(it) for it in compared],
        "tasks": facts,
        "quick": quick,
        "holm": "over the tasks of each pair of method and reference",
        "git_commit": git_commit(Path.cwd()),
        "software": software(),
        "hardware": hardware(),
    }


def _row(name: str, method: str, outcomes: Mapping[Run, Outcome]) -> dict[str, Any]:
    own = {run.seed: it for run, it in outcomes.items() if (run.task, run.method) == (name, method)}
    scores = [it.score for it in own.values()]
    mean = statistics.estimate(scores)
    trained = {it.member_steps for it in own.values()}
    return {
        "task": name,
        "method": method,
        "mean": mean.mean,
        "ci": [mean.low, mean.high],
        "member_steps": max(trained),
        "seeds": list(own),
        "scores": scores,
        "validation": [it.validation for it in own.values()],
        "test": [it.test for it in own.values()],
        "hparams": [it.hparams for it in own.values()],
        "seconds": [it.seconds for it in own.values()],
        "errors": [{"seed": seed, "error": it.error} for seed, it in own.items() if it.error],
    }


def _without_nan(data: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(data, Mapping):
        return {str(key): _without_nan(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_without_nan(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


if __name__ == "__main__":
    main()
