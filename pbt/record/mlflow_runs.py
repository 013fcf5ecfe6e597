"""The runs of one sweep in MLflow: found, made, told what is new, and ended. No call doubles anything."""

from __future__ import annotations

import contextlib
import getpass
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag, ViewType

from pbt.member import SegmentKey
from pbt.record.mirrored import Point, Who
from pbt.record.mlflow_batches import batches, cut_params, cut_tags, key


@dataclass(slots=True)
class Known:
    """A run, and what MLflow is known to have of it."""

    run_id: str
    tags: dict[str, str] = field(default_factory=dict)
    params: set[str] = field(default_factory=set)
    outputs: set[str] = field(default_factory=set)
    end: tuple[str, int | None] = ("RUNNING", None)


class Runs:
    """The runs of a sweep.

    Args:
        client: Of a server or database.
        experiment_id: Where the runs are.
        sweep: What `run.json` says.
    """

    def __init__(self, client: MlflowClient, experiment_id: str, sweep: Mapping[str, Any]) -> None:
        self._client = client
        self._experiment_id = experiment_id
        self._sweep = sweep
        self.known: dict[Who, Known] = {}

    def find(self) -> None:
        """Find the runs that are there. Where an answer once got lost and one was made twice, the empty one goes."""
        rows = self._search(same_sweep(self._sweep))
        rows.sort(key=lambda run: (not run.data.metrics, run.info.start_time, run.info.run_id))
        self.known = {}
        for run in rows:
            who = _who(run.data.tags)
            if who in self.known:
                self._client.delete_run(run.info.run_id)
            else:
                self.known[who] = _known(run)

    def _search(self, condition: str) -> list[Run]:
        rows: list[Run] = []
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment_id], condition, ViewType.ACTIVE_ONLY, max_results=1_000, page_token=token
            )
            rows, token = rows + list(page), page.token
            if not token:
                return rows

    def create(self, who: Who, name: str, tags: Mapping[str, Any], start_ms: int) -> None:
        """Make a run that is not there."""
        tags = cut_tags({**tags, **_name_of(who), **origin(self._sweep), **_source()})
        made = self._client.create_run(self._experiment_id, start_time=start_ms, tags=tags, run_name=name)
        self.known[who] = Known(made.info.run_id, dict(tags))

    def log(
        self,
        who: Who,
        points: Iterable[Point] = (),
        tags: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> None:
        """Tell a run what it does not have. Metrics are sent as they are: MLflow keeps one of equal ones."""
        known = self.known[who]
        metrics = [Metric(key(point.key), *point[1:]) for point in points]
        fresh_tags = [item for item in cut_tags(tags or {}).items() if known.tags.get(item[0]) != item[1]]
        fresh_params = [item for item in cut_params(params or {}).items() if item[0] not in known.params]
        for batch in batches(metrics, [Param(*item) for item in fresh_params], [RunTag(*item) for item in fresh_tags]):
            self._client.log_batch(known.run_id, **batch)
        known.tags.update(fresh_tags)
        known.params.update(name for name, _ in fresh_params)

    def end(self, who: Who, status: str, at_ms: int) -> None:
        """End a run as `FINISHED`, `FAILED` or `KILLED`."""
        known = self.known[who]
        if known.end != (status, at_ms):
            self._client.set_terminated(known.run_id, status, at_ms)
            known.end = status, at_ms

    def wake(self, who: Who) -> None:
        """A run that has ended goes on."""
        known = self.known[who]
        if known.end[0] != "RUNNING":
            self._client.update_run(known.run_id, "RUNNING")
            self.log(who, tags={"pbt.status": "running"})
            known.end = "RUNNING", None


def same_sweep(sweep: Mapping[str, Any]) -> str:
    """A filter for what belongs to a sweep."""
    return " and ".join(f"tags.`{name}` = '{value}'" for name, value in origin(sweep).items())


def origin(sweep: Mapping[str, Any]) -> dict[str, str]:
    """Tags of all that belongs to a sweep. Two machines may start runs of one name in one second: hence the time."""
    return {"pbt.run_id": str(sweep["run_id"]), "pbt.created": repr(float(sweep["created"]))}


def _source() -> dict[str, str]:
    user = "unknown"
    with contextlib.suppress(OSError, KeyError):
        user = getpass.getuser()
    return {"mlflow.user": user, "mlflow.source.name": "pbt"}


def _name_of(who: Who) -> dict[str, str]:
    """Tags that say whose run it is."""
    match who:
        case None:
            return {"pbt.kind": "sweep"}
        case SegmentKey(member, segment):
            return {"pbt.kind": "segment", "pbt.member": str(member), "pbt.segment": str(segment)}
        case member:
            return {"pbt.kind": "member", "pbt.member": str(member)}


def _who(tags: Mapping[str, str]) -> Who:
    """Whose run it is, by its tags."""
    if "pbt.member" not in tags:
        return None
    member = int(tags["pbt.member"])
    return SegmentKey(member, int(tags["pbt.segment"])) if "pbt.segment" in tags else member


def _known(run: Run) -> Known:
    outputs = {output.model_id for output in (run.outputs.model_outputs if run.outputs else ())}
    ended = (run.info.status, run.info.end_time)
    return Known(run.info.run_id, dict(run.data.tags), set(run.data.params), outputs, ended)
