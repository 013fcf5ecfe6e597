"""What a run found: as tables for a terminal, or the same facts as JSON."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pbt.errors import LedgerError
from pbt.lineage import ScheduleStep, tell
from pbt.member import Hparams
from pbt.record.frame import seconds
from pbt.record.result import Result
from pbt.record.runs import Run
from pbt.record.schema import to_rows
from pbt.record.story import is_routine
from pbt.report import text
from pbt.report.console import fitting_table, is_within
from pbt.report.nodes import node_facts, node_lines
from pbt.report.tables import ExploitRow, Population, exploit_rows, generation_facts
from pbt.report.throughput import RATES, together
from searchspaces import Float

#: Rows of a table before the rest is only counted; the JSON has them all.
_ROWS = 32
#: Segments and members to name in a line before the rest is only counted.
_NAMED = 8
#: Incidents to show, the latest.
_INCIDENTS = 8
#: Who is nearer to a bound, as a share of what lies between both, is at the edge.
_EDGE = 0.02

_LIMITS = {"tokens": "tokens", "wall_minutes": "minutes", "gpu_hours": "GPU hours", "joules": "joules"}


def summary_lines(result: Result, population: Population) -> dict[str, str]:
    """The summary, line by line; a name that ends in spaces goes on from the line above."""
    return _summary_lines(_summary(result, population))


def show(result: Result, console: Console | None = None, *, brief: bool = False) -> None:
    """Print what a run found: its summary, members, the winner's schedule, exploits and files.

    Args:
        result: The run.
        console: Where to print; None prints to standard output.
        brief: Leave out the members and the exploits: the live table has just shown them.
    """
    console = console or Console()
    population, info = population_of(result), result.run.info
    best = population.best
    console.print(_summary_table(_summary(result, population)))
    if not brief:
        _show_members(console, population, list(info["hparams"]), result.status == "running")
    if best:
        steps = result.lineage.schedule(best.member)
        _heading(console, f"Schedule of member {best.member}: what its weights were trained with", len(steps))
        console.print(_schedule_table(steps[-_ROWS:], list(info["hparams"])))
    if not brief and (exploits := exploit_rows(result.lineage, result.rows["decisions"])):
        _heading(console, "Exploits", len(exploits))
        console.print(_exploit_table(console, exploits[-_ROWS:], list(info["hparams"])))
    _heading(console, "Files")
    for file in _files(result.path):
        console.print(Text(f"{file['path']}  {text.size(file['bytes'])}"), soft_wrap=True)
    _show_page(console, result.path)


def _show_members(console: Console, population: Population, hparams: Sequence[str], is_running: bool) -> None:
    members, best = population.ranked(), population.best
    if not is_running:  # nobody trains: what was under way was stopped, or lost
        members = [replace(row, status="stopped") if row.status == "running" else row for row in members]
    _heading(console, "Members", len(members))
    table, left_out = fitting_table(console, members[:_ROWS], hparams, best.member if best else None)
    console.print(table)
    if left_out:
        console.print(Text(f"not shown: {', '.join(left_out)}", style="dim"), soft_wrap=True)


def _show_page(console: Console, run: Path) -> None:
    """How to open the run in MLflow, if it was mirrored there; and whether all of it arrived."""
    if (page := _page(run)) is None:
        return
    _heading(console, "In MLflow")
    if page["command"]:
        console.print(Text(page["command"]), soft_wrap=True)
    console.print(Text(page["url"]), soft_wrap=True)
    if page.get("error"):
        told = (
            f"Not all of the run is there: MLflow was behind at its end ({page['error']}). `pbt sync {run}` brings it."
        )
        console.print(Text(told, style="yellow"), soft_wrap=True)


def _page(run: Path) -> dict[str, Any] | None:
    try:
        page: dict[str, Any] = json.loads((run / "mlflow.json").read_bytes())
    except OSError:
        return None
    return page


def as_json(result: Result) -> str:
    """The same facts as `show`, all of them, as JSON. A score that is not a number is null."""
    population, lineage = population_of(result), result.lineage
    best = population.best
    facts = {
        "summary": _summary(result, population),
        "members": [asdict(row) for row in population.ranked()],
        "schedule": [asdict(step) for step in lineage.schedule(best.member)] if best else [],
        "generations": [] if population.target_steps else [generation_facts(row) for row in population.ended()],
        "exploits": [asdict(row) for row in exploit_rows(lineage, result.rows["decisions"])],
        "files": _files(result.path),
        "mlflow": _page(result.path),
    }
    return json.dumps(without_nan(facts), indent=1)


def show_list(runs: Sequence[Run], storage: Path, *, as_json: bool = False, console: Console | None = None) -> None:
    """Print the runs of a storage folder, in the order given."""
    console = console or Console()
    rows = [_listed(run) for run in runs]
    if as_json:
        console.print(Text(json.dumps(without_nan(rows), indent=1)), soft_wrap=True)
    elif not rows:
        console.print(
            Text(f"There are no runs in {storage}. Start one with `pbt demo`, or name their folder with --storage."),
            soft_wrap=True,
        )
    else:
        table = _table("run", "status", "population", "best score", "member")
        for row in rows:
            best = (text.score(row["score"]), "-" if row["best"] is None else str(row["best"]))
            status = row["status"].split(":")[0]  # the JSON says why
            table.add_row(row["run"], status, row["population"], *best)
        console.print(table)


def population_of(result: Result) -> Population:
    """All that a run's ledger says, taken in."""
    population = Population(result.run.info)
    rows: dict[str, list[dict[str, Any]]] = {name: result.rows[name] for name in result.tables if name != "metrics"}
    rows["metrics"] = to_rows(_latest_metrics(result))
    population.apply((table, row) for table in rows for row in rows[table])
    return population


