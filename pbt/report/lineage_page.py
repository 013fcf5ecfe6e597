"""The lineage as a page for a browser: one HTML file that needs nothing else, neither network nor server.

What the ledger says travels inside the page as columns (`_Columns`), read once and vectorised, for a sweep has
hundreds of thousands of segments. Style and program are in `assets/`; the program draws, this module only prepares.
"""

from __future__ import annotations

import base64
import html
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pbt import dialect
from pbt.errors import StorageError
from pbt.record.frame import Frame, points, whole
from pbt.record.ledger import write_atomically
from pbt.record.mirrored import without_secrets
from pbt.record.result import Result
from pbt.report.plots.subject import Varied, best_entries, parts, unit
from pbt.report.text import hparam

#: Points of learning curves in a page; what comes beyond is left out, series by series, and the page says so.
MAX_POINTS = 600_000
#: How a segment began, how it ended, and what is known of its score: places in these are what the columns hold.
STARTS, STATUSES, SCORES = ("fresh", "own", "copied"), ("ended", "running", "failed"), ("none", "number", "diverged")


def write_lineage_page(result: Result, path: Path | None = None) -> Path:
    """Write the lineage of a run as one HTML file.

    Args:
        result: The run, finished or not.
        path: The file; None writes `lineage.html` in the run's folder.

    Returns:
        The file.

    Raises:
        StorageError: It cannot be written.
    """
    path, text = path or result.path / "lineage.html", lineage_page(result)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}. Name another file with --html.") from error
    return path


def lineage_page(result: Result) -> str:
    """The lineage of a run as the text of an HTML page."""
    head, columns = page_data(result)
    pieces = {
        "title": html.escape(f"{result.run.id}: lineage"),
        "style": _asset("lineage.css"),
        "program": _asset("lineage.js"),
        "data": pack(head, columns),
    }
    page = _asset("lineage.html")
    for name, piece in pieces.items():
        page = page.replace(f"{{{{{name}}}}}", piece)
    return page


def _asset(name: str) -> str:
    return (files("pbt.report") / "assets" / name).read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------------------- packing


def pack(head: Mapping[str, Any], columns: Mapping[str, NDArray[Any]]) -> str:
    """Head and columns as text for a page: base64 of zlib of length, JSON and the columns' bytes, aligned to eight.

    The JSON is the head with `columns`: name, type, offset behind the JSON, and length of each.
    """
    entries, body = [], bytearray()
    for name, values in columns.items():
        entries.append([name, values.dtype.name, len(body), len(values)])
        body += values.astype(values.dtype.newbyteorder("<")).tobytes()
        body += bytes(-len(body) % 8)
    text = json.dumps({**head, "columns": entries}, allow_nan=False, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % 8)
    return base64.b64encode(zlib.compress(len(text).to_bytes(8, "little") + text + bytes(body), 6)).decode()


