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
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pbt import dialect
from pbt.errors import StorageError
from pbt.record.ledger import write_atomically
from pbt.record.mirrored import without_secrets
from pbt.record.result import Result
from pbt.report.plots.subject import best_entries, unit
from pbt.report.text import hparam

Ints: TypeAlias = NDArray[np.int32]

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
    parts = {
        "title": html.escape(f"{result.run.id}: lineage"),
        "style": _asset("lineage.css"),
        "program": _asset("lineage.js"),
        "data": pack(head, columns),
    }
    page = _asset("lineage.html")
    for name, part in parts.items():
        page = page.replace(f"{{{{{name}}}}}", part)
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
    segments = _Segments(result.tables)
    domains = result.run.info.get("hparams", {})
    hparams = {f"hparam/{place}": values for place, values in enumerate(_hparams(domains, segments.hparams))}
    words = _Words()
    reasons = _reasons(result.tables["decisions"], segments, words)
    series, points, left_out = _curves(result, segments)
    head = {
        "run": _facts(result),
        "hparams": [_described(name, domain) for name, _, domain in _flat(domains)],
        "series": series,
        "leftOut": left_out,
        "saved": _saved(result.tables["checkpoints"], segments),
        "words": words.texts,
    }
    return head, {**segments.columns, **hparams, **_in_effect(domains, segments, hparams), **reasons, **points}


class _Segments:
    """The segments in order of member and time, and how they ended."""

    def __init__(self, tables: Mapping[str, pa.Table]) -> None:
        rows = tables["segments"].sort_by([("member", "ascending"), ("segment", "ascending")])
        self.member, self._index = _ints(rows["member"]), _ints(rows["segment"])
        self.hparams = rows["hparams"]
        self.ids, self._first = np.unique(self.member, return_index=True)
        ends = tables["outcomes"]
        where = self.find(_ints(ends["member"]), _ints(ends["segment"]))
        count = len(self.member)
        score = np.full(count, np.nan)
        score[where] = _floats(ends["score"])
        is_scored = np.zeros(count, dtype=bool)
        is_scored[where] = ends["score"].is_valid().to_numpy()
        status = np.full(count, STATUSES.index("running"), dtype=np.uint8)
        status[where] = _places(ends["status"], STATUSES)
        parent = self.find(_ints(rows["parent_member"]), _ints(rows["parent_segment"]))
        held = np.full(count, None, dtype=object)
        held[where] = ends["hparams_in_effect"].to_numpy(zero_copy_only=False)
        self.in_effect = pa.chunked_array([pa.array(held, type=pa.string())])
        self.reasons = {int(at): text for at, text in zip(where, ends["reason"].to_pylist(), strict=True) if text}
        self.columns: dict[str, NDArray[Any]] = {
            "segment/member": self.member,
            "segment/generation": _ints(rows["generation"]),
            "segment/start": _places(rows["start"], STARTS),
            "segment/parent": parent,
            "segment/status": status,
            "segment/scored": np.where(is_scored, np.where(np.isnan(score), 2, 1), 0).astype(np.uint8),
            "segment/score": score.astype(np.float32),
            "segment/age": _ints(rows["age_start"]),
            "segment/ageEnd": self._ends(rows, ends, where, "age"),
            "segment/consumed": _ints(rows["consumed_start"]),
            "segment/consumedEnd": self._ends(rows, ends, where, "consumed"),
            "segment/stack": _ints(rows["stack"]),
        }

    def find(self, member: Ints, index: Ints) -> Ints:
        """Places of segments in that order; -1 where there is none."""
        slot = np.searchsorted(self.ids, member).clip(max=max(0, len(self.ids) - 1))
        if not len(self.ids):
            return np.full(len(member), -1, dtype=np.int32)
        found = np.minimum(self._first[slot] + np.maximum(index, 0), len(self.member) - 1)
        is_there = (self.member[found] == member) & (self._index[found] == index)
        return np.where(is_there, found, -1).astype(np.int32)

    @staticmethod
    def _ends(rows: pa.Table, ends: pa.Table, where: Ints, name: str) -> Ints:
        """Where segments end; -1 while they are under way."""
        found = np.full(rows.num_rows, -1, dtype=np.int32)
        found[where] = _ints(ends[f"{name}_end"])
        return found


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


def _hparams(domains: Mapping[str, Any], ordered: pa.ChunkedArray) -> list[NDArray[np.float32]]:
    """A column for each varied hyperparameter; NaN where it is not active. Options are told by their places.

    The parts of a simplex are hyperparameters of their own.
    """
    coded = pc.dictionary_encode(ordered.combine_chunks())  # most segments have another's: read once
    values = [json.loads(text) for text in coded.dictionary.to_pylist()]
    places = pc.fill_null(coded.indices, len(values)).to_numpy(zero_copy_only=False)
    found = []
    for _, keys, domain in _flat(domains):
        options = list(domain["options"]) if "options" in domain else None
        numbers = [*(_number(row, keys, options) for row in values), float("nan")]
        found.append(np.array(numbers, dtype=np.float32)[places])
    return found


