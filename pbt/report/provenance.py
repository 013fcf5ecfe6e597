"""Where weights came from and why: the verbs `lineage`, `why`, `ancestors`, `descendants`, `schedule` and `diff`.

Each is a function that prints and one that gives the same facts as JSON. Generations are counted from 1 where people
read, and from 0 in JSON, as in the ledger.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import pyarrow as pa
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pbt.lineage import Line, Lineage, MemberNotFound, Reference, Segment, Stretch, parse, tell
from pbt.member import Hparams, SegmentKey
from pbt.record.provenance import JSON_COLUMNS, differing_names, score_at
from pbt.record.result import Result
from pbt.record.story import Entry
from pbt.report import forest, text
from pbt.report.console import is_within
from pbt.report.plots.subject import best_member
from pbt.report.sentences import both, changed, sentence, values
from pbt.report.tables import changes

#: Lines of a forest before the rest is only counted.
_LINES = 40
#: Columns that guides have in any case.
_GUIDES = 6
#: Roots named in a sentence before the rest is only counted.
_ROOTS = 6

#: A row of a table: its first cells, and the hyperparameters that follow them.
_Row: TypeAlias = tuple[Sequence[str], Hparams]


def named(result: Result, name: str) -> Reference:
    """A member as people name it: `3`, `3:5`, or `best`, which is the winner, or the best so far.

    Raises:
        MemberNotFound: `best`, and nobody has a score.
    """
    if name != "best":
        return name
    best = best_member(result)
    if best is None:
        raise MemberNotFound("MEMBER: no member has a score, so none is best. Write a number (3).")
    return best


def _sign(result: Result) -> int:
    """What makes small scores good."""
    return 1 if result.run.info["objective"]["mode"] == "min" else -1


# ------------------------------------------------------------------------------------------------------- lineage


def show_lineage(
    result: Result, console: Console | None = None, *, member: Reference | None = None, everything: bool = False
) -> None:
    """Print who descended from whom.

    Args:
        result: The run.
        console: Where to print; None prints to standard output.
        member: Only this member's ancestors and descendants.
        everything: All lines, however many.

    Raises:
        MemberNotFound: There is no such member or segment.
    """
    console, lineage = console or Console(), result.lineage
    segments = None if member is None else _relatives(lineage, member)
    _say(console, _headline(result), "bold")
    _say(console, _founders(lineage))
    if lineage.segments:
        _show_forest(console, result, lineage.lines(segments), everything)


def lineage_json(result: Result, member: Reference | None = None) -> str:
    """All lines of descent, and the roots of what is living.

    Raises:
        MemberNotFound: There is no such member or segment.
    """
    lineage = result.lineage
    lines = lineage.lines(None if member is None else _relatives(lineage, member))
    facts = {
        "run": result.run.id,
        "status": result.status,
        "members": len(lineage.members),
        "segments": len(lineage.segments),
        "copies": len(lineage.exploits()),
        "best": best_member(result),
        "roots": [{"root": tell(root), "members": members} for root, members in _living_by_root(lineage)],
        "lines": [_line_facts(lineage, line) for line in lines],
    }
    return _strict(facts)


def _relatives(lineage: Lineage, member: Reference) -> list[Segment]:
    """The segments that a member's weights, then and now, came from and went into."""
    found = {segment.key: segment for segment in lineage.descendants(member)}
    for segment in lineage.meant(member):
        found |= {ancestor.key: ancestor for ancestor in lineage.path(segment.key)}
    return list(found.values())


def _line_facts(lineage: Lineage, line: Line) -> dict[str, Any]:
    first, last = line.first, line.last
    fate = lineage.fate(last.key)
    return {
        "member": first.key.member,
        "segments": [first.key.index, last.key.index],
        "generations": [first.generation, last.generation],
        "start": first.start,
        "parent": None if first.parent is None else tell(first.parent),
        "age": [first.age[0], last.age[1]],
        "score": _score(line),
        "fate": fate,
        "living": fate == "held",
    }


def _headline(result: Result) -> str:
    lineage = result.lineage
    copies = len(lineage.exploits())
    counts = (
        text.count(len(lineage.members), "member"),
        text.count(len(lineage.segments), "segment"),
        f"{copies:,} {'copy' if copies == 1 else 'copies'}",
    )
    return f"{result.run.id}, {result.status}: {', '.join(counts)}"


