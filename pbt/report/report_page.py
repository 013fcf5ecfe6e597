"""`pbt report`: everything a run found in one HTML file, which needs neither network nor pbt to be read."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pbt import dialect
from pbt.lineage import tell
from pbt.record.archive import write_atomically
from pbt.record.mirrored import without_secrets
from pbt.record.result import Result, load
from pbt.report import canvas, interactive, text
from pbt.report.plots import figures
from pbt.report.plots.subject import best_member
from pbt.report.sentences import sentence
from pbt.report.show import population_of, summary_lines
from pbt.report.tables import MemberRow, Population

#: Rows of a table before the rest is only counted.
_ROWS = 200
#: Pixels of a picture in an inch.
_DPI = 110

#: Every picture, and what it shows.
_CAPTIONS = {
    "expected": "How a model expects curves that were stopped to go on, and the best to be with other values.",
    "search": "How far each configuration was trained, where the training went, and the best that came of it.",
    "lineage": "Every member is a row, every arrow weights that were taken over; the ancestry of the best stands out.",
    "scores": "How the scores of the whole population spread at equal age.",
    "curves": "The score of every member over its own training.",
    "density": "Where the population's hyperparameters were at each age.",
    "schedules": "What every member trained with.",
    "parallel": "Hyperparameters and score of every member at its end.",
    "importance": "Which hyperparameters matter for the score, as far as this sweep can tell.",
    "exploits": "Whose weights were taken over by whom, and who descends from them.",
    "timeline": "When each stack trained, and when it was idle.",
    "cost": "Device time, tokens and energy, and the score they bought.",
}


def write_report(run: str | Path | Result, file: str | Path) -> Path:
    """Write a run's report: one HTML file, with everything in it. A run that has not finished has one, too.

    Args:
        run: The run, or its folder.
        file: Where to write it.

    Raises:
        PbtError: matplotlib or plotly is not installed.
        RunNotFound: There is no such run.
        StorageError: The file cannot be written.
    """
    result = run if isinstance(run, Result) else load(run)
    file = Path(file)
    write_atomically(file, "\n".join(_page(result)).encode())
    return file


def _page(result: Result) -> Iterator[str]:
    population, is_begun = population_of(result), len(result.frame) > 0
    name = html.escape(result.run.id)
    yield f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{name}</title>'
    # Nothing is fetched from anywhere, whatever stands in the page. Plotly builds its drawing programs at run time.
    yield (
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data: blob:; '
        "style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'\">"
    )
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{name}</h1>"
    yield _summary(result, population)
    yield from _winner(result, population)
    if is_begun:
        yield from _moving(result)
        yield from _pictures(result)
        yield from _members(result, population)
    yield _again(result)
    yield "</main>\n</body>\n</html>"


def _summary(result: Result, population: Population) -> str:
    lines = summary_lines(result, population)
    rows = "\n".join(
        f"<dt>{html.escape(name.strip()) if not name.endswith(' ') else ''}</dt><dd>{html.escape(words)}</dd>"
        for name, words in lines.items()
    )
    return f"<section>\n<dl>\n{rows}\n</dl>\n</section>"


def _winner(result: Result, population: Population) -> Iterator[str]:
    """The story and the schedule of the best."""
    best = population.best
    if best is None:
        return
    names = list(result.run.info["hparams"])
    what = "The winner" if result.winner is not None else "The best so far"
    yield f"<section>\n<h2>{what}: member {best.member}, {text.score(best.score)}</h2>"
    yield "<h3>What its weights were trained with</h3>"
    rows = [
        (f"{step.age_start:,}", f"{step.age_end:,}", text.trained_by(step), *_values(step.hparams, names))
        for step in result.lineage.schedule(best.member)
    ]
    yield _table(("from age", "to age", "trained by", *names), rows)
    path = result.lineage.ancestors(best.member)
    yield f"<p>Its ancestry: {' &rarr; '.join(_runs(path))}.</p>"
    yield "<h3>Its story</h3>"
    entries = [
        (
            "" if e.generation is None else str(e.generation + 1),
            "" if e.age is None else f"{e.age:,}",
            sentence(e, names),
        )
        for e in result.story(best.member)
    ]
    yield _table(("generation", "age", "what happened"), entries, words={2})
    yield "</section>"


def _runs(path: Sequence[Any]) -> Iterator[str]:
    """The ancestry as `4:0-2`, `3:3`: members with the segments they trained."""
    start = path[0]
    for one, following in zip(path, [*path[1:], None], strict=True):
        if following is None or following.key.member != one.key.member:
            yield tell(start.key) if start is one else f"{tell(start.key)}-{one.key.index}"
            start = following


def _moving(result: Result) -> Iterator[str]:
    """Pictures that can be moved, and the program that moves them; none while there are no scores."""
    if best_member(result) is None:
        return
    yield f"<script>{interactive.library()}</script>"
    yield "<section>\n<h2>To look into</h2>"
    yield "<p>Point at a line to see whose it is; drag to look closer, click twice to go back.</p>"
    yield interactive.as_html(interactive.scores(result), "scores")
    yield "<p>Every line is a member at its end. Drag along an axis to choose, drag its name to move it.</p>"
    yield f'<div class="wide">{interactive.as_html(interactive.parallel(result), "parallel")}</div>'
    yield "</section>"


def _pictures(result: Result) -> Iterator[str]:
    yield "<section>\n<h2>Pictures</h2>"
    for name, draw in figures(result).items():
        data = base64.b64encode(canvas.as_png(draw(), _DPI)).decode()
        yield f'<figure><img alt="{name}" src="data:image/png;base64,{data}">'
        yield f"<figcaption>{_CAPTIONS[name]}</figcaption></figure>"
    yield "</section>"


def _members(result: Result, population: Population) -> Iterator[str]:
    names, rows = list(result.run.info["hparams"]), population.ranked()
    hidden = f" (the best {_ROWS} of {len(rows):,})" if len(rows) > _ROWS else ""
    yield f"<section>\n<h2>Members{hidden}</h2>"
    cells = [_member_cells(row, names, result.status == "running") for row in rows[:_ROWS]]
    headings = ("member", "age", "score", *names, "status", "last exploit", "why")
    yield _table(headings, cells, words={len(headings) - 1})
    yield "</section>"


def _member_cells(row: MemberRow, names: Sequence[str], is_running: bool) -> tuple[str, ...]:
    status = row.status if is_running or row.status != "running" else "stopped"  # nobody trains it now
    values = _values(row.hparams, names)
    return (str(row.member), f"{row.age:,}", text.score(row.score), *values, status, row.last_exploit, row.reason)


def _again(result: Result) -> str:
    """How to get it again: the sweep as a file, and what it must come to."""
    spec = html.escape(dialect.write(without_secrets(result.run.info["spec"])))  # it is to be sent to people
    run = html.escape(result.run.id)
    versions = ", ".join(f"{name} {version}" for name, version in result.run.info.get("versions", {}).items())
    return (
        "<section>\n<h2>How to get it again</h2>\n"
        "<p>Save this as <code>sweep.yaml</code> and run <code>pbt run sweep.yaml</code>. In synchronous mode the same "
        f"versions ({html.escape(versions)}) and the same data make the same decisions: compare the digest above. "
        f"<code>pbt schedule {run} best --json</code> gives the schedule to the last bit, "
        f"<code>pbt why {run} MEMBER</code> the story of any member.</p>\n"
        f"<details><summary>sweep.yaml</summary><pre>{spec}</pre></details>\n</section>"
    )


def _values(hparams: Any, names: Iterable[str]) -> list[str]:
    return [text.hparam(hparams.get(name)) for name in names]


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], words: Iterable[int] = ()) -> str:
    """A table; columns of words are to the left, and may take several lines."""
    looks = ["words" if number in set(words) else "" for number in range(len(headings))]
    head = "".join(f'<th class="{look}">{html.escape(name)}</th>' for name, look in zip(headings, looks, strict=True))
    body = "\n".join(
        "<tr>"
        + "".join(f'<td class="{look}">{html.escape(c)}</td>' for c, look in zip(row, looks, strict=True))
        + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


_STYLE = """
:root { color-scheme: light dark; --ink: #2b2b2b; --soft: #6b6b6b; --page: #ffffff; --line: #e3e3e3; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --soft: #a0a0a0; --page: #16181b; --line: #33373c; } }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1100px; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; } h2 { font-size: 1.2rem; margin-top: 2.2rem; } h3 { font-size: 1rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.1rem 1.2rem; }
dt, figcaption { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: normal; }
th, td { text-align: right; padding: 0.15rem 0.7rem; white-space: nowrap; }
thead th { border-bottom: 1px solid var(--line); } tbody tr:hover { background: var(--line); }
.words { text-align: left; white-space: normal; }
figure { margin: 1.6rem 0; break-inside: avoid; } figcaption { font-size: 13px; }
img { max-width: 100%; height: auto; background: white; border-radius: 6px; }
pre { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; padding: 0.8rem; font-size: 13px; }
.js-plotly-plot text { fill: var(--ink) !important; text-shadow: none !important; }
@media print { main { max-width: none; padding: 0; } .wide { overflow: visible; } table { font-size: 10px; } }
"""
