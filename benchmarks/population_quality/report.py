"""The record in tables, sentences and pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from pbt.report.canvas import BASELINE, CROWD, INK, WINNER, as_png, dress, new_figure

#: The strategy that the documentation names as the default.
DEFAULT = "mf_pb2"
#: Ours, and Ray's method of the same name.
SAME_NAME = {"pbt": "ray_pbt", "pbt_async": "ray_pbt", "pb2": "ray_pb2"}
#: What of Ray's each is compared with: what its users would have taken.
RIVAL = {**SAME_NAME, DEFAULT: "ray_pbt"}
BASE = "fixed"
#: Of how many tasks the default strategy is to beat Ray's.
AIM = 4


def questions(methods: Sequence[str]) -> list[tuple[str, str]]:
    """What is asked of every task: ours beside Ray's, and everything beside what never changes."""
    own = [(method, RIVAL[method]) for method in methods if RIVAL.get(method) in methods]
    return own + [(method, BASE) for method in methods if method != BASE]


def show(record: Mapping[str, Any], console: Console) -> None:
    """Print a table for every task, and what follows."""
    for task in record["tasks"]:
        console.print()
        console.print(_table(record, task))
    console.print()
    for sentence in sentences(record):
        console.print(sentence, highlight=False, soft_wrap=True)


def _table(record: Mapping[str, Any], task: Mapping[str, Any]) -> Table:
    better = "higher" if task["mode"] == "max" else "lower"
    title = f"{task['title']}: {task['score']} ({better} is better); {task['member_steps']:,} member-steps"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("method")
    table.add_column("mean \\[95 %]")
    for reference in ("Ray's", BASE):
        table.add_column(f"ahead of {reference} \\[95 %]")
    for row in _rows(record, task["name"]):
        compared = [_comparison(record, row, it) for it in (RIVAL.get(row["method"]), BASE)]
        table.add_row(row["method"], _told(row["mean"], *row["ci"]), *map(_lead, compared))
    return table


def _rows(record: Mapping[str, Any], task: str) -> list[Mapping[str, Any]]:
    return [row for row in record["rows"] if row["task"] == task]


def _comparison(record: Mapping[str, Any], row: Mapping[str, Any], reference: str | None) -> Mapping[str, Any] | None:
    wanted = (row["task"], row["method"], reference)
    own = (it for it in record["comparisons"] if (it["task"], it["method"], it["reference"]) == wanted)
    return next(own, None)


