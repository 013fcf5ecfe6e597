"""`pbt watch`: the live table of a run from any process, or its events as lines of JSON.

It reads the ledger and nothing else, so leaving it leaves the sweep alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Protocol

from rich.console import Console

from pbt.errors import RunNotFound
from pbt.record.ledger import LedgerReader, Tail
from pbt.record.result import Result
from pbt.record.runs import Run
from pbt.report.console import Progress
from pbt.report.show import without_nan
from pbt.report.tables import Population, Row, generation_facts

#: Seconds between two looks at the ledger.
_LOOK_S = 0.5
#: Seconds that a run may be without a writer: a brain that dies under Ray is started anew.
_GRACE_S = 30.0


class Viewer(Protocol):
    """Takes in a ledger's rows as they come, and shows what they change."""

    def update(self, rows: Iterable[tuple[str, Row]]) -> None:
        """Without rows, time has gone by."""


def watch(
    run: Run,
    console: Console | None = None,
    *,
    as_json: bool = False,
    clock: Callable[[], float] = time.time,
    pause: Callable[[float], None] = time.sleep,
) -> str:
    """Show how a run is doing until it ends; at once, if it has.

    Args:
        run: The run.
        console: Where to print; None prints to standard output.
        as_json: Print a line of JSON for each event instead; docs/guide.md tells them.
        clock: Seconds since the epoch.
        pause: Waits for so many seconds.

    Returns:
        How it ended: `Result.status`, or `without a winner` if it finished and no member survived.

    Raises:
        RunNotFound: Nothing has been recorded, and nobody is about to.
        KeyboardInterrupt: The person left; the sweep goes on.
    """
    console = console or Console()
    reader = _await_ledger(run, clock, pause)
    try:
        if as_json:
            events = Events(run, console)
            status = _follow(run, reader, events, clock, pause)
            events.end(Result(run))
            return status
        with Progress(run.info, console, clock) as progress:
            status = _follow(run, reader, progress, clock, pause)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"no longer watching {run.id}, which goes on. `pbt stop {run.id}` stops it.") from None
    _say_how_it_ended(console, Result(run), status)
    return status


def _await_ledger(run: Run, clock: Callable[[], float], pause: Callable[[float], None]) -> LedgerReader:
    """The ledger, waited for while the run has just begun: its brain makes it."""
    while clock() - run.info["created"] < _GRACE_S:
        with suppress(RunNotFound):
            return LedgerReader(run.path)
        pause(_LOOK_S)
    return LedgerReader(run.path)


def _follow(
    run: Run, reader: LedgerReader, viewer: Viewer, clock: Callable[[], float], pause: Callable[[float], None]
) -> str:
    """Feed the viewer until nobody writes the run any more; returns how it ended."""
    tail = Tail(reader)
    seen: float | None = None  # when it was last being written, as far as we saw
    while True:
        # First, so that what is written while we look is read at the next look.
        status = Result(run).status
        viewer.update(tail.poll())
        if status == "finished" and Result(run).winner is None:
            return "without a winner"
        if status == "running":
            seen = clock()
        elif status != "unfinished" or seen is None or clock() - seen >= _GRACE_S:
            return status
        pause(_LOOK_S)


def _say_how_it_ended(console: Console, result: Result, status: str) -> None:
    words = {
        "stopped": "It was stopped.",
        "failed": f"It failed: {result.reason}",
        "unfinished": "Nobody trains it: its process was killed, or its machine went down.",
    }
    if status in words:
        console.print(
            f"{words[status]} `pbt resume {result.run.id}` goes on.", markup=False, highlight=False, soft_wrap=True
        )


class Events:
    """A line of JSON for everything that happens.

    Args:
        run: The run.
        console: Where to print.
    """

    def __init__(self, run: Run, console: Console) -> None:
        self._console = console
        self._run = run
        self._population = Population(run.info)
        self._generations = 0
        self._failed: dict[int, Row] = {}
        self._incidents = self._completed = 0
        budget = {name: run.info["spec"]["budget"][name] for name in ("members", "generations", "steps")}
        budget |= _chosen(run.info, ("target_steps",)) if "target_steps" in run.info else {}
        self._tell("run", run.info["created"], run=run.id, objective=dict(run.info["objective"]), **budget)

    def update(self, rows: Iterable[tuple[str, Row]]) -> None:
        """Take rows in and tell what is new, in the order it happened."""
        self._population.apply(rows)
        for at, kind, facts in sorted(self._news(), key=lambda event: event[0]):
            self._tell(kind, at, **facts)

    def end(self, result: Result) -> None:
        """Tell how it ended."""
        best = self._population.best
        facts = {"best_member": best.member, "best_score": best.score, "hparams": dict(best.hparams)} if best else {}
        nobody = {"best_member": None, "best_score": None, "hparams": None}
        at = self._population.last_at
        self._tell(
            "end", at, status=result.status, reason=result.reason, share=self._population.share, **nobody | facts
        )

    def _news(self) -> Iterator[tuple[float, str, dict[str, Any]]]:
        if self._population.target_steps is None:  # in a search everybody is in a generation of its own
            for row in self._population.ended(after=self._generations):
                self._generations = row.generation
                facts = generation_facts(row)
                yield facts.pop("at"), "generation", facts
        for outcome in self._population.completed[self._completed :]:
            hparams = dict(self._population.row(outcome["member"]).hparams)
            yield outcome["at"], "complete", {**_chosen(outcome, ("member", "score")), "hparams": hparams}
        self._completed = len(self._population.completed)
        for member, failure in self._population.failures.items():
            if self._failed.get(member) is not failure:
                yield (
                    failure["at"],
                    "failure",
                    {"member": member} | _chosen(failure, ("segment", "consumed_end", "reason")),
                )
        self._failed = dict(self._population.failures)
        for incident in self._population.incidents[self._incidents :]:
            yield incident["at"], "incident", _chosen(incident, ("kind", "member", "segment", "stack", "message"))
        self._incidents = len(self._population.incidents)

    def _tell(self, event: str, at: float, /, **facts: Any) -> None:
        line = json.dumps(without_nan({"event": event, "at": at, **facts}))
        self._console.out(line, highlight=False)  # as it is, however wide


def _chosen(row: Row, names: Sequence[str]) -> dict[str, Any]:
    return {name: row.get(name) for name in names}