def _in_effect(
    domains: Mapping[str, Any], segments: _Segments, ordered: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """What the device held, for hyperparameters of which it was not, to rounding, what was ordered."""
    found = {}
    for place, held in enumerate(_hparams(domains, segments.in_effect)):
        wanted = ordered[f"hparam/{place}"]
        is_other = np.isfinite(held) & ~np.isclose(held, wanted, rtol=1e-6, atol=0.0)
        if is_other.any():
            found[f"effect/{place}"] = np.where(is_other, held, np.float32("nan"))
    return found


def _described(name: str, domain: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: domain[key] for key in ("type", "low", "high", "log") if key in domain}
    return {"name": name, **kept, "options": [hparam(option) for option in domain.get("options", ())]}


def _flat(domains: Mapping[str, Any]) -> list[tuple[str, tuple[str, ...], Mapping[str, Any]]]:
    """Name, keys and domain of each; a simplex part by part."""
    found: list[tuple[str, tuple[str, ...], Mapping[str, Any]]] = []
    for name, domain in domains.items():
        if domain.get("type") == "simplex":
            share = {"type": "float", "low": 0.0, "high": 1.0}
            found += [(f"{name}/{part}", (name, part), share) for part in domain["parts"]]
        else:
            found.append((name, (name,), domain))
    return found


def _number(values: Any, keys: Sequence[str], options: list[Any] | None) -> float:
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    if options is not None:
        return float(options.index(values)) if values in options else float("nan")
    return float("nan") if values is None else float(values)


def _reasons(decisions: pa.Table, segments: _Segments, words: _Words) -> dict[str, NDArray[Any]]:
    """Why members took over others' weights, why they did not, and why they failed.

    Columns:
        `event/segment`: the segment a copy began, at whose end an exploit was declined, or which failed.
        `event/kind`: 0 copied, 1 declined, 2 failed. `event/donor`: a member, or -1. `event/words`: the reason.
    """
    found: list[tuple[int, int, int, int]] = []
    kinds = {"copy": 0, "decline": 1}
    chosen = decisions.filter(pc.is_in(decisions["kind"], pa.array(list(kinds))))
    member, index = _ints(chosen["member"]), _ints(chosen["segment"])
    is_copy = np.array([kind == "copy" for kind in chosen["kind"].to_pylist()], dtype=np.int32)
    where, donors = segments.find(member, index + is_copy), _ints(chosen["donor"])
    for place, kind, donor, reason in zip(
        where, chosen["kind"].to_pylist(), donors, chosen["reason"].to_pylist(), strict=True
    ):
        if place >= 0 and reason:
            found.append((int(place), kinds[kind], int(donor), words.place(reason)))
    found += [(place, 2, -1, words.place(reason.partition("\n")[0])) for place, reason in segments.reasons.items()]
    names = ("segment", "kind", "donor", "words")
    columns = np.array(sorted(found), dtype=np.int32).reshape(-1, 4).T
    return {f"event/{name}": np.ascontiguousarray(column) for name, column in zip(names, columns, strict=True)}


def _curves(result: Result, segments: _Segments) -> tuple[list[dict[str, str]], dict[str, NDArray[Any]], list[str]]:
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
        own = rows.filter(pc.and_(pc.equal(rows["split"], split), pc.equal(rows["name"], name)))
        if own.num_rows > room:
            left_out.append(f"{split} {name}")
            continue
        room -= own.num_rows
        where, age = segments.find(_ints(own["member"]), _ints(own["segment"])), _ints(own["age"])
        order = np.lexsort((age, where))
        order = order[where[order] >= 0]
        prefix = f"points/{len(told)}"
        columns[f"{prefix}/segment"], columns[f"{prefix}/age"] = where[order], age[order]
        columns[f"{prefix}/value"] = _floats(own["value"])[order].astype(np.float32)
        told.append(
            {"split": split, "name": name, "unit": str(result.run.info["metrics"].get(name, {}).get("unit", ""))}
        )
    return told, columns, left_out


def _saved(checkpoints: pa.Table, segments: _Segments) -> list[tuple[int, str]]:
    """Segments whose end is in a checkpoint that is still there, and its digest."""
    kept: dict[int, str] = {}
    where = segments.find(_ints(checkpoints["member"]), _ints(checkpoints["segment"]))
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


# ------------------------------------------------------------------------------------------------------- columns


def _ints(values: pa.ChunkedArray) -> Ints:
    """Whole numbers, -1 where there is none."""
    return pc.fill_null(values, -1).to_numpy().astype(np.int32)


def _floats(values: pa.ChunkedArray) -> NDArray[np.float64]:
    """Numbers, NaN where there is none."""
    return pc.fill_null(values, float("nan")).to_numpy().astype(np.float64)


def _places(values: pa.ChunkedArray, among: Sequence[str]) -> NDArray[np.uint8]:
    """Places of words among those known."""
    return pc.fill_null(pc.index_in(values, pa.array(among)), 0).to_numpy().astype(np.uint8)
