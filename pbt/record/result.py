"""A run as typed results: what a finished (or half-finished) sweep found, read from its ledger."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pbt.errors import LedgerError
from pbt.lineage import Lineage, ScheduleStep
from pbt.member import Hparams
from pbt.record.ledger import LedgerReader
from pbt.record.runs import Run, open_run
from pbt.record.schema import to_arrow

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The winner of a sweep.

    Attributes:
        member: Its id.
        score: The objective at its end.
        metrics: Its last metrics by `split/name`; the test split is here once the winner is announced.
        hparams: Those it ended with.
        schedule: The hyperparameters its weights were trained with, from age 0 on.
        checkpoint: Its weights (safetensors), or None where they were not saved.
    """

    member: int
    score: float
    metrics: Mapping[str, float]
    hparams: Hparams
    schedule: tuple[ScheduleStep, ...]
    checkpoint: Path | None


class Result:
    """Everything a run found, read from its folder.

    Args:
        run: The run; `pbt.load(path)` opens one by path.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._reader = LedgerReader(run.path)

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.run.path

    @property
    def finished(self) -> bool:
        """Whether the sweep came to its end."""
        return self._reader.finished

    @property
    def status(self) -> str:
        """`finished`; `failed` or `stopped`, if its driver lived to say so; else `unfinished`."""
        return "finished" if self.finished else self._end().get("status", "unfinished")

    @property
    def reason(self) -> str:
        """Why a sweep failed, in one line; empty if it did not."""
        return self._end().get("reason", "") if self.status == "failed" else ""

    def _end(self) -> dict[str, str]:
        try:
            end: dict[str, str] = json.loads((self.path / "end.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return end

    def __repr__(self) -> str:
        """The run and its status."""
        return f"<Result of {self.run.id}: {self.status}>"

    @property
    def running(self) -> bool:
        """Whether the ledger is open: the sweep runs, or died without closing it."""
        return self._reader.is_open

    @cached_property
    def rows(self) -> dict[str, list[dict[str, Any]]]:
        """The ledger's rows by table, as they were when first asked for."""
        return self._reader.rows()

    @cached_property
    def lineage(self) -> Lineage:
        """All segments and their parents."""
        return Lineage.from_rows(self.rows)

    @property
    def segments(self) -> pa.Table:
        """One row per segment: the decision, how it ended, and a column `hparams/NAME` for each hyperparameter."""
        segments = to_arrow("segments", self.rows["segments"]).rename_columns({"at": "decided_at"})
        outcomes = to_arrow("outcomes", self.rows["outcomes"]).rename_columns({"at": "ended_at"})
        joined = segments.join(outcomes, keys=["member", "segment"], join_type="left outer")
        joined = joined.sort_by([("member", "ascending"), ("segment", "ascending")])
        values = [json.loads(text) for text in joined["hparams"].to_pylist()]
        for name in sorted({name for row in values for name in row}):
            joined = joined.append_column(f"hparams/{name}", _column([row.get(name) for row in values]))
        return joined

    @property
    def metrics(self) -> pa.Table:
        """All metrics as long rows."""
        return to_arrow("metrics", self.rows["metrics"])

    def to_pandas(self) -> pd.DataFrame:
        """`segments` as a pandas data frame."""
        return self.segments.to_pandas()

    def digest(self) -> str:
        """Hash of all decisions; equal for two runs that decided the same."""
        return self._reader.digest()

    @property
    def winner(self) -> int | None:
        """The announced winner's id; None while the sweep has not finished, or where no member survived."""
        finish = [row for row in self.rows["decisions"] if row["kind"] == "finish"]
        return finish[-1].get("member") if finish else None

    @property
    def best(self) -> Best:
        """The announced winner.

        Raises:
            LedgerError: There is none: the sweep has not finished, or no member survived.
        """
        member = self.winner
        if member is None:
            why = "no member survived; try smaller learning rates" if self.finished else "it has not finished"
            raise LedgerError(f"{self.run.id} has no winner: {why}.")
        last = self.lineage.last(member)
        return Best(
            member=member,
            score=float("nan") if last.score is None else last.score,
            metrics=self.last_metrics(member),
            hparams=last.hparams,
            schedule=tuple(self.lineage.schedule(member)),
            checkpoint=self._checkpoint(member),
        )

    def last_metrics(self, member: int) -> dict[str, float]:
        """A member's last value of every metric, by `split/name`."""
        own = [row for row in self.rows["metrics"] if row["member"] == member]
        return {f"{row['split']}/{row['name']}": row["value"] for row in own}

    def _checkpoint(self, member: int) -> Path | None:
        saved = [row for row in self.rows["checkpoints"] if row["member"] == member]
        return self.path / "checkpoints" / f"{saved[-1]['digest']}.safetensors" if saved else None


def load(path: str | Path) -> Result:
    """Open a run folder.

    Raises:
        RunNotFound: It is not a run folder.
    """
    return Result(open_run(Path(path)))


def _column(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else str(value) for value in values])
