"""What MLflow takes at once."""

from __future__ import annotations

from mlflow.entities import Metric, Param, RunTag
from mlflow.protos.service_pb2 import LogBatch
from mlflow.utils.proto_json_utils import message_to_json
from mlflow.utils.validation import _validate_batch_log_api_req, _validate_batch_log_limits

from pbt.record.mlflow_batches import Batch, batches, cut_params, cut_tags


def taken(found: list[Batch]) -> list[Batch]:
    """Batches as MLflow's server checks them."""
    for batch in found:
        _validate_batch_log_limits(**batch)
        messages = {kind: [entry.to_proto() for entry in entries] for kind, entries in batch.items()}
        _validate_batch_log_api_req(message_to_json(LogBatch(run_id="r" * 32, **messages)))
    return found


def test_much_of_everything_is_cut_into_what_the_server_takes() -> None:
    """In order, with nothing left out, and nothing twice."""
    metrics = [Metric("m" * 250, float(step), 1_700_000_000_000, step) for step in range(2_300)]
    params = [Param(f"{number:0250d}", 'ü"' * 3_000) for number in range(250)]
    tags = [RunTag(f"{number:0250d}", "\n" * 8_000) for number in range(250)]
    found = taken(list(batches(metrics, params, tags)))
    for kind, wanted in {"metrics": metrics, "params": params, "tags": tags}.items():
        assert wanted == [entry for batch in found for entry in batch[kind]]


def test_short_entries_fill_a_batch() -> None:
    """1,000 in all, of which 100 params and 100 tags: no call is wasted."""
    metrics = [Metric("loss", 1.0, 0, step) for step in range(1_600)]
    params, tags = [Param(str(n), "1") for n in range(200)], [RunTag(str(n), "1") for n in range(200)]
    found = taken(list(batches(metrics, params, tags)))
    sizes = [[len(batch[kind]) for kind in ("metrics", "params", "tags")] for batch in found]
    assert [[1_000, 0, 0], [600, 100, 0], [0, 100, 100], [0, 0, 100]] == sizes


def test_nothing_is_no_batch() -> None:
    assert [] == list(batches([], [], []))


def test_names_and_values_are_made_to_fit() -> None:
    """Odd characters become underscores; what is too long ends in dots."""
    assert {"what _unit__": "1"} == cut_params({"what (unit)?": 1})
    assert {"k" * 250: "v" * 5_997 + "..."} == cut_params({"k" * 300: "v" * 6_001})
    assert {"k": "v" * 7_997 + "..."} == cut_tags({"k": "v" * 8_001})
    assert {"k": "v" * 8_000} == cut_tags({"k": "v" * 8_000})