def _lead(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    return f"{_told(**found['lead'], sign='+')} {found['verdict']}"


def _told(mean: float | None, low: float | None, high: float | None, sign: str = "") -> str:
    return f"{_number(mean, sign)} \\[{_number(low, sign)}, {_number(high, sign)}]"


def _number(value: float | None, sign: str = "") -> str:
    return "-" if value is None or math.isnan(value) else f"{value:{sign}.4g}"


def sentences(record: Mapping[str, Any]) -> list[str]:
    """What is to be shown, and whether it is."""
    found = []
    for method, reference in RIVAL.items():
        if asked := _asked(record, method, reference):
            found.append(f"{method} beside {reference}: {_counted(asked)}.")
    behind = [it for it in record["comparisons"] if it["reference"] == SAME_NAME.get(it["method"])]
    if behind:
        worse = [f"{it['method']} on {it['task']}" for it in behind if it["verdict"] == "worse"]
        told = f"missed by {', '.join(worse)}" if worse else "met"
        found.append(f"None of ours is below Ray's of the same name: {told}.")
    if own := _asked(record, DEFAULT, RIVAL[DEFAULT]):
        better = sum(it["verdict"] == "better" for it in own)
        told = f"on {better} of {len(own)} tasks (aim: {AIM} of 6, {'met' if better >= AIM else 'missed'})"
        found.append(f"The default strategy, {DEFAULT}, beats Ray's PBT {told}.")
    lost = [f"{row['method']} on {row['task']}, seed {it['seed']}" for row in record["rows"] for it in row["errors"]]
    return found + ([f"Without a winner: {'; '.join(lost)}."] if lost else [])


def markdown(record: Mapping[str, Any]) -> str:
    """The record for a page: what every method reached, and how far ours are ahead of what they are compared with.

    Bold is better than `fixed`, or than Ray's, and italic worse, by Holm's correction over the tasks.
    """
    tasks = record["tasks"]
    head = ["| | " + " | ".join(task["title"] for task in tasks) + " |", "|---" * (len(tasks) + 1) + "|"]
    better = " | ".join("higher is better" if task["mode"] == "max" else "lower is better" for task in tasks)
    methods = list(dict.fromkeys(row["method"] for row in record["rows"]))
    reached = [_line(method, [_reached(record, task["name"], method) for task in tasks]) for method in methods]
    pairs = [(method, rival) for method, rival in RIVAL.items() if _asked(record, method, rival)]
    leads = [
        _line(f"`{method}` beside `{rival}`", [_ahead(record, task["name"], method, rival) for task in tasks])
        for method, rival in pairs
    ]
    return "\n".join([*head, f"| | {better} |", *reached, "", *head, *leads]) + "\n"


def _line(name: str, cells: Sequence[str]) -> str:
    return f"| {name if name.startswith('`') else f'`{name}`'} | " + " | ".join(cells) + " |"


def _reached(record: Mapping[str, Any], task: str, method: str) -> str:
    row = next(row for row in _rows(record, task) if row["method"] == method)
    found = _comparison(record, row, BASE)
    return _marked(_plus_minus(row["mean"], *row["ci"]), found["verdict"] if found else "")


def _ahead(record: Mapping[str, Any], task: str, method: str, rival: str) -> str:
    found = next((it for it in _asked(record, method, rival) if it["task"] == task), None)
    return _marked(_plus_minus(**found["lead"], sign="+"), found["verdict"]) if found else ""


def _plus_minus(mean: float | None, low: float | None, high: float | None, sign: str = "") -> str:
    if mean is None or low is None or high is None:
        return _number(mean, sign)
    return f"{mean:{sign}.3f} ± {(high - low) / 2:.3f}"


def _marked(words: str, verdict: str) -> str:
    mark = {"better": "**", "worse": "*"}.get(verdict, "")
    return f"{mark}{words}{mark}"


def _asked(record: Mapping[str, Any], method: str, reference: str) -> list[Mapping[str, Any]]:
    return [it for it in record["comparisons"] if (it["method"], it["reference"]) == (method, reference)]


def _counted(asked: Sequence[Mapping[str, Any]]) -> str:
    words = [it["verdict"] for it in asked]
    by_mean = sum((it["lead"]["mean"] or 0.0) > 0 for it in asked)
    counts = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
    return f"{counts}, of {len(asked)} tasks; ahead in the mean on {by_mean}"


def draw(record: Mapping[str, Any], folder: Path) -> list[Path]:
    """A picture for every task: all seeds of each method, its mean and the interval of that."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for task in record["tasks"]:
        path = folder / f"{task['name']}.png"
        path.write_bytes(_picture(record, task))
        drawn.append(path)
    return drawn


def _picture(record: Mapping[str, Any], task: Mapping[str, Any]) -> bytes:
    rows = _rows(record, task["name"])[::-1]
    figure = new_figure(7.0, 1.0 + 0.34 * len(rows))
    axes = figure.add_subplot()
    better = "higher is better" if task["mode"] == "max" else "lower is better"
    dress(axes, f"{task['title']}: {better}", task["score"], "")
    for place, row in enumerate(rows):
        colour = _colour(row["method"])
        scores = [score for score in row["scores"] if score is not None]
        axes.plot(scores, [place] * len(scores), "o", color=CROWD, markersize=4, alpha=0.6, markeredgewidth=0)
        if row["mean"] is not None and row["ci"][0] is not None:
            axes.plot(row["ci"], [place, place], color=colour, linewidth=2.5, solid_capstyle="round")
        if row["mean"] is not None:
            axes.plot([row["mean"]], [place], "D", color=colour, markersize=6)
    axes.set_yticks(range(len(rows)), [row["method"] for row in rows], color=INK)
    return as_png(figure)


def _colour(method: str) -> str:
    """Ours, Ray's, and what never changes."""
    if method.startswith("ray_"):
        return BASELINE
    return INK if method == BASE else WINNER
