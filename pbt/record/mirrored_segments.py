"""What a mirror of the ledger shows of single segments, and of the weights they ended in. Pure; knows no server."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pbt.member import SegmentKey
from pbt.record.mirrored import (
    DESCRIPTION,
    Entry,
    Point,
    Row,
    Story,
    flat,
    is_there,
    key_of,
    measurement,
    milliseconds,
    points,
    verdict,
)

#: What all our descriptions of models begin with; one that begins otherwise is a person's own.
OURS = "Weights of member "


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """The weights a segment ended in, as a model.

    Attributes:
        name: `member-3-segment-5`.
        step: The member's `consumed`.
        is_kept: Whether their file is there.
        params: The hyperparameters they were last trained with.
        tags: Whose they are, and where they lie.
        metrics: What was measured of them. Those that are no number are left out: MLflow keeps such a one as 0.
    """

    name: str
    step: int
    is_kept: bool
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Sequence[Point]


def segment_metrics(story: Story, rows: Iterable[Entry]) -> dict[SegmentKey, list[Point]]:
    """What rows have to say of single segments: of each its part of its member's curves."""
    found: dict[SegmentKey, list[Point]] = defaultdict(list)
    for table, row in rows:
        if table == "segments":
            at = milliseconds(row["at"])
            found[key_of(row)] += points(story.state(row, row["age_start"]), row["consumed_start"], at)
        elif table == "outcomes":
            found[key_of(row)] += story.at_end(row)
        elif table == "metrics":
            found[key_of(row)] += measurement(row)
    return found


def segment_params(story: Story, key: SegmentKey) -> dict[str, str]:
    """A segment's hyperparameters, which are constant in it."""
    return flat(json.loads(story.segment(key)["hparams"]))


def segment_tags(story: Story, key: SegmentKey) -> dict[str, str]:
    """What is true of a segment now."""
    row, outcome = story.segment(key), story.outcomes.get(key)
    told = {name: row[name] for name in ("start", "generation", "stack", "age_start", "consumed_start")}
    if row.get("parent_member") is not None:
        told |= {name: row[name] for name in ("parent_member", "parent_segment")}
    if row.get("shrink"):
        told["shrink"] = row["shrink"]
    if outcome and outcome.get("consumed_end") is not None:
        told |= {name: outcome[name] for name in ("age_end", "consumed_end")}
    tags = {f"pbt.{name}": str(value) for name, value in told.items()}
    return tags | story.descent(row) | (verdict(outcome) if outcome else {"pbt.status": "running"})


def touched(story: Story, rows: Iterable[Entry]) -> list[SegmentKey]:
    """Segments of whose weights rows may tell something new, in order."""
    keys: set[SegmentKey] = set()
    for table, row in rows:
        if table == "segments" and row["start"] == "copied":
            keys.add(SegmentKey(row["parent_member"], row["parent_segment"]))
        elif table == "checkpoints" or (table in ("outcomes", "metrics") and _is_model(story, key_of(row))):
            keys.add(key_of(row))
    return sorted(keys)


def _is_model(story: Story, key: SegmentKey) -> bool:
    return key in story.takers or key in story.checkpoints


def weights(story: Story, key: SegmentKey, *, even_if_never_saved: bool) -> Weights | None:
    """The weights a segment ended in, if they are to be shown: while they are kept, and always if they were copied.

    Args:
        story: All that is known.
        key: The segment.
        even_if_never_saved: Whether to show copied ones, too, that went from device to device and to no file.
    """
    outcome, saved = story.outcomes.get(key), story.checkpoints.get(key)
    is_kept = saved is not None and is_there(saved)
    is_copied = key in story.takers and (saved is not None or even_if_never_saved)
    if outcome is None or outcome.get("consumed_end") is None or not (is_kept or is_copied):
        return None
    return Weights(
        name=f"member-{key.member}-segment-{key.index}",
        step=outcome["consumed_end"],
        is_kept=is_kept,
        params=segment_params(story, key),
        tags=_weights_tags(key, outcome, saved) | {DESCRIPTION: _in_words(story, key, outcome, saved)},
        metrics=[point for point in _measured(story, key, outcome) if not math.isnan(point.value)],
    )


def _weights_tags(key: SegmentKey, outcome: Row, saved: Row | None) -> dict[str, str]:
    told = {"member": key.member, "segment": key.index, "age": outcome["age_end"], "score": outcome.get("score")}
    tags = {f"pbt.{name}": str(value) for name, value in told.items() if value is not None}
    if saved is None:
        return tags | {"pbt.weights": "never saved"}
    tags["pbt.digest"] = saved["digest"]
    if not is_there(saved):
        return tags | {"pbt.weights": saved["status"]}
    file = f"checkpoints/{saved['digest']}.safetensors"
    return tags | {"pbt.weights": "kept", "pbt.file": file, "pbt.load": f'safetensors.torch.load_file("RUN/{file}")'}


def _in_words(story: Story, key: SegmentKey, outcome: Row, saved: Row | None) -> str:
    """The same, and who took them over, for MLflow's page of a model, which shows neither tags nor that."""
    score = outcome.get("score")
    told = [f"{OURS}{key.member} at age {outcome['age_end']}" + ("." if score is None else f": {score:.6g}.")]
    if saved is not None and is_there(saved):
        told.append(f"They are in the run's folder, in `checkpoints/{saved['digest']}.safetensors`.")
    else:
        why = "were never saved" if saved is None else f"were saved, and are {saved['status']}"
        told.append(
            f"They {why}. *Failed* is MLflow's word for a model without its file: nothing went wrong in training."
        )
    if takers := sorted({taker.member for taker in story.takers.get(key, ())}):
        who = f"member {takers[0]}" if len(takers) == 1 else f"members {', '.join(map(str, takers))}"
        told.append(f"Taken over by {who}.")
    return " ".join(told)


def _measured(story: Story, key: SegmentKey, outcome: Row) -> list[Point]:
    """The score, and every metric measured at the segment's end."""
    at, end = milliseconds(outcome["at"]), outcome["consumed_end"]
    score = [] if outcome.get("score") is None else points([("score", outcome["score"])], end, at)
    rows = [row for row in story.measured.get(key, {}).values() if row["consumed"] == end]
    return score + [point for row in rows for point in measurement(row)]