def _living_by_root(lineage: Lineage) -> list[tuple[SegmentKey, list[int]]]:
    """Roots of the weights that living members hold; those with most members first."""
    found: dict[SegmentKey, list[int]] = defaultdict(list)
    for member in lineage.members:
        if lineage.is_living(member):
            found[lineage.ancestors(member)[0].key].append(member)
    return sorted(found.items(), key=lambda entry: (-len(entry[1]), entry[0]))


def _founders(lineage: Lineage) -> str:
    """From how few beginnings all that is living descends."""
    if not lineage.segments:
        return "Nothing has been trained yet."
    roots = _living_by_root(lineage)
    living = sum(len(members) for _, members in roots)
    begun = sum(segment.start == "fresh" for segment in lineage.segments.values())
    listed = ", ".join(f"{tell(root)} ({len(members):,})" for root, members in roots[:_ROOTS])
    more = f" and {len(roots) - _ROOTS:,} more" if len(roots) > _ROOTS else ""
    said = f"{text.count(living, 'living member')} from {len(roots):,} of {text.count(begun, 'fresh start')}"
    return f"{said}: {listed}{more}" if roots else "no member is living"


def _show_forest(console: Console, result: Result, lines: Sequence[Line], everything: bool) -> None:
    best = best_member(result)
    ranked = sorted(lines, key=_interest(result, best))
    style = forest.ASCII if console.options.ascii_only else forest.UNICODE
    branches = forest.forest(ranked, None if everything else _LINES, console.width, style)
    console.print()
    console.print(_forest_table(console, result, branches, best, style))
    if hidden := len(lines) - len(branches):
        _say(console, f"{text.count(hidden, 'line')} not shown, (+n) where they belong; --all shows them", "dim")


def _interest(result: Result, best: int | None) -> Callable[[Line], tuple[Any, ...]]:
    """Sorts lines: the best member's, then the living by score, then those that ended, the newest first."""
    lineage, sign = result.lineage, _sign(result)

    def key(line: Line) -> tuple[Any, ...]:
        score, last = _score(line), line.last
        if lineage.fate(last.key) != "held":
            return 2, -last.generation, last.key
        is_scored = score is not None and math.isfinite(score)
        return (
            int(last.key.member != best),
            0 if is_scored else 1,
            sign * (score or 0.0) if is_scored else 0.0,
            last.key,
        )

    return key


def _score(line: Line) -> float | None:
    """The last score of a line."""
    return next((segment.score for segment in reversed(line.segments) if segment.score is not None), None)


def _forest_table(
    console: Console, result: Result, branches: Sequence[forest.Branch], best: int | None, style: forest.Style
) -> Table:
    fates = [_fate(result, branch.line.last, best) for branch in branches]
    rows = [(*_line_cells(branch), fate) for branch, (fate, _) in zip(branches, fates, strict=True)]
    # Guides get what the longest of everything else leaves.
    widest = _new_forest_table()
    _add(widest, *(max(column, key=len) for column in zip(*rows, strict=True)))
    room = max(
        _GUIDES, console.width - console.measure(widest, options=console.options.update(max_width=10_000)).maximum
    )
    table = _new_forest_table()
    for branch, (name, *cells), (_, look) in zip(branches, rows, fates, strict=True):
        _add(table, forest.cut(branch.guides, room, style) + name, *cells, style=look)
    return table


def _new_forest_table() -> Table:
    return _table("line of descent", "from", "gens", "age", "score", "now", left=("line of descent", "now"))


def _line_cells(branch: forest.Branch) -> Sequence[str]:
    first, last = branch.line.first, branch.line.last
    return (
        f"member {first.key.member}" + (f" (+{branch.hidden:,})" if branch.hidden else ""),
        "fresh" if first.parent is None else tell(first.parent),
        _span(first.generation + 1, last.generation + 1),
        _span(first.age[0], _so_far(last.age)),
        text.score(_score(branch.line)),
    )


def _fate(result: Result, last: Segment, best: int | None) -> tuple[str, str]:
    """What became of a line, and how that looks."""
    fate = result.lineage.fate(last.key)
    if fate != "held":
        return fate, "red" if fate == "failed" else "dim"
    if last.key.member == best:
        return "winner" if result.winner == best else "best", "bold green"
    return ("living" if last.status == "ended" else _status(result, last)), ""


def _status(result: Result, segment: Segment) -> str:
    """How a segment stands; where nobody trains, what was under way was stopped, or lost."""
    is_trained = segment.status != "running" or result.status == "running"
    return segment.status if is_trained else "stopped"


