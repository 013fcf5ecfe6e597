"""Stores of MLflow for tests, clients that fail, and a scripted sweep that has everything a mirror shows.

`eventful` is short enough to know by heart. Three members, three generations of 100 steps, small scores are good:

    generation 1   all are saved
    after it       member 2 takes over member 0, whose checkpoint is removed later; so is that of member 1
    generation 2   member 2 alone is saved; the file turns out damaged
    after it       the sweep is taken up again; member 1 takes over member 0, whose state went to no file
    generation 3   member 2 fails; members 0 and 1 are saved
    the winner     member 1, whose weights came 0 -> 0 -> 1
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from pbt.record.ledger import Ledger
from pbt.record.mlflow import Mirror
from tests import ledgers

WINNER = {"member": 1, "score": 1.3, "test/bits_per_byte": 1.35, "hparams": {"lr": 0.012}}
#: Tags whose values are MLflow's own ids.
_IDS = ("mlflow.parentRunId", "pbt.best_run_id", "pbt.best_model_id")

SCORES = {0: (2.0, 1.8, 1.6), 1: (2.4, 2.2, 1.3), 2: (2.6, 1.9, None)}
SOFTWARE = {"python": "3.11.9", "torch": "2.13.0", "pbt": "0.1.0"}
HARDWARE = {"cpu": "a processor", "cores": 8, "gpus": [{"name": "a GPU", "memory_bytes": 80_000_000_000}]}
COMMIT = "ab" * 20


@dataclass(frozen=True)
class Store:
    """A place where MLflow keeps runs, with its schema made."""

    uri: str
    client: MlflowClient

    def mirror(self, run: Path, experiment: str, **options: Any) -> Mirror:
        options.setdefault("connect", lambda uri: self.client)
        return Mirror(run, uri=self.uri, experiment=experiment, artifact_root=run.parent / "artifacts", **options)

    def experiment_id(self, experiment: str) -> str:
        return str(self.client.get_experiment_by_name(experiment).experiment_id)

    def search(self, experiment: str, condition: str = "") -> set[str]:
        """Names of the runs a filter finds."""
        return {run.info.run_name for run in self.client.search_runs([self.experiment_id(experiment)], condition)}

    def runs(self, experiment: str) -> dict[str, Any]:
        """MLflow's runs by name, inputs and all; a name that is there twice fails."""
        found = self.client.search_runs([self.experiment_id(experiment)])
        return _by_name((run.info.run_name, self.client.get_run(run.info.run_id)) for run in found)

    def models(self, experiment: str) -> dict[str, Any]:
        """MLflow's models by name; a name that is there twice fails."""
        found = self.client.search_logged_models([self.experiment_id(experiment)], max_results=500)
        return _by_name((model.name, model) for model in found)

    def history(self, run: Any, key: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in self._points(run, key)]

    def _points(self, run: Any, key: str) -> list[Any]:
        points = self.client.get_metric_history(run.info.run_id, key)
        return sorted(points, key=lambda point: (point.step, point.timestamp))

    def everything(self, experiment: str) -> dict[str, Any]:
        """All that MLflow holds of an experiment, without ids, so that two mirrors of one ledger can be compared."""
        runs, models = self.runs(experiment), self.models(experiment)
        names = {run.info.run_id: name for name, run in runs.items()}
        names |= {model.model_id: name for name, model in models.items()}
        held = {name: self._run(run, names) for name, run in runs.items()}
        return held | {name: _model(model, names) for name, model in models.items()}

    def _run(self, run: Any, names: dict[str, str]) -> dict[str, Any]:
        inputs, outputs = run.inputs, run.outputs
        return {
            "times": (run.info.start_time, run.info.end_time, run.info.status),
            "parent": names.get(run.data.tags.get("mlflow.parentRunId", "")),
            "best": [names.get(run.data.tags.get(tag, "")) for tag in _IDS[1:]],
            "artifacts": self._artifacts(run),
            "params": run.data.params,
            "data": [entry.dataset.name for entry in inputs.dataset_inputs],
            "took over": sorted(names[entry.model_id] for entry in inputs.model_inputs),
            "made": sorted((names[out.model_id], out.step) for out in outputs.model_outputs if out.model_id in names),
            "tags": {key: value for key, value in run.data.tags.items() if key not in _IDS},
            "metrics": {
                key: [(point.step, point.timestamp, str(point.value)) for point in self._points(run, key)]
                for key in run.data.metrics
            },
        }

    def _artifacts(self, run: Any) -> list[str]:
        """Names of the files a sweep left; others leave none."""
        is_sweep = run.data.tags["pbt.kind"] == "sweep"
        return sorted(file.path for file in self.client.list_artifacts(run.info.run_id)) if is_sweep else []


