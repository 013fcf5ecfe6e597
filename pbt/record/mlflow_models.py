"""Weights as MLflow's models: an output of the run that made them, an input of the runs that took them over.

A model stands for a checkpoint that is there, or for weights that another member copied. `READY` means that the file
is there; those that were copied and are gone stay, for the lineage, as `FAILED`, which is MLflow's word for a model
without its files. All others go with their file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    LoggedModel,
    LoggedModelInput,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
)

from pbt.member import SegmentKey
from pbt.record.mirrored import DESCRIPTION, Who
from pbt.record.mirrored_segments import OURS, Weights
from pbt.record.mlflow_batches import cut_params, cut_tags, key
from pbt.record.mlflow_runs import Runs, origin, same_sweep

#: So many params are there from the beginning; more, MLflow would send afterwards.
_PARAMS_AT_ONCE = 100


@dataclass(slots=True)
class _Known:
    """A model, and what MLflow is known to have of it."""

    model_id: str
    status: LoggedModelStatus = LoggedModelStatus.PENDING
    tags: dict[str, str] = field(default_factory=dict)
    params: set[str] = field(default_factory=set)
    metrics: set[str] = field(default_factory=set)
    taken: set[str] = field(default_factory=set)  # runs it is known to be an input of


class Models:
    """The models of a sweep.

    Args:
        client: Of a server or database.
        experiment_id: Where the models are.
        sweep: What `run.json` says.
        runs: The sweep's runs.
        data: What the metrics of the models were measured on.
    """

    def __init__(
        self,
        client: MlflowClient,
        experiment_id: str,
        sweep: Mapping[str, Any],
        runs: Runs,
        data: Dataset | None,
    ) -> None:
        self._client = client
        self._experiment_id = experiment_id
        self._sweep = sweep
        self._runs = runs
        self._data = data
        self._known: dict[SegmentKey, _Known] = {}

    def find(self) -> None:
        """Find the models that are there. Of one that was made twice, that stays which its run knows of."""
        outputs = {model_id for run in self._runs.known.values() for model_id in run.outputs}
        rows = self._search()
        rows.sort(key=lambda model: (model.model_id not in outputs, model.creation_timestamp, model.model_id))
        self._known = {}
        for model in rows:
            segment = SegmentKey(int(model.tags["pbt.member"]), int(model.tags["pbt.segment"]))
            if segment in self._known:
                self._client.delete_logged_model(model.model_id)
            else:
                self._known[segment] = _known(model)

    def _search(self) -> list[LoggedModel]:
        rows: list[LoggedModel] = []
        token = None
        while True:
            page = self._client.search_logged_models(
                [self._experiment_id], same_sweep(self._sweep), max_results=500, page_token=token
            )
            rows, token = rows + list(page), page.token
            if not token:
                return rows

    def model_id(self, segment: SegmentKey) -> str | None:
        """MLflow's id of the weights a segment ended in, if they are there."""
        known = self._known.get(segment)
        return known.model_id if known and known.status == LoggedModelStatus.READY else None

    def settle(self, segment: SegmentKey, wanted: Weights | None, maker: Who, takers: Iterable[Who]) -> None:
        """Bring what MLflow has of a segment's weights up to date.

        Args:
            segment: The segment that ended in them.
            wanted: What is to be there; None if nothing is.
            maker: Whose run made them.
            takers: Whose runs took them over.
        """
        if wanted is None:
            self._delete(segment)
            return
        if segment not in self._known:
            self._known[segment] = self._create(wanted, maker)
        model = self._known[segment]
        self._describe(model, wanted)
        self._measure(model, wanted, maker)
        self._connect(model, wanted.step, maker, takers)
        self._finalize(model, LoggedModelStatus.READY if wanted.is_kept else LoggedModelStatus.FAILED)

    def _delete(self, segment: SegmentKey) -> None:
        if segment in self._known:
            self._client.delete_logged_model(self._known[segment].model_id)
            del self._known[segment]

    def _create(self, wanted: Weights, maker: Who) -> _Known:
        tags = cut_tags({**wanted.tags, **origin(self._sweep)})
        params = dict(islice(cut_params(wanted.params).items(), _PARAMS_AT_ONCE))
        made = self._client.create_logged_model(
            self._experiment_id,
            name=wanted.name,
            source_run_id=self._runs.known[maker].run_id,
            tags=tags,
            params=params,
            model_type=self._sweep["spec"]["trainable"]["name"],
        )
        return _Known(made.model_id, tags=tags, params=set(params))

    def _describe(self, model: _Known, wanted: Weights) -> None:
        """Tags and params. A param that is there cannot be logged again."""
        tags = cut_tags({**wanted.tags, **origin(self._sweep)})
        if not model.tags.get(DESCRIPTION, OURS).startswith(OURS):
            del tags[DESCRIPTION]
        for name in model.tags.keys() - tags.keys():
            if name.startswith("pbt."):
                self._client.delete_logged_model_tag(model.model_id, name)
                del model.tags[name]
        if fresh := {name: value for name, value in tags.items() if model.tags.get(name) != value}:
            self._client.set_logged_model_tags(model.model_id, fresh)
            model.tags.update(fresh)
        if missing := {name: value for name, value in cut_params(wanted.params).items() if name not in model.params}:
            self._client.log_model_params(model.model_id, missing)
            model.params.update(missing)

    def _measure(self, model: _Known, wanted: Weights, maker: Who) -> None:
        """Its metrics, which are some of its run's: MLflow takes those of models with those of a run."""
        data = {"dataset_name": self._data.name, "dataset_digest": self._data.digest} if self._data else {}
        run_id = self._runs.known[maker].run_id
        fresh = [
            Metric(key(point.key), *point[1:], model_id=model.model_id, run_id=run_id, **data)
            for point in wanted.metrics
            if key(point.key) not in model.metrics
        ]
        if fresh:
            self._client.log_batch(run_id, metrics=fresh)
            model.metrics.update(metric.key for metric in fresh)

    def _connect(self, model: _Known, step: int, maker: Who, takers: Iterable[Who]) -> None:
        """What made it, and who took it over. MLflow refuses an output it has; an input it has stays one."""
        made = self._runs.known[maker]
        if model.model_id not in made.outputs:
            self._client.log_outputs(made.run_id, [LoggedModelOutput(model.model_id, step)])
            made.outputs.add(model.model_id)
        there = {self._runs.known[taker].run_id for taker in takers if taker in self._runs.known}
        for run_id in sorted(there - model.taken):
            self._client.log_inputs(run_id, models=[LoggedModelInput(model.model_id)])
            model.taken.add(run_id)

    def _finalize(self, model: _Known, status: LoggedModelStatus) -> None:
        if model.status != status:
            self._client.finalize_logged_model(model.model_id, status)
            model.status = status


def _known(model: LoggedModel) -> _Known:
    metrics = {metric.key for metric in model.metrics or ()}
    return _Known(model.model_id, model.status, dict(model.tags), set(model.params), metrics)