# ----------------------------------------------------------------------------------------------------------- why


def show_why(result: Result, member: Reference, console: Console | None = None, *, times: bool = False) -> None:
    """Print the story of a member's decisions.

    Args:
        result: The run.
        member: A member, or one of its segments.
        console: Where to print; None prints to standard output.
        times: Also when each was recorded.

    Raises:
        MemberNotFound: There is no such member or segment.
    """
    console, entries, names = console or Console(), result.story(member), _names(result)
    _say(console, _about(result, member), "bold")
    table = _table("gen", "age", "steps run", *(["UTC"] if times else []))
    table.add_column("what happened", ratio=1)
    for entry in entries:
        generation = "" if entry.generation is None else str(entry.generation + 1)
        cells = [generation, _whole(entry.age), _whole(entry.consumed), *([_told_at(entry)] if times else [])]
        _add(table, *cells, sentence(entry, names), style=_STYLES.get(entry.kind, ""))
    console.print()
    console.print(table)


def why_json(result: Result, member: Reference) -> str:
    """The story of a member's decisions: a list.

    Raises:
        MemberNotFound: There is no such member or segment.
    """
    entries, names = result.story(member), _names(result)
    rows = zip(_records(result.why(member)), entries, strict=True)
    return _strict([row | {"text": sentence(entry, names)} for row, entry in rows])


_STYLES = {
    "failed": "red",
    "incident": "yellow",
    "damaged": "yellow",
    "copy": "bold",
    "restart": "bold",
    "shrink": "bold",
    "won": "green",
}


def _about(result: Result, member: Reference) -> str:
    """A member, or one of its segments, in a line."""
    lineage = result.lineage
    segment = lineage.find(member)
    who, what = segment.key.member, f"{_who(lineage, member)} of {result.run.id}"
    if parse(member)[1] is not None:
        return f"{what}, generation {segment.generation + 1}: {_status(result, segment)}"
    fate = "the winner" if result.winner == who else "living" if lineage.is_living(who) else "failed"
    metric = result.run.info["objective"]["metric"]
    return f"{what}: {fate}, last {metric} {text.score(lineage.last(who).score)}"


# --------------------------------------------------------------------------------------- ancestors and descendants


def show_ancestors(result: Result, member: Reference, console: Console | None = None) -> None:
    """Print the segments that made a member's weights, root first.

    Raises:
        MemberNotFound: There is no such member or segment.
    """
    console, path = console or Console(), result.lineage.ancestors(member)
    through = [str(who) for who, _ in itertools.groupby(segment.key.member for segment in path)]
    what = _who(result.lineage, member)
    _say(console, f"ancestors of {what}: {text.count(len(path), 'segment')}, members {' -> '.join(through)}", "bold")
    headings = ("segment", "gen", "from age", "to age", "start", "score")
    console.print()
    rows: list[_Row] = [(_cells(result, one), one.hparams) for one in path]
    console.print(_hparam_table(console, headings, rows, _names(result)))


def _cells(result: Result, segment: Segment) -> Sequence[str]:
    now = "now" if _status(result, segment) == "running" else "-"
    is_copy = segment.start == "copied" and segment.parent is not None
    return (
        tell(segment.key),
        str(segment.generation + 1),
        f"{segment.age[0]:,}",
        now if segment.age[1] is None else f"{segment.age[1]:,}",
        f"copy of {tell(segment.parent)}" if is_copy and segment.parent else segment.start,
        text.score(segment.score),
    )


def show_descendants(
    result: Result, member: Reference, console: Console | None = None, *, everything: bool = False
) -> None:
    """Print the lines whose weights came from a member, its own included.

    Args:
        result: The run.
        member: A member, or one of its segments.
        console: Where to print; None prints to standard output.
        everything: All lines, however many.

    Raises:
        MemberNotFound: There is no such member or segment.
    """
    console, lineage = console or Console(), result.lineage
    found, what = lineage.descendants(member), _who(lineage, member)
    living = sorted(segment.key.member for segment in found if lineage.fate(segment.key) == "held")
    holders = f"{text.count(len(living), 'living member')} {_listed(living)}" if living else "no living member"
    _say(console, f"descendants of {what}: {text.count(len(found), 'segment')}; held now by {holders}", "bold")
    _show_forest(console, result, lineage.lines(found), everything)


def segments_json(table: pa.Table) -> str:
    """Ancestors or descendants: a list of segments."""
    return _strict(_records(table))


