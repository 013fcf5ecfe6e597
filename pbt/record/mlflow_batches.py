"""What MLflow takes: how long names and values may be, and how much of them at once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, TypeAlias

from mlflow.entities import Metric, Param, RunTag

from pbt.record.mirrored import TAG_CHARS
from pbt.record.schema import canonical

#: Arguments of a `log_batch`, by name.
Batch: TypeAlias = dict[str, list[Any]]

#: MLflow takes so many in one `log_batch`, 1,000 of all kinds together, and 1 MB.
_MOST: Mapping[str, int] = {"metrics": 1_000, "params": 100, "tags": 100}
_MOST_ENTRIES, _MOST_CHARS = 1_000, 900_000
_PARAM_CHARS, _KEY_CHARS = 6_000, 250


def key(name: str) -> str:
    """A name MLflow accepts."""
    return re.sub(r"[^\w\-. :/]", "_", name)[:_KEY_CHARS]


def cut_tags(tags: Mapping[str, Any]) -> dict[str, str]:
    """Tags with names and values that MLflow takes."""
    return {key(name): _cut(value, TAG_CHARS) for name, value in tags.items()}


def cut_params(params: Mapping[str, Any]) -> dict[str, str]:
    """Params with names and values that MLflow takes."""
    return {key(name): _cut(value, _PARAM_CHARS) for name, value in params.items()}


def _cut(value: Any, limit: int) -> str:
    text = value if isinstance(value, str) else canonical(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def batches(metrics: Iterable[Metric], params: Iterable[Param], tags: Iterable[RunTag]) -> Iterator[Batch]:
    """Cut into what one `log_batch` takes: by number, and by length as JSON."""
    entries = chain(*([(kind, entry) for entry in group] for kind, group in _named(metrics, params, tags)))
    batch, chars = _empty(), 0
    for kind, entry in entries:
        more = _chars(kind, entry)
        full = sum(map(len, batch.values())) == _MOST_ENTRIES or len(batch[kind]) == _MOST[kind]
        if full or chars + more > _MOST_CHARS:
            yield batch
            batch, chars = _empty(), 0
        batch[kind].append(entry)
        chars += more
    if any(batch.values()):
        yield batch


def _named(*groups: Iterable[Any]) -> Iterable[tuple[str, Iterable[Any]]]:
    return zip(_MOST, groups, strict=True)


def _empty() -> Batch:
    return {kind: [] for kind in _MOST}


def _chars(kind: str, entry: Any) -> int:
    """At most so many characters of a request; a metric's other fields are numbers and short names."""
    if kind == "metrics":
        return 300 + len(entry.key) + len(entry.dataset_name or "")
    return 50 + len(entry.key) + len(json.dumps(entry.value))