def _model(model: Any, names: dict[str, str]) -> dict[str, Any]:
    return {
        "maker": names[model.source_run_id],
        "status": str(model.status),
        "params": model.params,
        "tags": model.tags,
        "metrics": sorted((m.key, m.value, m.step, m.timestamp, m.dataset_name) for m in model.metrics or ()),
    }


def _by_name(named: Any) -> dict[str, Any]:
    pairs = list(named)
    names = [name for name, _ in pairs]
    assert len(names) == len(set(names)), f"doubled: {sorted(names)}"
    return dict(pairs)


class Killed(BaseException):
    """The mirror's process is no more."""


@dataclass
class Flaky:
    """A client that does what a real one does, but for calls it is told to lose.

    `lose` names calls by number, counted from 0; with `late`, the server does its work and only the answer is lost.
    """

    client: MlflowClient
    lose: set[int] = field(default_factory=set)
    late: bool = False
    error: Callable[[], BaseException] = lambda: ConnectionError("the line went dead")
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.client, name)

        def call(*args: Any, **options: Any) -> Any:
            number = len(self.calls)
            self.calls.append((name, options))
            if number not in self.lose:
                return real(*args, **options)
            if self.late:
                real(*args, **options)
            raise self.error()

        return call


@dataclass
class Stopwatch:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def eventful(run: Path) -> Iterator[None]:
    """The scripted sweep of this module, a commit at a time."""
    ledgers.run_json(run, members=3, generations=3, steps=100, space={"lr": ledgers.SPACE["lr"]})
    clock = ledgers.Clock()
    pen = ledgers.Pen(Ledger(run, clock), clock)
    try:
        _take_up(pen, 1, "start")
        for member in range(3):
            pen.begin(member, 0, {"lr": 0.01 * (member + 1)})
        pen.settle()
        yield from _generation(pen, 0, saved=(0, 1, 2))
        pen.exploit(2, 0, 1, {"lr": 0.012}, age=100)
        _own(pen, 1, (0, 1))
        _checkpoint(pen, 0, 0, "removed")
        _checkpoint(pen, 1, 0, "removed")
        yield from _generation(pen, 1, saved=(2,))
        _checkpoint(pen, 2, 1, "damaged")
        pen.ledger.append("incidents", kind="checkpoint_damaged", member=2, segment=1, message="it is damaged")
        _take_up(pen, 2, "resume")
        pen.exploit(1, 0, 2, {"lr": 0.008}, age=200)
        _own(pen, 2, (0, 2))
        yield from _generation(pen, 2, saved=(0, 1))
        pen.finish(best=1, test=1.35)
        pen.ledger.commit()
        yield
        pen.ledger.close(finished=True)
    finally:
        pen.drop()


def tell_eventful(run: Path) -> Path:
    """Write the sweep of this module whole."""
    for _ in eventful(run):
        pass
    return run


def _own(pen: ledgers.Pen, generation: int, members: tuple[int, ...]) -> None:
    for member in members:
        pen.begin(member, generation, pen.hparams[member])
    pen.settle()


def _generation(pen: ledgers.Pen, generation: int, saved: tuple[int, ...]) -> Iterator[None]:
    """Train all, in commits: begun, ended, saved."""
    pen.ledger.commit()
    yield
    pen.clock.now += 30.0
    for member, scores in SCORES.items():
        if (score := scores[generation]) is None:
            pen.fail(member, generation, after=40, reason=ledgers.FAILURE)
        else:
            pen.report(member, generation, score, train=score - 0.1)
    seconds = 30.0 * (generation % 2 + 1)
    costs = {"wall_s": seconds, "device_s": 2 * seconds, "joules": None, "tokens": 150_000 * (generation % 2 + 1)}
    pen.ledger.append("usage", session=1 + generation // 2, **costs)
    busy = {"name": "cpu_utilization_percentage", "value": 90.0 + generation, "wall_s": seconds - 0.5}
    pen.ledger.append("nodes", session=1 + generation // 2, node=0, **busy)
    pen.ledger.commit()
    yield
    for member in saved:
        _checkpoint(pen, member, pen.latest[member].index, "saved")
    pen.ledger.commit()
    yield


def _checkpoint(pen: ledgers.Pen, member: int, segment: int, status: str) -> None:
    size = 4096 if status == "saved" else None
    pen.ledger.append(
        "checkpoints", member=member, segment=segment, digest=digest(member, segment), size_bytes=size, status=status
    )


def digest(member: int, segment: int) -> str:
    """What names the scripted checkpoint of a segment."""
    return f"{member}{segment}" * 32


def _take_up(pen: ledgers.Pen, session: int, reason: str) -> None:
    software = SOFTWARE | {"torch": f"2.13.{session - 1}"}
    pen.ledger.append(
        "sessions",
        session=session,
        reason=reason,
        software=json.dumps(software),
        hardware=json.dumps(HARDWARE),
        git_commit=f"{COMMIT}+changes",
        spec="{}",
    )