# ------------------------------------------------------------------------------------------------------ schedule


def show_schedule(result: Result, member: Reference, console: Console | None = None) -> None:
    """Print the hyperparameters a member's weights were trained with.

    Raises:
        MemberNotFound: There is no such member or segment.
    """
    console, steps = console or Console(), result.lineage.schedule(member)
    _say(console, f"schedule of {_who(result.lineage, member)}: what its weights were trained with", "bold")
    rows: list[_Row] = [
        ((f"{step.age_start:,}", f"{step.age_end:,}", text.trained_by(step)), step.hparams) for step in steps
    ]
    console.print()
    console.print(_hparam_table(console, ("from age", "to age", "trained by"), rows, _names(result)))


def schedule_json(result: Result, member: Reference) -> str:
    """What can be replayed: a list of `age_start`, `age_end`, `member` and `hparams`, from age 0 on.

    Where weights were shrunk and perturbed at the start of a stretch, `keep` and `noise` say how.

    Raises:
        MemberNotFound: There is no such member or segment.
    """
    rows = _records(result.schedule(member))
    return _strict([{name: value for name, value in row.items() if value is not None} for row in rows])


# ---------------------------------------------------------------------------------------------------------- diff


def show_diff(result: Result, a: Reference, b: Reference, console: Console | None = None) -> None:
    """Print how two members' weights and hyperparameters differ, and since when.

    Raises:
        MemberNotFound: There is no such member or segment.
    """
    console, lineage = console or Console(), result.lineage
    _say(console, _parted(lineage, a, b), "bold")
    console.print()
    console.print(_now_table(result, a, b))
    if rest := [stretch for stretch in lineage.compare(a, b) if not stretch.is_shared]:
        console.print()
        console.print(_stretch_table([_who(lineage, a), _who(lineage, b)], rest))


def diff_json(result: Result, a: Reference, b: Reference) -> str:
    """Two members now, where they parted, and all stretches of age.

    Raises:
        MemberNotFound: There is no such member or segment.
    """
    lineage = result.lineage
    one, other, common = lineage.find(a), lineage.find(b), lineage.common(a, b)
    names = differing_names(one.hparams, other.hparams)
    facts = {
        "a": _now_facts(lineage, one),
        "b": _now_facts(lineage, other),
        "common": None if common is None else tell(common.key),
        "parted_at": 0 if common is None else common.age[1],
        "hparams": {name: [one.hparams.get(name), other.hparams.get(name)] for name in names},
        "stretches": _records(result.diff(a, b)),
    }
    return _strict(facts)


def _now_facts(lineage: Lineage, segment: Segment) -> dict[str, Any]:
    """A segment as it is now; the score is the last that its weights, or those they came from, were given."""
    path = reversed(lineage.path(segment.key))
    return {
        "member": segment.key.member,
        "segment": segment.key.index,
        "status": segment.status,
        "age": _so_far(segment.age),
        "consumed": _so_far(segment.consumed),
        "score": next((one.score for one in path if one.score is not None), None),
        "hparams": segment.hparams,
    }


def _parted(lineage: Lineage, a: Reference, b: Reference) -> str:
    one, other, common = lineage.find(a), lineage.find(b), lineage.common(a, b)
    names = _who(lineage, a), _who(lineage, b)
    if common is None:
        return f"{names[0]} and {names[1]} have no common ancestor"
    if one == other:
        return f"{names[0]} and {names[1]} are the same"
    age = f"age {_so_far(common.age):,}"
    if common in (one, other):
        old, new = names if common == one else names[::-1]
        return f"{new} descends from {old}, which ends at {age}, with generation {common.generation + 1}"
    begun = _first_apart(lineage, a, b, common)
    return f"{names[0]} and {names[1]} parted at {age}, {begun}: up to {tell(common.key)} they are one and the same"


def _first_apart(lineage: Lineage, a: Reference, b: Reference, common: Segment) -> str:
    """Which generation began on weights that had been one and the same: that of the copy, as everywhere."""
    paths = [lineage.ancestors(reference) for reference in (a, b)]
    children = [path[path.index(common) + 1] for path in paths]
    copies = [child for child in children if child.start == "copied"] or children
    return f"as generation {1 + min(child.generation for child in copies)} began"


