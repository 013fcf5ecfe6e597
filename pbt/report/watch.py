"""The driver's eye on a running sweep: it follows the ledger for the live table and, apart from that, for MLflow.

Nothing waits for it, and it writes nothing to the ledger. The driver is the one writer of the MLflow mirror; a slow
server holds up neither training nor the table.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console

from pbt.errors import HostError, PbtError, RunNotFound, SpecError, first_line
from pbt.record.ledger import LedgerReader, Tail, write_atomically
from pbt.record.result import Result
from pbt.record.runs import Run, remember_end
from pbt.report.console import Progress
from pbt.spec import Tracking, is_trackable

if TYPE_CHECKING:
    from pbt.record.mlflow import Mirror

T = TypeVar("T")

#: A sweep that took fewer seconds does not end with all the pictures there are, which take five to ten seconds, most
#: of it for importing and growing a forest: `pbt report` draws them.
_SHORT_S = 60.0
#: Seconds between two looks at the ledger, and between two batches to MLflow.
_LOOK_S, _SYNC_S = 0.5, 2.0
#: Shares of a core that these may take: what costs more is done less often, but at least once in so many seconds.
_LOOK_SHARE, _SYNC_SHARE, _LONGEST_S = 0.1, 0.01, 60.0


class Watch:
    """Follows a run from `with` to its end.

    Args:
        run: The run, whose ledger may not be there yet.
        tracking: Where MLflow is, if anywhere.
        show: Whether to print progress.
        plain: Whether to print lines even in a terminal, where somebody else prints too.
        baseline: Drawn beside the run in its plots.
        resumed: Whether the run was trained before; what was shown then is not shown again.
        console: Where to print; None prints to standard output.
    """

    def __init__(
        self,
        run: Run,
        tracking: Tracking,
        *,
        show: bool,
        plain: bool = False,
        baseline: Result | None = None,
        resumed: bool = False,
        console: Console | None = None,
    ) -> None:
        self._run = run
        self._tracking = tracking
        self._baseline = baseline
        self._resumed = resumed
        self._console = console or Console(quiet=not show, force_terminal=False if plain else None)
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=task, name="watch", daemon=True)
            for task in ((self._look, _LOOK_S, _LOOK_SHARE), (self._sync, _SYNC_S, _SYNC_SHARE))
        ]
        self._tail: Tail | None = None
        self._mirror: Mirror | None = None
        self._finished = False

    def __enter__(self) -> Watch:
        """Begin to follow."""
        self._progress = Progress(self._run.info, self._console)
        self._progress.__enter__()
        if self._resumed:
            self._tail = Tail(LedgerReader(self._run.path))
            self._progress.catch_up(self._tail.poll())
        for thread in self._threads:
            thread.start()
        return self

    def say(self, message: str) -> None:
        """Tell the person something."""
        self._console.print(message, markup=False, highlight=False)

    def finish(self) -> None:
        """The sweep came to its end: draw the plots and complete the mirror."""
        self._join()
        self._finished = True
        with self._console.status("Drawing plots, writing to MLflow (a new database takes some seconds) ..."):
            self._draw()
            self._end_mirror("finished")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop following; a sweep that did not finish is marked so in MLflow."""
        self._join()
        if not self._finished:
            status = "stopped" if kind is KeyboardInterrupt else "failed"
            remember_end(self._run, status, first_line(error) if error else "")
            self._end_mirror(status)

    def _join(self) -> None:
        if self._stop.is_set():
            return
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._look()
        self._progress.__exit__(None, None, None)

    def _repeat(self, task: Callable[[], None], pause_s: float, share: float) -> None:
        try:
            wait_s, is_first = pause_s, True
            while not self._stop.wait(wait_s):
                begun = time.thread_time()
                task()
                cost_s = 0.0 if is_first else time.thread_time() - begun  # the first imports and opens
                wait_s, is_first = max(pause_s, min(_LONGEST_S, cost_s / share)), False
        except PbtError as error:
            self._warn(f"No longer following the sweep, which goes on: {error}")

    def _look(self) -> None:
        self._tail = self._tail or self._find(lambda: Tail(LedgerReader(self._run.path)))
        if self._tail is not None:
            self._progress.update(self._tail.poll())

    def _sync(self) -> None:
        if self._tracking.enabled:
            self._mirror = self._mirror or self._find(lambda: open_mirror(self._run, self._tracking))
        if self._mirror is not None:
            self._mirror.sync()

    @staticmethod
    def _find(make: Callable[[], T]) -> T | None:
        """What can be made once the brain has made its ledger; None until then."""
        try:
            return make()
        except RunNotFound:
            return None

    def _draw(self) -> None:
        from pbt.report.plots import FIRST, write_plots

        result = Result(self._run)
        try:
            names = None if self._progress.elapsed >= _SHORT_S else FIRST
            write_plots(result, self._run.path / "plots", self._baseline, names)
        except Exception as error:  # a finished sweep is not lost to a plot
            self._warn(f"No plots: {first_line(error)}.")
        self._remember_page()
        self._write_page(result)

    def _remember_page(self) -> None:
        """Before the lineage page is written, which links to MLflow's and is kept there."""
        with contextlib.suppress(Exception):  # whatever it is, `_end_mirror` meets it again and tells it
            self._sync()
            if self._mirror is not None and not self._mirror.last_error:
                remember_page(self._run, self._mirror)

    def _write_page(self, result: Result) -> None:
        if problem := write_page(result):
            self._warn(f"No lineage page: {problem}.")

    def _end_mirror(self, status: str) -> None:
        try:
            self._sync()
            if self._mirror is None:
                return
            complete = end_mirror(self._mirror, Result(self._run), status)
            remember_page(self._run, self._mirror)
        except Exception as error:  # the sweep is over, and not lost to its mirror
            self._warn(f"MLflow was not brought up to date: {first_line(error)}. `pbt sync {self._run.path}` does it.")
            return
        if not complete:
            self._warn(
                f"MLflow is behind ({self._mirror.last_error}). Nothing is lost: "
                f"`pbt sync {self._run.path}` brings it up to date."
            )

    def _warn(self, message: str) -> None:
        self._console.print(message, style="yellow", markup=False)


