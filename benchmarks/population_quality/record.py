"""What was measured, as JSON-able data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.population_quality import report, statistics
from benchmarks.population_quality.outcome import Outcome
from benchmarks.population_quality.runs import Run
from benchmarks.population_quality.tasks import task
from pbt.runtime.machine import git_commit, hardware, software


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


def outcomes(record: Mapping[str, Any]) -> dict[Run, Outcome]:
    """What a record was made of, but for runs without a winner."""
    found = {}
    for row in record["rows"]:
        lost = {it["seed"] for it in row["errors"]}
        columns = zip(*(row[name] for name in ("seeds", *_COLUMNS)), strict=True)
        for seed, *values in columns:
            if seed not in lost:
                told = dict(zip(_COLUMNS.values(), values, strict=True))
                run = Run(row["task"], row["method"], seed, record["quick"])
                found[run] = Outcome(**told, member_steps=row["member_steps"])
    return found


#: Columns of a row with something of each seed, and what an outcome calls it.
_COLUMNS = {
    "scores": "score",
    "validation": "validation",
    "test": "test",
    "hparams": "hparams",
    "seconds": "seconds",
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
        **{column: [getattr(it, attribute) for it in own.values()] for column, attribute in _COLUMNS.items()},
        "errors": [{"seed": seed, "error": it.error} for seed, it in own.items() if it.error],
    }


def without_nan(data: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(data, Mapping):
        return {str(key): without_nan(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [without_nan(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