def _now_table(result: Result, a: Reference, b: Reference) -> Table:
    lineage = result.lineage
    table = _table("", left=("",))
    for reference in (a, b):
        table.add_column(Text(_who(lineage, reference)), justify="right", overflow="fold")  # what is compared is whole
    one, other = _now_facts(lineage, lineage.find(a)), _now_facts(lineage, lineage.find(b))
    _add(table, "status", *(_status(result, lineage.find(reference)) for reference in (a, b)))
    _add(table, "age", f"{one['age']:,}", f"{other['age']:,}")
    _add(table, "steps run", f"{one['consumed']:,}", f"{other['consumed']:,}")
    _add(table, "score", text.score(one["score"]), text.score(other["score"]))
    for name, pair in changes(one["hparams"], other["hparams"]).items():
        _add(table, name, *both(*pair))
    return table


def _stretch_table(names: Sequence[str], stretches: Sequence[Stretch]) -> Table:
    table = _table("age", *names)
    table.add_column("differ in", ratio=1)
    before = ""
    for stretch in stretches:
        a, b = stretch.a, stretch.b
        sides = ["" if s is None else f"{tell(s.key)}  {text.score(score_at(s, stretch.age_end))}" for s in (a, b)]
        differs = changed(a.hparams, b.hparams, " | ") if a and b else ""
        said = "as above" if differs and differs == before else differs
        _add(table, _span(stretch.age_start, stretch.age_end), *sides, said)
        before = differs
    return table


def _so_far(counter: tuple[int, int | None]) -> int:
    return counter[0] if counter[1] is None else counter[1]


# -------------------------------------------------------------------------------------------------------- layout


def _hparam_table(console: Console, headings: Sequence[str], rows: Sequence[_Row], names: Sequence[str]) -> Table:
    """One column for each hyperparameter if there is room, else one for all that changed from row to row."""
    table = _table(*headings, *names)
    for cells, hparams in rows:
        _add(table, *cells, *(text.hparam(hparams.get(name)) for name in names))
    if is_within(console, table):
        return table
    table = _table(*headings)
    table.add_column("hyperparameters", ratio=1)
    before: Hparams | None = None
    for cells, hparams in rows:
        said = values(hparams, names) if before is None else changed(before, hparams)
        _add(table, *cells, said)
        before = hparams
    return table


def _table(*headings: str, left: Sequence[str] = ()) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in headings:
        table.add_column(Text(heading), justify="left" if heading in left else "right", no_wrap=True)
    return table


def _add(table: Table, *cells: str, style: str = "") -> None:
    """A row, letter by letter: brackets in names and reasons are no markup."""
    table.add_row(*(Text(cell) for cell in cells), style=style)


def _say(console: Console, line: str, style: str = "") -> None:
    console.print(Text(line, style=style), soft_wrap=True)


def _names(result: Result) -> list[str]:
    """Hyperparameters that vary, in the order of the sweep."""
    return list(result.run.info["hparams"])


def _who(lineage: Lineage, reference: Reference) -> str:
    """`member 3`, or `segment 3:5`."""
    key = lineage.find(reference).key
    return f"member {key.member}" if parse(reference)[1] is None else f"segment {tell(key)}"


def _listed(members: Sequence[int]) -> str:
    """`0, 3, 5`, the first dozen."""
    more = f" and {len(members) - 12:,} more" if len(members) > 12 else ""
    return ", ".join(map(str, members[:12])) + more


def _span(first: int, last: int) -> str:
    return f"{first:,}" if first == last else f"{first:,}-{last:,}"


def _whole(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _told_at(entry: Entry) -> str:
    """When it was recorded; what is under way goes on now, unless nobody trains it."""
    if entry.at is None:
        return "" if entry.detail == "stopped" else "now"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(entry.at))


# ---------------------------------------------------------------------------------------------------------- JSON


def _records(table: pa.Table) -> list[dict[str, Any]]:
    """Rows as JSON has them: hyperparameters as objects, times as text, no column twice."""
    kept = table.select([name for name in table.column_names if not name.startswith("hparams/")])
    return [{name: _opened(name, value) for name, value in row.items()} for row in kept.to_pylist()]


def _opened(name: str, value: Any) -> Any:
    if name in JSON_COLUMNS and value is not None:
        return json.loads(value)
    return value.isoformat() if name == "at" and value is not None else value


def _strict(facts: Any) -> str:
    return json.dumps(_without_nan(facts), indent=1)


def _without_nan(value: Any) -> Any:
    """The value as strict JSON has it: no NaN, no infinity."""
    if isinstance(value, Mapping):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