def check_tracking(tracking: Tracking) -> None:
    """Refuse an address from the environment that MLflow cannot track to, before anything starts.

    Raises:
        SpecError: It cannot.
    """
    uri = _address(tracking)
    if uri and not is_trackable(uri):
        mend = "Set it to sqlite:///FILE, a database or a server, or unset it"
        raise SpecError("MLFLOW_TRACKING_URI", f"MLflow cannot track to {uri!r}", mend)


def _address(tracking: Tracking) -> str | None:
    """Where the sweep says, else where the environment says."""
    return tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")


def open_mirror(run: Run, tracking: Tracking) -> Mirror:
    """The mirror of a run: where the sweep or the environment says, else in a SQLite file beside the runs."""
    from pbt.record.mlflow import Mirror

    storage = run.path.absolute().parent
    return Mirror(
        run.path,
        uri=_address(tracking) or f"sqlite:///{storage / 'mlflow.db'}",
        experiment=tracking.experiment or run.info["spec"]["name"],
        segment_runs=tracking.segment_runs,
        artifact_root=storage / "mlflow-artifacts",
    )


def end_mirror(mirror: Mirror, result: Result, status: str) -> bool:
    """Tell MLflow how the sweep ended; returns whether all of it arrived."""
    best: dict[str, object] = {}
    if status == "finished" and result.winner is not None:
        found = result.best
        best = {"member": found.member, "score": found.score, "hparams": dict(found.hparams), **found.metrics}
    return mirror.finish(status, best, [result.path / name for name in ("plots", "lineage.html")])


def write_page(result: Result) -> str | None:
    """Leave the lineage page in a run's folder; returns what is in the way of that. A sweep is not lost to a page."""
    from pbt.report.lineage_page import write_lineage_page

    try:
        write_lineage_page(result)
    except Exception as error:
        return first_line(error)
    return None


def remember_page(run: Run, mirror: Mirror) -> None:
    """Keep in the run's folder how to open its page in MLflow, and why that is behind, if it is."""
    command, url = mirror.ui()
    page = {"command": command, "url": url, "error": mirror.last_error}
    write_atomically(run.path / "mlflow.json", json.dumps(page, indent=1).encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Synced:
    """What `pbt sync` came to.

    Attributes:
        run: The run's name.
        uri: Where MLflow is, without a password.
        experiment_id: MLflow's id of the experiment; None while MLflow has not answered.
        run_id: MLflow's id of the sweep's run; None while MLflow has not answered.
        rows: Ledger rows that were copied.
        behind: Ledger rows that are still to be copied.
        error: Why MLflow is behind; None if it is not.
        url: The sweep's page.
        command: What opens the UI; None where a server is there for that.
    """

    run: str
    uri: str
    experiment_id: str | None
    run_id: str | None
    rows: int
    behind: int
    error: str | None
    url: str
    command: str | None


def catch_up(run: Run, uri: str | None = None) -> Synced:
    """Bring MLflow up to date with a run.

    Args:
        run: Which.
        uri: Where MLflow is; None takes what the sweep or the environment says.

    Raises:
        SpecError: The sweep was not to be mirrored, and no address is given.
    """
    result, tracking = Result(run), Tracking(**run.info["spec"]["tracking"])
    if uri is None and not tracking.enabled:
        mend = "Say where to write all the same: --uri sqlite:///mlflow.db"
        raise SpecError("tracking.enabled", f"{run.id} is not to be in MLflow", mend)
    mirror = open_mirror(run, dataclasses.replace(tracking, uri=uri or tracking.uri))
    if (status := result.status) == "running":
        mirror.sync()  # its own driver will tell the end
    else:
        if not (run.path / "lineage.html").exists():  # its driver did not live to write it
            mirror.sync()
            if not mirror.last_error:
                remember_page(run, mirror)
            write_page(result)
        end_mirror(mirror, result, "stopped" if status == "unfinished" else status)
    if not mirror.last_error:
        remember_page(run, mirror)
    command, url = mirror.ui()
    return Synced(
        run=run.id,
        uri=mirror.shown_uri,
        experiment_id=mirror.experiment_id,
        run_id=mirror.parent_id,
        rows=mirror.sent,
        behind=mirror.behind,
        error=mirror.last_error,
        url=url,
        command=command,
    )


def tell_synced(synced: Synced) -> str:
    """What was done, in words.

    Raises:
        HostError: MLflow did not answer.
    """
    if synced.error:
        told = synced.error.rstrip(".")
        raise HostError(f"MLflow is still behind ({told}). Mend that, or start its server, and try again.")
    return f"MLflow has everything of {synced.run}."