def _latest_metrics(result: Result) -> pa.Table:
    """The metrics without those that no table tells, which are nearly all.

    Told are how fast stacks train, the system's last words on each member, and how far its newest segment is; and a
    session's last metric may be its last row.
    """
    metrics, frame = result.tables["metrics"], result.frame
    metrics = metrics.append_column("row", pa.array(np.arange(metrics.num_rows)))
    of_system = metrics.filter(pc.equal(metrics["split"], "system"))
    is_rate = pc.is_in(of_system["name"], pa.array(RATES))
    last = of_system.group_by(["member", "name"]).aggregate([("row", "max")])["row_max"]
    entry = frame.find(np.asarray(metrics["member"], dtype=np.int64), np.asarray(metrics["segment"], dtype=np.int64))
    newest = np.flatnonzero((entry >= 0) & frame.is_last[entry]) if len(frame) else np.empty(0, dtype=np.int64)
    at = seconds(metrics)
    begun = [*seconds(result.tables["sessions"]), np.inf]
    ends = [np.argmax(np.where(at < moment, at, -np.inf)) for moment in begun if len(at)]
    kept = [np.asarray(rows, dtype=np.int64) for rows in (of_system.filter(is_rate)["row"], last, newest, ends)]
    return metrics.drop_columns(["row"]).take(np.unique(np.concatenate(kept)))


# --------------------------------------------------------------------------------------------------------- facts


def _summary(result: Result, population: Population) -> dict[str, Any]:
    info, best = result.run.info, population.best
    budget, objective = info["spec"]["budget"], info["objective"]
    members = [population.row(member) for member in result.lineage.members]
    return {
        "run": info["run_id"],
        "status": result.status,
        "reason": result.reason,
        "ended_early": population.budget_end or "",
        "end": (population.finish or {}).get("reason") or "",
        "created": info["created"],
        "seconds": population.elapsed,
        "trainable": info["spec"]["trainable"]["name"],
        "strategy": info["spec"]["strategy"]["name"],
        "synchronous": info["spec"]["strategy"].get("options", {}).get("synchronous", True),
        "objective": dict(objective) | {"unit": info["metrics"].get(objective["metric"], {}).get("unit", "")},
        "budget": dict(budget),
        "best_member": best.member if best else None,
        "best_score": best.score if best else None,
        "best_metrics": result.last_metrics(best.member) if best else {},
        "member_steps": sum(row.consumed for row in members),
        "counted_steps": population.used,
        "tokens": sum(row["tokens"] or 0 for row in result.rows["outcomes"]),
        "system": _system(result, population),
        "nodes": node_facts(result.rows["nodes"]),
        "place": _place(result.rows["stacks"]),
        "plans": _plans(result.rows["decisions"]),
        "search": _search(population, info),
        "at_edge": [] if best is None else _at_edge(info["hparams"], best.hparams),
        "exploits": population.num_exploits,
        "declined": population.num_declined,
        "diverged": {
            "segments": [tell(key) for key in population.diverged],
            "members": [row.member for row in members if row.status == "diverged"],
        },
        "failures": {str(member): row.get("reason") or "" for member, row in population.failures.items()},
        "sessions": [_session(row) for row in result.rows["sessions"]],
        "incidents": [{name: row.get(name) for name in _INCIDENT} for row in result.rows["incidents"]],
        "digest": result.digest(),
    }


