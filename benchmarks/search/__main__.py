"""Searches side by side: `python -m benchmarks.search --data ../shared/data`.

Every method searches every table, with each of the seeds; see `world`. A record has one row for each task and method:
`task`, `method`, `workers`, `auc` (area below the regret over the logarithm of the cost), `cost_to_asha` (complete runs
until the regret that ASHA ended with; null where it was never reached), `rank`, `suggest_s` (median), and
`is_for_tuning`: claims are made on tasks that are not. With `--json FILE`, a run that was broken off goes on from
`FILE.jsonl`, as long as that is there.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table as Shown

from benchmarks.search.functions import functions
from benchmarks.search.methods import METHODS, OURS, can_search
from benchmarks.search.scores import cost_to_reach, in_words, mean_ranks, regret_over_cost
from benchmarks.search.speed import median_times
from benchmarks.search.tasks import TUNING, Table, measured
from benchmarks.search.world import play


class Job(NamedTuple):
    """One search."""

    data: Path
    task: str
    method: str
    seed: int
    workers: int
    runs: float


class Found(NamedTuple):
    """What came of it; `cpu_s` is all that it took, the table's part included."""

    job: Job
    regrets: np.ndarray
    suggest_s: list[float]
    cpu_s: float


def search(job: Job) -> Found:
    """Do it, in one thread."""
    import torch

    torch.set_num_threads(1)
    begun = time.process_time()
    table = _table(job.data, job.task)
    method = METHODS[job.method]
    played = play(
        table,
        lambda snap: method(table.space, snap, table.ladder(), job.seed),
        seed=job.seed,
        workers=job.workers,
        runs=job.runs,
    )
    regrets = regret_over_cost(table, played, job.runs)
    return Found(job, regrets, played.suggest_s, time.process_time() - begun)


def search_all(jobs: Sequence[Job], journal: Path | None, title: str) -> list[Found]:
    """All of them, on all cores. What has come of each is written down at once, and read again by whoever goes on."""
    known = {it.job: it for it in _read(journal, jobs[0].data)} if journal is not None and journal.exists() else {}
    found = [known[job] for job in jobs if job in known]
    rest = [job for job in jobs if job not in known]
    with ProcessPoolExecutor() as pool, Progress() as progress:
        shown = progress.add_task(title, total=len(jobs), completed=len(found))
        for done in as_completed([pool.submit(search, job) for job in rest]):
            found.append(done.result())
            progress.advance(shown)
            if journal is not None:
                with journal.open("a") as file:
                    file.write(json.dumps(_line(found[-1])) + "\n")
    return found


def _line(found: Found) -> dict[str, Any]:
    job = {name: value for name, value in found.job._asdict().items() if name != "data"}
    return {**job, "regrets": found.regrets.tolist(), "suggest": found.suggest_s, "cpu_s": found.cpu_s}


def _read(journal: Path, data: Path) -> Iterator[Found]:
    for line in journal.read_text().splitlines():
        row = json.loads(line)
        regrets, suggest, cpu_s = np.array(row.pop("regrets")), row.pop("suggest"), row.pop("cpu_s")
        yield Found(Job(data=data, **row), regrets, suggest, cpu_s)


_TABLES: dict[Path, dict[str, Table]] = {}


def _table(data: Path, task: str) -> Table:
    if data not in _TABLES:
        _TABLES[data] = {table.name: table for table in [*measured(data), *functions()]}
    return _TABLES[data][task]


def rows(found: Sequence[Found], workers: int, runs: float) -> list[dict[str, Any]]:
    """The record's rows."""
    by_job = {(it.job.task, it.job.method, it.job.seed): it for it in found}
    seeds = sorted({it.job.seed for it in found})
    made = []
    for task in dict.fromkeys(it.job.task for it in found):
        methods = [method for method in METHODS if (task, method, seeds[0]) in by_job]
        curves = {name: np.stack([by_job[task, name, seed].regrets for seed in seeds]) for name in methods}
        ranks = mean_ranks({name: it.mean(axis=1)[None] for name, it in curves.items()})
        goal = curves["asha"].mean(axis=0)[-1] if "asha" in curves else -1.0
        for name in methods:
            reached = cost_to_reach(curves[name].mean(axis=0), goal, runs)
            times = [second for seed in seeds for second in by_job[task, name, seed].suggest_s]
            made.append(
                {
                    "task": task,
                    "method": name,
                    "workers": workers,
                    "auc": float(curves[name].mean()),
                    "aucs": [float(it) for it in curves[name].mean(axis=1)],
                    "final": float(curves[name][:, -1].mean()),
                    "cost_to_asha": reached if np.isfinite(reached) else None,
                    "rank": float(ranks[name].mean()),
                    "suggest_s": float(np.median(times)),
                    "is_for_tuning": task in TUNING,
                }
            )
    return made


