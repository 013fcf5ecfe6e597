"""Runs of somebody's MLflow experiment, to begin a search with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlflow import MlflowClient

#: Runs of one page of the server's answer.
_PAGE = 500


def runs_of(experiment: str, metric: str) -> Iterator[tuple[Mapping[str, Any], list[tuple[float | None, float]]]]:
    """Parameters, and the metric after steps, of all runs of an experiment; the server is MLflow's own choice.

    Raises:
        ValueError: There is no such experiment.
    """
    client = MlflowClient()
    found = client.get_experiment_by_name(experiment)
    if found is None:
        raise ValueError("there is no such experiment where MLFLOW_TRACKING_URI leads")
    token = None
    while True:
        page = client.search_runs([found.experiment_id], max_results=_PAGE, page_token=token)
        for run in page:
            if metric in run.data.metrics:
                yield run.data.params, _curve(client, run.info.run_id, metric)
        token = page.token
        if not token:
            return


def _curve(client: MlflowClient, run_id: str, metric: str) -> list[tuple[float | None, float]]:
    """One value without steps is that of a run to the end."""
    points = sorted((point.step, point.value) for point in client.get_metric_history(run_id, metric))
    if len(points) == 1 and not points[0][0]:
        return [(None, points[0][1])]
    return [(float(step), value) for step, value in points]