def _place(stacks: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Where the sweep was trained last, and with which arithmetic."""
    return {name: stacks[-1].get(name) or "" for name in ("device", "dtype", "compile")} if stacks else {}


def _plans(decisions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How stacks run, where that was measured: those that are alike together."""
    found: dict[str, dict[str, Any]] = {}
    for row in decisions:
        if row["kind"] == "plan":
            words, data = row["reason"].partition(": ")[2], json.loads(row["data"])
            found.setdefault(words, {"words": words, "plan": data["plan"], "stacks": []})["stacks"].append(
                data["stack"]
            )
    return list(found.values())


def _search(population: Population, info: Mapping[str, Any]) -> dict[str, int] | None:
    """Of a search: what was begun, trained to the end, and known beforehand; None of any other sweep."""
    if population.target_steps is None:
        return None
    known = len(info["spec"]["strategy"].get("options", {}).get("earlier") or ())
    begun, complete = population.num_begun, population.num_complete
    return {"begun": begun, "complete": complete, "steps": population.target_steps, "earlier": known}


def _at_edge(space: Mapping[str, Any], hparams: Hparams) -> list[str]:
    """Hyperparameters whose bounds may have been too narrow: on a log scale no bound is a natural one."""
    logs = {name: it for name, it in space.items() if it["type"] == "float" and it.get("log") and name in hparams}
    places = {name: Float(it["low"], it["high"], log=True).encode(hparams[name])[0] for name, it in logs.items()}
    return [name for name, place in places.items() if not _EDGE < place < 1 - _EDGE]


def _system(result: Result, population: Population) -> dict[str, Any]:
    """Speed, memory and energy: null where they are not known."""
    stacks, at_once = population.throughput.typical(), population.throughput.at_once()
    rate = together(stacks, at_once)
    used = {row["session"]: row.get("joules") for row in result.rows["usage"]}  # the last row of a session counts
    flops = [row.get("flops") for row in result.rows["outcomes"]]
    measured = [population.row(member).system for member in result.lineage.members]

    def highest(name: str) -> float | None:
        return max((system[name] for system in measured if name in system), default=None)

    return {
        "device": result.run.info.get("device", "cpu"),
        "tokens_per_s": rate.tokens_per_s if rate else None,
        "mfu": rate.mfu if rate else None,
        "stacks": [{"stack": stack, **asdict(each)} for stack, each in stacks.items()],
        "stacks_at_once": at_once,
        "flops": None if None in flops else sum(flops),
        "member_bytes": highest("memory_bytes"),
        "peak_memory_bytes": highest("peak_memory_bytes"),
        "joules": None if not used or None in used.values() else sum(used.values()),
    }


_INCIDENT = ("at", "kind", "member", "segment", "stack", "message")


def _session(row: Mapping[str, Any]) -> dict[str, Any]:
    """When and why the sweep was taken up, and with what."""
    facts = {name: json.loads(row[name] or "{}") for name in ("software", "hardware")}
    spec = json.loads(row.get("spec") or "{}")
    ranks = spec.get("hosts", {}).get("ranks", 1)
    return {"at": row["at"], "reason": row["reason"], "git_commit": row.get("git_commit"), "ranks": ranks, **facts}


def _files(run: Path) -> list[dict[str, Any]]:
    """What lies in the run's folder: files, and folders with all that is in them."""
    found = []
    for path in sorted(run.iterdir()):
        inside = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        found.append({"path": str(path), "bytes": sum(file.stat().st_size for file in inside)})
    return found


def _listed(run: Run) -> dict[str, Any]:
    budget = run.info["spec"]["budget"]
    row = {
        "run": run.id,
        "created": run.info["created"],
        "status": "empty",
        "population": f"{budget['members']} x {budget['generations']} x {budget['steps']}",
        "best": None,
        "score": None,
    }
    try:
        result = Result(run)
        best = population_of(result).best
    except LedgerError as error:
        return row if not (run.path / "ledger").exists() else row | {"status": f"unreadable: {error}"}
    row["status"] = result.status
    return row | ({"best": best.member, "score": best.score} if best else {})


def without_nan(value: Any) -> Any:
    """The value as strict JSON has it: no NaN, no infinity."""
    if isinstance(value, Mapping):
        return {str(key): without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# -------------------------------------------------------------------------------------------------------- tables


def _summary_table(facts: Mapping[str, Any]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")  # names of files whole
    for name, words in _summary_lines(facts).items():
        grid.add_row("" if name.endswith(" ") else name, Text(words, style="bold green" if name == "best" else ""))
    return grid


def _used(facts: Mapping[str, Any]) -> str:
    """How much was trained, and what that counts where smaller models are tried first."""
    trained, counted = facts["member_steps"], facts["counted_steps"]
    weighed = "" if math.isclose(trained, counted) else f" that count as {counted:,.0f} of the wanted model"
    return f"{trained:,} member-steps{weighed}"


def _summary_lines(facts: Mapping[str, Any]) -> dict[str, str]:
    objective, budget = facts["objective"], facts["budget"]
    direction = "lower" if objective["mode"] == "min" else "higher"
    unit = f" [{objective['unit']}]" if objective["unit"] else ""
    lines = {
        "run": f"{facts['run']}, {facts['status']}",
        "started": f"{_when(facts['created'])} UTC, took {text.duration(facts['seconds'])}",
        "trained": f"{facts['trainable']} under {facts['strategy']}{'' if facts['synchronous'] else ', asynchronous'}",
        "objective": f"{objective['split']} {objective['metric']}{unit}, {direction} is better",
        "budget": " x ".join(text.count(budget[f"{noun}s"], noun) for noun in ("member", "generation", "step"))
        + "".join(f", at most {budget[name]:g} {words}" for name, words in _LIMITS.items() if budget.get(name)),
        "used": f"{_used(facts)}, {facts['tokens']:,} tokens",
        "best": "no member has a score",
    }
    if facts["best_member"] is not None:
        test = facts["best_metrics"].get(f"test/{objective['metric']}")
        ahead = "" if facts["status"] == "finished" else " so far"
        lines["best"] = f"member {facts['best_member']}{ahead}, {objective['split']} {text.score(facts['best_score'])}"
        lines["best"] += "" if test is None else f", test {text.score(test)}"
    if facts["at_edge"]:
        names = ", ".join(facts["at_edge"])
        lines["edge"] = f"of the space, for {names}: beyond it may be better; pbt extend --space takes a wider one"
    lines |= _system_lines(facts["system"]) | node_lines(facts["nodes"])
    if place := facts["place"]:
        lines["place"] = f"{place['device']}, {place['dtype']}, compile {place['compile']}"
        ranks = [ranks for ranks, _ in itertools.groupby(session["ranks"] for session in facts["sessions"])]
        if any(number > 1 for number in ranks):
            lines["place"] += f", {', then '.join(map(str, ranks))} processes share a member"
    for number, plan in enumerate(facts["plans"]):
        stacks = f"stack{'s' if len(plan['stacks']) > 1 else ''} {', '.join(map(str, plan['stacks']))}"
        lines["plan" + " " * number] = f"{stacks}: {plan['words']}"
    if search := facts["search"]:
        complete = f"{search['complete']} of them trained to the end, which is {text.count(search['steps'], 'step')}"
        known = f"; {text.count(search['earlier'], 'earlier run')} known" if search["earlier"] else ""
        lines["tried"] = f"{text.count(search['begun'], 'configuration')}, {complete}{known}"
    else:
        kept = f", {facts['declined']} considered and kept" if facts["declined"] else ""
        lines["exploits"] = f"{facts['exploits']}{kept}"
    lines |= _session_lines(facts["sessions"])
    if facts["ended_early"]:
        lines["ended early"] = facts["end"] or facts["ended_early"]
    elif facts["end"]:
        lines["ended"] = facts["end"]
    told = [incident for incident in facts["incidents"] if not is_routine(incident)]
    words = [line for line, _ in itertools.groupby(map(text.headline, told))]  # one loss may concern several stacks
    if len(words) > _INCIDENTS:
        words = [f"{len(words) - _INCIDENTS} earlier ones are in --json", *words[-_INCIDENTS:]]
    for number, line in enumerate(words):
        lines["incidents" + " " * number] = line  # one heading, several lines
    if facts["reason"]:
        lines["stopped by"] = facts["reason"]
    if facts["diverged"]["segments"]:
        lines["diverged"] = _diverged(facts["diverged"])
    alike: dict[str, list[int]] = {}  # a mistake in the user's code may concern all members
    for member, reason in facts["failures"].items():
        alike.setdefault(reason, []).append(int(member))
    lines |= {text.members(numbers): f"failed: {reason}" for reason, numbers in alike.items()}
    return lines | {"digest": facts["digest"]}


def _diverged(facts: Mapping[str, Any]) -> str:
    """`2 segments (4:0, 3:2), the last of member 3 among them`."""
    segments, members = facts["segments"], facts["members"]
    more = ", ..." if len(segments) > _NAMED else ""
    said = f"{text.count(len(segments), 'segment')} ({', '.join(segments[:_NAMED])}{more})"
    if not members:
        return said
    who = text.members(members) if len(members) <= _NAMED else text.count(len(members), "member")
    return f"{said}, the last of {who} among them"


def _system_lines(system: Mapping[str, Any]) -> dict[str, str]:
    """Speed, memory and energy; of what is not known, why."""
    lines, kind = {}, system["device"].partition(":")[0]
    if system["tokens_per_s"] is not None:
        lines["speed"] = f"{text.speed(system['tokens_per_s'], system['mfu'])}, while training"
        if system["mfu"] is None:
            lines["speed"] += f" (no MFU: {_why_no_mfu(kind, system['flops'])})"
    peak = f"the process at most {text.size(system['peak_memory_bytes'] or 0)}{' of a GPU' if kind == 'cuda' else ''}"
    own = f"{text.size(system['member_bytes'] or 0)} a member"
    held = {"member_bytes": own, "peak_memory_bytes": peak}
    if said := [words for name, words in held.items() if system[name] is not None]:
        lines["memory"] = ", ".join(said)
    if system["joules"] is not None:
        lines["energy"] = f"{system['joules']:,.0f} joules" + (", as its share of the CPUs'" if kind == "cpu" else "")
    elif lines:
        lines["energy"] = f"not measured: {_NO_ENERGY.get(kind, f'nothing tells it on {kind}')}"
    return lines


_NO_ENERGY = {
    "cpu": "the CPU's counters (RAPL) cannot be read",
    "cuda": "see Speed, memory and energy in docs/guide.md",
}


def _why_no_mfu(kind: str, flops: float | None) -> str:
    if flops is None:
        return "the FLOPs of a step are not known"
    return "a CPU has no published peak" if kind == "cpu" else "the peak of this device is not on file"


def _session_lines(sessions: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """With what the sweep was trained, and how often it was taken up again."""
    if not sessions:
        return {}
    software = sessions[-1]["software"]
    lines = {"with": ", ".join(f"{name} {software[name]}" for name in ("pbt", "torch", "python") if name in software)}
    again = Counter(session["reason"] for session in sessions[1:])
    if again:
        words = {"resume": "resumed", "extend": "extended", "restart": "its brain restarted by Ray"}
        lines["taken up"] = ", ".join(f"{words[why]} {text.count(times, 'time')}" for why, times in again.items())
    return lines


def _schedule_table(steps: Sequence[ScheduleStep], hparams: Sequence[str]) -> Table:
    table = _table("from age", "to age", "trained by", *hparams)
    for step in steps:
        values = [text.hparam(step.hparams.get(name)) for name in hparams]
        table.add_row(f"{step.age_start:,}", f"{step.age_end:,}", text.trained_by(step), *values)
    return table


def _exploit_table(console: Console, rows: Sequence[ExploitRow], hparams: Sequence[str]) -> Table:
    """One column for each hyperparameter if there is room, else one for all that changed."""
    table = _table("gen", "member", "scored", "took over", "scored", *hparams)
    for row in rows:
        table.add_row(
            *_exploit_cells(row), *(_change(row.changed[name]) if name in row.changed else "" for name in hparams)
        )
    if is_within(console, table):
        return table
    table = _table("gen", "member", "scored", "took over", "scored", left="hyperparameters, before -> after")
    for row in rows:
        changed = [f"{name} {_change(row.changed[name])}" for name in hparams if name in row.changed]
        table.add_row(*_exploit_cells(row), ", ".join(changed) or "nothing")
    return table


def _exploit_cells(row: ExploitRow) -> tuple[str, ...]:
    return str(row.generation + 1), str(row.member), text.score(row.score), str(row.donor), text.score(row.donor_score)


def _change(values: tuple[Any, Any]) -> str:
    before, after = values
    return f"{text.hparam(before)} -> {text.hparam(after)}"


def _table(*headings: str, left: str = "") -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in headings:
        is_words = heading in ("run", "status")
        table.add_column(heading, justify="left" if is_words else "right", no_wrap=True)
    if left:
        table.add_column(left, ratio=1)
    return table


def _heading(console: Console, title: str, rows: int = 0) -> None:
    hidden = f" ({_ROWS} of {rows}; --json has them all)" if rows > _ROWS else ""
    console.print()
    console.print(Text(title + hidden, style="bold"))


def _when(created: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(created))