def show(made: Sequence[dict[str, Any]], console: Console) -> None:
    """A table of areas, one column for each method; then ranks on those tasks that all can search."""
    methods = list(dict.fromkeys(row["method"] for row in made))
    shown = Shown("task", *methods, title="area below the regret (at the end)")
    for task in dict.fromkeys(row["task"] for row in made):
        cells = {row["method"]: f"{row['auc']:.3f} ({row['final']:.3f})" for row in made if row["task"] == task}
        shown.add_row(task, *(cells.get(method, "") for method in methods))
    console.print(shown)
    common = [task for task in dict.fromkeys(row["task"] for row in made) if _is_common(task, methods, made)]
    for title, tasks in (
        ("tuned on", [it for it in common if it in TUNING]),
        ("not tuned on", [it for it in common if it not in TUNING]),
    ):
        if tasks:
            areas = {
                method: np.array(
                    [row["aucs"] for task in tasks for row in made if (row["task"], row["method"]) == (task, method)]
                )
                for method in methods
            }
            console.print(f"[bold]{len(tasks)} tasks {title}[/bold]", *in_words(methods, mean_ranks(areas)), sep="\n  ")


def _is_common(task: str, methods: Sequence[str], made: Sequence[dict[str, Any]]) -> bool:
    return set(methods) <= {row["method"] for row in made if row["task"] == task}


@click.command(help=__doc__.splitlines()[0] if __doc__ else None)
@click.option("--data", type=click.Path(exists=True, path_type=Path), default=lambda: os.environ.get("PBT_DATA"))
@click.option("--quick", is_flag=True, help="Two seeds, six complete runs.")
@click.option("--full", is_flag=True, help="Ten seeds, with 1, 4 and 8 workers.")
@click.option("--method", "methods", multiple=True, type=click.Choice(list(METHODS)))
@click.option("--tasks", type=click.Choice(["all", "tuning", "others"]), default="all")
@click.option("--seeds", type=int, default=5)
@click.option("--workers", type=int, default=4)
@click.option("--runs", type=float, default=10.0, help="Budget, in complete runs.")
@click.option("--json", "file", type=click.Path(path_type=Path))
def main(
    data: Path | None,
    quick: bool,
    full: bool,
    methods: tuple[str, ...],
    tasks: str,
    seeds: int,
    workers: int,
    runs: float,
    file: Path | None,
) -> None:
    """Search, and compare."""
    if data is None:
        raise click.UsageError("Say where the data is: --data DIR, or PBT_DATA in the environment.")
    seeds, runs = (min(seeds, 2), min(runs, 6.0)) if quick else (10 if full else seeds, runs)
    chosen = [
        it for it in [*measured(data), *functions()] if tasks == "all" or (it.name in TUNING) == (tasks == "tuning")
    ]
    journal, made, cpu_s = None if file is None else file.with_suffix(".jsonl"), [], 0.0
    for number in (1, 4, 8) if full else (workers,):
        jobs = [
            Job(data, table.name, method, seed, number, runs)
            for seed, table, method in product(range(seeds), chosen, methods or METHODS)
            if can_search(method, table.space)
        ]
        found = search_all(jobs, journal, f"{number} workers")
        cpu_s += sum(it.cpu_s for it in found)
        own = rows(found, number, runs)
        show(own, Console(width=220))
        made += own
    speed = median_times([name for name in OURS if name in (methods or METHODS)])
    Console().print("seconds a suggestion, of 300 observations: ", speed)
    if file is not None:
        told: dict[str, Any] = {"seeds": seeds, "runs": runs, "quick": quick, "cpu_minutes": cpu_s / 60}
        told |= {"tuned_on": sorted(TUNING), "suggest_s_at_300": speed, "rows": made}
        file.write_text(json.dumps(told, indent=1) + "\n")
        assert journal is not None
        journal.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
