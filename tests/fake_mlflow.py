"""A stand-in for MLflow's client that keeps everything in memory, for tests that need hundreds of mirrors.

It refuses what MLflow refuses (a param that changes, an output or a model's param that is there) and keeps what MLflow
keeps (one of equal metrics). `test_mlflow_crashes` compares it with the real one.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mlflow.entities import (
    DatasetInput,
    Experiment,
    LoggedModel,
    LoggedModelInput,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Param,
    Run,
    RunData,
    RunInfo,
    RunInputs,
    RunOutputs,
    RunTag,
)
from mlflow.store.entities import PagedList

_CONDITION = re.compile(r"tags\.`([^`]+)` = '([^']*)'")


@dataclass
class _Run:
    info: dict[str, Any]
    tags: dict[str, str]
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, set[tuple[int, int, str]]] = field(default_factory=dict)
    data: dict[tuple[str, str], DatasetInput] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    outputs: dict[str, int] = field(default_factory=dict)

    def entity(self) -> Run:
        metrics = [Metric(key, 0.0, 0, 0) for key in self.metrics]
        params = [Param(*item) for item in self.params.items()]
        tags = [RunTag(*item) for item in self.tags.items()]
        inputs = RunInputs(list(self.data.values()), [LoggedModelInput(model_id) for model_id in self.inputs])
        outputs = RunOutputs([LoggedModelOutput(*item) for item in self.outputs.items()])
        return Run(RunInfo(**self.info), RunData(metrics, params, tags), inputs, outputs)


@dataclass
class _Model:
    facts: dict[str, Any]
    tags: dict[str, str]
    params: dict[str, str]
    status: LoggedModelStatus = LoggedModelStatus.PENDING
    metrics: dict[tuple[Any, ...], Metric] = field(default_factory=dict)

    def entity(self) -> LoggedModel:
        return LoggedModel(
            **self.facts,
            artifact_location="",
            last_updated_timestamp=0,
            status=self.status,
            tags=dict(self.tags),
            params=dict(self.params),
            metrics=list(self.metrics.values()),
        )


@dataclass
class FakeMlflow:
    """What the mirror needs of `MlflowClient`. Deleted runs and models are gone."""

    experiments: dict[str, str] = field(default_factory=dict)
    kept: dict[str, _Run] = field(default_factory=dict)
    models: dict[str, _Model] = field(default_factory=dict)
    artifacts: dict[tuple[str, str], str] = field(default_factory=dict)
    _numbers: Any = field(default_factory=itertools.count)

    def get_experiment_by_name(self, name: str) -> Experiment | None:
        found = self.experiments.get(name)
        return None if found is None else Experiment(found, name, "", "active")

    def create_experiment(self, name: str, *rest: Any) -> str:
        return self.experiments.setdefault(name, str(len(self.experiments)))

    # ----------------------------------------------------------------------------------------------------- runs

    def create_run(self, experiment_id: str, *, start_time: int, tags: Mapping[str, str], run_name: str) -> Run:
        run_id = f"r{next(self._numbers)}"
        times = {"start_time": start_time, "end_time": None, "status": "RUNNING", "run_name": run_name}
        info = {"run_id": run_id, "experiment_id": experiment_id, "user_id": "", "lifecycle_stage": "active", **times}
        self.kept[run_id] = _Run(info, {**tags, "mlflow.runName": run_name})
        return self.kept[run_id].entity()

    def search_runs(self, ids: Iterable[str], condition: str = "", *rest: Any, **options: Any) -> PagedList[Run]:
        found = [run for run in self.kept.values() if run.info["experiment_id"] in ids]
        return PagedList([run.entity() for run in found if _fits(run.tags, condition)], None)

    def get_run(self, run_id: str) -> Run:
        return self.kept[run_id].entity()

    def delete_run(self, run_id: str) -> None:
        del self.kept[run_id]

    def get_metric_history(self, run_id: str, key: str) -> list[Any]:
        points = self.kept[run_id].metrics[key]
        return [SimpleNamespace(step=step, timestamp=at, value=float(value)) for step, at, value in points]

    def log_batch(
        self, run_id: str, metrics: Iterable[Metric] = (), params: Iterable[Param] = (), tags: Iterable[RunTag] = ()
    ) -> None:
        run = self.kept[run_id]
        for metric in metrics:
            run.metrics.setdefault(metric.key, set()).add((metric.step, metric.timestamp, repr(float(metric.value))))
            if metric.model_id:
                key = (metric.key, metric.timestamp, metric.step, run_id)
                self.models[metric.model_id].metrics.setdefault(key, metric)
        for param in params:
            if run.params.setdefault(param.key, param.value) != param.value:
                raise ValueError(f"{param.key} cannot change")
        run.tags.update({tag.key: tag.value for tag in tags})

    def set_terminated(self, run_id: str, status: str, end_time: int) -> None:
        self.kept[run_id].info |= {"status": status, "end_time": end_time}

    def update_run(self, run_id: str, status: str) -> None:
        self.kept[run_id].info["status"] = status

    def log_inputs(
        self, run_id: str, datasets: Iterable[DatasetInput] = (), models: Iterable[LoggedModelInput] = ()
    ) -> None:
        run = self.kept[run_id]
        run.data |= {(entry.dataset.name, entry.dataset.digest): entry for entry in datasets}
        run.inputs += [model.model_id for model in models if model.model_id not in run.inputs]

    def log_outputs(self, run_id: str, models: Iterable[LoggedModelOutput]) -> None:
        for model in models:
            if model.model_id in self.kept[run_id].outputs:
                raise ValueError("UNIQUE constraint failed")
            self.kept[run_id].outputs[model.model_id] = model.step

    def log_text(self, run_id: str, text: str, artifact_file: str) -> None:
        self.artifacts[run_id, artifact_file] = text

    def log_artifact(self, run_id: str, path: str) -> None:
        self.artifacts[run_id, Path(path).name] = path

    def list_artifacts(self, run_id: str) -> list[Any]:
        return [SimpleNamespace(path=name) for owner, name in self.artifacts if owner == run_id]

    # --------------------------------------------------------------------------------------------------- models

    def create_logged_model(
        self,
        experiment_id: str,
        *,
        name: str,
        source_run_id: str,
        tags: Mapping[str, str],
        params: Mapping[str, str],
        model_type: str,
    ) -> LoggedModel:
        number = next(self._numbers)
        facts = {"experiment_id": experiment_id, "model_id": f"m{number}", "name": name, "model_type": model_type}
        facts |= {"source_run_id": source_run_id, "creation_timestamp": number}
        self.models[f"m{number}"] = _Model(facts, dict(tags), dict(params))
        return self.models[f"m{number}"].entity()

    def search_logged_models(self, ids: Iterable[str], condition: str = "", **options: Any) -> PagedList[LoggedModel]:
        found = [model for model in self.models.values() if model.facts["experiment_id"] in ids]
        return PagedList([model.entity() for model in found if _fits(model.tags, condition)], None)

    def finalize_logged_model(self, model_id: str, status: LoggedModelStatus) -> None:
        self.models[model_id].status = status

    def delete_logged_model(self, model_id: str) -> None:
        del self.models[model_id]

    def set_logged_model_tags(self, model_id: str, tags: Mapping[str, str]) -> None:
        self.models[model_id].tags |= tags

    def delete_logged_model_tag(self, model_id: str, key: str) -> None:
        del self.models[model_id].tags[key]

    def log_model_params(self, model_id: str, params: Mapping[str, str]) -> None:
        known = self.models[model_id].params
        if there := known.keys() & params.keys():
            raise ValueError(f"UNIQUE constraint failed: {there}")
        known |= params


def _fits(tags: Mapping[str, str], condition: str) -> bool:
    return all(tags.get(name) == value for name, value in _CONDITION.findall(condition))
