"""The driver's eye on a running sweep: one thread that follows the ledger for the live table and for MLflow.

Nothing waits for it, and it writes nothing to the ledger. The driver is the one writer of the MLflow mirror.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from pbt.report.console import Progress
from rich.console import Console

from pbt.errors import HostError, PbtError, RunNotFound
from pbt.record.ledger import LedgerReader, Tail
from pbt.record.result import Result
from pbt.record.runs import Run
from pbt.spec import Tracking

if TYPE_CHECKING:
    from pbt.record.mlflow import Mirror

#: Seconds between two looks at the ledger, and between two batches to MLflow.
_LOOK_S, _SYNC_S = 0.5, 2.0


class Watch:
    """Follows a run from `with` to its end.

    Args:
        run: The run, whose ledger may not be there yet.
        tracking: Where MLflow is, if anywhere.
        show: Whether to print progress.
        baseline: Drawn beside the run in its plots.
        console: Where to print; None prints to standard output.
    """

    def __init__(
        self,
        run: Run,
        tracking: Tracking,
        *,
        show: bool,
        baseline: Result | None = None,
        console: Console | None = None,
    ) -> None:
        self._run = run
        self._tracking = tracking
        self._baseline = baseline
        self._console = console or Console(quiet=not show)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="watch", daemon=True)
        self._tail: Tail | None = None
        self._mirror: Mirror | None = None
        self._finished = False

    def __enter__(self) -> Watch:
        """Begin to follow."""
        self._progress = Progress(self._run.info, self._console)
        self._progress.__enter__()
        self._thread.start()
        return self

    def finish(self) -> None:
        """The sweep came to its end: draw the plots and complete the mirror."""
        self._join()
        self._finished = True
        plots = self._draw()
        self._end_mirror("finished", plots)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop following; a sweep that did not finish is marked so in MLflow."""
        self._join()
        if not self._finished:
            self._end_mirror("stopped" if kind is KeyboardInterrupt else "failed", [])

    def _join(self) -> None:
        if self._thread.is_alive():
            self._stop.set()
            self._thread.join()
            self._look()
            self._progress.__exit__(None, None, None)

    def _follow(self) -> None:
        synced = time.monotonic()
        while not self._stop.wait(_LOOK_S):
            self._look()
            if time.monotonic() - synced >= _SYNC_S:
                self._sync()
                synced = time.monotonic()

    def _look(self) -> None:
        if self._tail is None:
            try:
                self._tail = Tail(LedgerReader(self._run.path))
            except RunNotFound:
                return  # the brain has not made its ledger yet
        self._progress.update(self._tail.poll())

    def _sync(self) -> None:
        if self._mirror is None and self._tail is not None and self._tracking.enabled:
            self._mirror = open_mirror(self._run, self._tracking)
        if self._mirror is not None:
            self._mirror.sync()

    def _draw(self) -> list[Path]:
        from pbt.report.plots import write_plots

        try:
            baseline = self._baseline.path if self._baseline else None
            return write_plots(self._run.path, self._run.path / "plots", baseline)
        except PbtError as error:
            self._console.print(f"No plots: {error}", style="yellow")
            return []

    def _end_mirror(self, status: str, plots: list[Path]) -> None:
        self._sync()
        if self._mirror is None:
            return
        if not end_mirror(self._mirror, Result(self._run), status, plots):
            self._console.print(
                f"MLflow is behind ({self._mirror.last_error}). Nothing is lost: `pbt sync {self._run.path}` catches up.",
                style="yellow",
            )


def open_mirror(run: Run, tracking: Tracking) -> Mirror:
    """The mirror of a run: by default in a SQLite file in the storage folder, beside its runs."""
    from pbt.record.mlflow import Mirror

    storage = run.path.absolute().parent
    return Mirror(
        run.path,
        uri=tracking.uri or f"sqlite:///{storage / 'mlflow.db'}",
        experiment=tracking.experiment or run.info["spec"]["name"],
        artifact_root=storage / "mlflow-artifacts",
    )


def end_mirror(mirror: Mirror, result: Result, status: str, plots: list[Path]) -> bool:
    """Tell MLflow how the sweep ended; returns whether all of it arrived."""
    best: dict[str, object] = {}
    if status == "finished" and result.winner is not None:
        found = result.best
        best = {"member": found.member, "score": found.score, "hparams": dict(found.hparams), **found.metrics}
        best["digest"] = result.digest()
    return mirror.finish(status, best, [*plots, result.path / "run.json"])


def catch_up(run: Run) -> str:
    """Bring MLflow up to date with a run that is no longer running; returns what was done, in words.

    Raises:
        HostError: MLflow did not answer.
    """
    result = Result(run)
    mirror = open_mirror(run, Tracking(**run.info["spec"]["tracking"]))
    plots = sorted((run.path / "plots").glob("*.png"))
    if not end_mirror(mirror, result, "finished" if result.finished else "stopped", plots):
        raise HostError(f"MLflow is still behind ({mirror.last_error}). Start its server and try again.")
    return f"MLflow has everything of {run.id}."