def unpack(text: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What `pack` was given."""
    data = zlib.decompress(base64.b64decode(text))
    start = 8 + int.from_bytes(data[:8], "little")
    head = json.loads(data[8:start])
    columns = {
        name: np.frombuffer(data, dtype=np.dtype(kind).newbyteorder("<"), count=length, offset=start + offset)
        for name, kind, offset, length in head.pop("columns")
    }
    return head, columns


# ---------------------------------------------------------------------------------------------------------- data


def page_data(result: Result) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What the page shows: facts about the run, and a column for every property of segments, events and points.

    Returns:
        The head, which is JSON, and the columns. Those of segments have a value for each, in order of member and time:
        `segment/...`, `hparam/N`, and `effect/N` where the device did not hold what was ordered. `event/...` are what
        was said of copies, failures, and exploits that were declined; `points/N/...` the learning curves.
    """
    frame, panels, words = result.frame, parts(result), _Words()
    hparams = {f"hparam/{n}": frame.each(panel.height).astype(np.float32) for n, panel in enumerate(panels)}
    reasons = _reasons(result.tables["decisions"], frame, words)
    series, curves, left_out = _curves(result)
    head = {
        "run": _facts(result),
        "hparams": [_described(panel) for panel in panels],
        "series": series,
        "leftOut": left_out,
        "saved": _saved(result.tables["checkpoints"], frame),
        "words": words.texts,
    }
    return head, {**_segments(frame), **hparams, **_in_effect(frame, panels, hparams), **reasons, **curves}


def _segments(frame: Frame) -> dict[str, NDArray[Any]]:
    """A column for every property of segments."""
    kinds = {  # places in STARTS, STATUSES and SCORES
        "start": np.where(frame.is_copy, 2, frame.is_own),
        "status": np.select([frame.is_ended, frame.is_failed], [0, 2], 1),
        "scored": np.where(frame.is_scored, np.where(np.isnan(frame.score), 2, 1), 0),
    }
    numbers = {name: getattr(frame, name) for name in ("member", "generation", "parent", "stack")}
    for name, span in (("age", frame.age), ("consumed", frame.consumed)):
        numbers |= {name: span[:, 0], f"{name}End": np.nan_to_num(span[:, 1], nan=-1)}
    columns = {name: values.astype(np.int32) for name, values in numbers.items()}
    columns |= {name: values.astype(np.uint8) for name, values in kinds.items()}
    columns |= {"score": frame.score.astype(np.float32)}
    return {f"segment/{name}": values for name, values in columns.items()}


@dataclass
class _Words:
    """Texts, each kept once and known by its place."""

    texts: list[str] = field(default_factory=list)
    _places: dict[str, int] = field(default_factory=dict)

    def place(self, text: str) -> int:
        """The text's place."""
        if text not in self._places:
            self._places[text] = len(self.texts)
            self.texts.append(text)
        return self._places[text]


def _in_effect(frame: Frame, panels: Sequence[Varied], ordered: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """What the device held, for hyperparameters of which it was not, to rounding, what was ordered."""
    found = {}
    for place, panel in enumerate(panels):
        held = frame.each_in_effect(panel.height).astype(np.float32)
        is_other = np.isfinite(held) & ~np.isclose(held, ordered[f"hparam/{place}"], rtol=1e-6, atol=0.0)
        if is_other.any():
            found[f"effect/{place}"] = np.where(is_other, held, np.float32("nan"))
    return found


def _described(panel: Varied) -> dict[str, Any]:
    kept = {key: panel.domain[key] for key in ("type", "low", "high", "log") if key in panel.domain}
    return {"name": panel.name, **kept, "options": [hparam(option) for option in panel.options]}


def _reasons(decisions: pa.Table, frame: Frame, words: _Words) -> dict[str, NDArray[Any]]:
    """Why members took over others' weights, why they did not, and why they failed.

    Columns:
        `event/segment`: the segment that a copy, or shrunk or new weights, began; at whose end an exploit was
            declined; or which failed.
        `event/kind`: 0 copied, 1 declined, 2 failed, 3 shrunk, 4 begun again.
        `event/donor`: a member, or -1.
        `event/words`: the reason.
    """
    found: list[tuple[int, int, int, int]] = []
    kinds = {"copy": 0, "decline": 1, "shrink": 3, "start": 4}
    chosen = decisions.filter(pc.is_in(decisions["kind"], pa.array(list(kinds))))
    opens = np.array([kind != "decline" for kind in chosen["kind"].to_pylist()], dtype=np.int64)
    where = frame.find(whole(chosen, "member"), whole(chosen, "segment") + opens)
    donors = whole(chosen, "donor")
    for place, kind, donor, reason in zip(
        where, chosen["kind"].to_pylist(), donors, chosen["reason"].to_pylist(), strict=True
    ):
        if place >= 0 and reason:
            found.append((int(place), kinds[kind], int(donor), words.place(reason)))
    failed = ((place, reason) for place, reason in enumerate(frame.reason.to_pylist()) if reason)
    found += [(place, 2, -1, words.place(reason.partition("\n")[0])) for place, reason in failed]
    names = ("segment", "kind", "donor", "words")
    columns = np.array(sorted(found), dtype=np.int32).reshape(-1, 4).T
    return {f"event/{name}": np.ascontiguousarray(column) for name, column in zip(names, columns, strict=True)}


def _curves(result: Result) -> tuple[list[dict[str, str]], dict[str, NDArray[Any]], list[str]]:
    """Learning curves: for each metric its points, in order of member and time; the objective first."""
    objective = result.run.info["objective"]
    first = (objective["split"], objective["metric"])
    rows = result.tables["metrics"]
    rows = rows.filter(pc.not_equal(rows["split"], "system"))
    counts = rows.group_by(["split", "name"]).aggregate([([], "count_all")]).to_pylist()
    wanted = sorted(((row["split"], row["name"]) for row in counts), key=lambda key: (key != first, key))
    told: list[dict[str, str]] = []
    columns: dict[str, NDArray[Any]] = {}
    left_out, room = [], MAX_POINTS
    for split, name in wanted:
        own = points(rows, result.frame, split, name)
        if len(own.entry) > room:
            left_out.append(f"{split} {name}")
            continue
        room -= len(own.entry)
        prefix = f"points/{len(told)}"
        columns[f"{prefix}/segment"] = own.entry.astype(np.int32)
        columns[f"{prefix}/age"] = own.age.astype(np.int32)
        columns[f"{prefix}/value"] = own.value.astype(np.float32)
        told.append(
            {"split": split, "name": name, "unit": str(result.run.info["metrics"].get(name, {}).get("unit", ""))}
        )
    return told, columns, left_out


def _saved(checkpoints: pa.Table, frame: Frame) -> list[tuple[int, str]]:
    """Segments whose end is in a checkpoint that is still there, and its digest."""
    kept: dict[int, str] = {}
    where = frame.find(whole(checkpoints, "member"), whole(checkpoints, "segment"))
    for place, status, digest in zip(
        where, checkpoints["status"].to_pylist(), checkpoints["digest"].to_pylist(), strict=True
    ):
        kept.pop(int(place), None)
        if status in (None, "saved") and place >= 0:
            kept[int(place)] = digest
    return sorted(kept.items())


def _facts(result: Result) -> dict[str, Any]:
    info = result.run.info
    spec, objective = info["spec"], info["objective"]
    path, link = best_entries(result), result.path / "mlflow.json"
    return {
        "id": result.run.id,
        "trainable": spec["trainable"]["name"],
        "strategy": spec["strategy"]["name"],
        "objective": {**objective, "unit": unit(info)},
        "steps": spec["budget"]["steps"],
        "generations": spec["budget"]["generations"],
        "created": info["created"],
        "seed": spec["seed"],
        "digest": "" if result.status == "running" else result.digest(),  # takes seconds, and would not be the last
        "sweep": dialect.write(without_secrets(spec)),  # the page is to be sent to people
        "status": result.status,
        "best": int(path[-1]) if len(path) else None,
        "announced": result.winner is not None,
        "mlflow": json.loads(link.read_bytes())["url"] if link.exists() else None,
    }
