"""A run as typed results: what a finished (or half-finished) sweep found, read from its ledger."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from pbt.errors import LedgerError
from pbt.lineage import Lineage, Reference, ScheduleStep
from pbt.member import Hparams
from pbt.record import provenance
from pbt.record.digest import digest
from pbt.record.frame import Frame, frame
from pbt.record.ledger import LedgerReader, is_written
from pbt.record.runs import Run, open_run
from pbt.record.schema import to_rows
from pbt.record.story import Entry, story

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


class _Rows(Mapping[str, list[dict[str, Any]]]):
    """Tables as plain dictionaries, each made when it is first asked for."""

    def __init__(self, tables: Mapping[str, pa.Table]) -> None:
        self._tables = tables
        self._made: dict[str, list[dict[str, Any]]] = {}

    def __getitem__(self, name: str) -> list[dict[str, Any]]:
        if name not in self._made:
            self._made[name] = to_rows(self._tables[name])
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)


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
        """`finished`, `running`; `failed` or `stopped`, if its driver lived to say so; else `unfinished`."""
        if self.finished:
            return "finished"
        return "running" if is_written(self.path) else self._end().get("status", "unfinished")

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
    def tables(self) -> dict[str, pa.Table]:
        """The ledger's tables by name, as they were when first asked for. All else is read from them."""
        return self._reader.tables()

    @cached_property
    def rows(self) -> Mapping[str, list[dict[str, Any]]]:
        """The same as plain dictionaries, `at` in seconds since the epoch; not to be changed."""
        return _Rows(self.tables)

    @cached_property
    def lineage(self) -> Lineage:
        """All segments and their parents."""
        return Lineage.from_rows(self.rows)

    @cached_property
    def frame(self) -> Frame:
        """All segments as numpy columns, for pictures and statistics."""
        return frame(self.tables)

    @property
    def segments(self) -> pa.Table:
        """One row per segment: the decision, how it ended, and a column `hparams/NAME` for each hyperparameter."""
        segments = self.tables["segments"].rename_columns({"at": "decided_at"})
        outcomes = self.tables["outcomes"].rename_columns({"at": "ended_at"})
        joined = segments.join(outcomes, keys=["member", "segment"], join_type="left outer")
        joined = joined.sort_by([("member", "ascending"), ("segment", "ascending")])
        values = [json.loads(text) for text in joined["hparams"].to_pylist()]
        for name in sorted({name for row in values for name in row}):
            joined = joined.append_column(f"hparams/{name}", provenance.column([row.get(name) for row in values]))
        return joined

    @property
    def metrics(self) -> pa.Table:
        """All metrics as long rows."""
        return self.tables["metrics"]

    def to_pandas(self) -> pd.DataFrame:
        """`segments` as a pandas data frame."""
        return self.segments.to_pandas()

    def digest(self) -> str:
        """Hash of all decisions; equal for two runs that decided the same."""
        return digest(self.tables)

    @cached_property
    def winner(self) -> int | None:
        """The announced winner's id; None while the sweep has not finished, or where no member survived."""
        ends = self._rows("decisions", kind="finish") + self._rows("decisions", kind="extend")
        last = max(ends, key=lambda row: row["at"], default=None)
        return last["member"] if last and last["kind"] == "finish" else None  # an extension begins anew

    @property
    def best(self) -> Best:
        """The announced winner.

        Raises:
            LedgerError: There is none: the sweep has not finished, or no member survived.
        """
        member = self.winner
        if member is None:
            on = f"it has not finished; `pbt resume {self.path}` goes on with it"
            why = "no member survived; try smaller learning rates" if self.finished else on
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
        """A member's last value of every metric, by `split/name`; of its model, not of the system it trained on."""
        rows = self._rows("metrics", member=member)
        return {f"{row['split']}/{row['name']}": row["value"] for row in rows if row["split"] != "system"}

    def _checkpoint(self, member: int) -> Path | None:
        segment = self.lineage.last(member).key.index
        rows = self._rows("checkpoints", member=member, segment=segment)
        saved = rows if rows and rows[-1]["status"] in (None, "saved") else []
        return self.path / "checkpoints" / f"{saved[-1]['digest']}.safetensors" if saved else None

    def _rows(self, table: str, **wanted: Any) -> list[dict[str, Any]]:
        """Rows of a table that have these values."""
        found = self.tables[table]
        for name, value in wanted.items():
            found = found.filter(pc.equal(found[name], value))
        return to_rows(found)

    # ------------------------------------------------------------------------------------------------- provenance
    # A member is named by its number (3: its present weights) or one of its segments ("3:5": those it ended in).
    # docs/provenance.md tells the columns. An unknown member is a `MemberNotFound`.

    def lineage_table(self) -> pa.Table:
        """All segments: where their weights came from, and what became of them."""
        return provenance.lineage_table(self.lineage)

    def ancestors(self, member: Reference) -> pa.Table:
        """The segments that made a member's weights, root first."""
        return provenance.segment_table(self.lineage, self.lineage.ancestors(member))

    def descendants(self, member: Reference) -> pa.Table:
        """The segments whose weights came from a member, its own included, in order of age."""
        return provenance.segment_table(self.lineage, self.lineage.descendants(member))

    def schedule(self, member: Reference) -> pa.Table:
        """The hyperparameters a member's weights were trained with, from age 0 on."""
        return provenance.schedule_table(self.lineage.schedule(member))

    def why(self, member: Reference) -> pa.Table:
        """What happened to a member, in order of time, with the reasons that were recorded."""
        return provenance.story_table(self.story(member))

    def diff(self, a: Reference, b: Reference) -> pa.Table:
        """Two members' weights side by side, by age: who trained them, with what hyperparameters and scores."""
        return provenance.stretch_table(self.lineage.compare(a, b))

    def story(self, member: Reference) -> list[Entry]:
        """`why` as objects."""
        who = self.lineage.find(member).key.member
        rows = {name: self.rows[name] for name in self.tables if name != "metrics"}
        rows["metrics"] = self._rows("metrics", member=who)
        is_trained = self.status == "running"
        return story(self.lineage, rows, member, self.run.info["objective"], is_trained=is_trained)


def load(path: str | Path) -> Result:
    """Open a run folder.

    Raises:
        RunNotFound: It is not a run folder.
    """
    return Result(open_run(Path(path)))
