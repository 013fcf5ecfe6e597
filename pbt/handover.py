"""What was found, in a folder to be taken elsewhere: weights, how they came about, and a script that trains the like.

    FOLDER/
      weights.safetensors   parameters and buffers by plain name, without the optimizer's
      winner.json           score, schedule, hyperparameters, sweep, seed, digest, versions, ancestry
      train_winner.py       trains by the schedule from scratch; needs torch and the package `trainables`, not pbt

Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from pprint import pformat
from typing import Any

import safetensors.torch

from pbt.errors import SpecError, StorageError
from pbt.lineage import Reference, Segment, tell
from pbt.record.ledger import write_atomically
from pbt.record.mirrored import without_secrets
from pbt.record.result import Result
from pbt.report.provenance import named
from pbt.report.show import without_nan
from pbt.runtime.checkpoints import CheckpointStore
from pbt.spec import require
from trainables import State

#: What a user needs of a state, by the beginnings of names; all of it where nothing has such a name.
_KINDS = ("params.", "buffers.", "counters.")


def export(result: Result, folder: str | Path, *, member: Reference | None = None) -> Path:
    """Write a member's weights, how they came about, and a script that trains the like from scratch.

    Args:
        result: The run.
        folder: To be made; it is there with all of its files, or not at all.
        member: Whose weights: `3`, `"3:5"` or `"best"`; None takes the announced winner's.

    Returns:
        The folder.

    Raises:
        LedgerError: No member is named, and there is no winner.
        MemberNotFound: There is no such member or segment.
        SpecError: The folder exists, or the segment is still under way.
        StorageError: Weights were not saved or are damaged, or the folder cannot be written.
    """
    folder = Path(folder)
    segment = _segment(result, result.best.member if member is None else member)
    require(not folder.exists(), "--output", f"{folder} exists", "Name a folder that does not")
    digest = _digest(result, segment)
    state = CheckpointStore(result.path / "checkpoints").load(digest)
    weights = safetensors.torch.save(_weights(state))
    facts = _facts(result, segment) | {"checkpoint": digest, "weights_sha256": hashlib.sha256(weights).hexdigest()}
    _write(
        folder,
        {
            "weights.safetensors": weights,
            "winner.json": json.dumps(without_nan(facts), indent=1).encode(),
            "train_winner.py": script(result, segment).encode(),
        },
    )
    return folder


def _segment(result: Result, member: Reference) -> Segment:
    """The segment that ended in the weights that are meant."""
    found = result.lineage.find(named(result, member) if isinstance(member, str) else member)
    if found.status != "ended":
        raise SpecError("member", f"segment {tell(found.key)} has not ended", "Name one that has, such as 3:5")
    return found


def _digest(result: Result, segment: Segment) -> str:
    """Name of the checkpoint of a segment's end.

    Raises:
        StorageError: There is none.
    """
    rows = result.rows["checkpoints"]
    last = {(row["member"], row["segment"]): row for row in rows}
    saved = [key for key, row in last.items() if row["status"] in (None, "saved")]
    key = (segment.key.member, segment.key.index)
    if key not in saved:
        there = ", ".join(f"{one}:{index}" for one, index in sorted(saved)[:8]) or "none"
        raise StorageError(f"the weights of {tell(segment.key)} are not saved. Name one of those that are: {there}.")
    digest: str = last[key]["digest"]
    return digest


def _weights(state: State) -> dict[str, Any]:
    """Tensors by plain name: without what only training goes on from."""
    chosen = {shard.name: shard.tensor for shard in state.shards if shard.name.startswith(_KINDS)}
    if not chosen:
        return {shard.name: shard.tensor.contiguous() for shard in state.shards}
    return {name.partition(".")[2]: tensor.contiguous() for name, tensor in chosen.items()}


def _facts(result: Result, segment: Segment) -> dict[str, Any]:
    info, key = result.run.info, segment.key
    is_winner = result.winner == key.member and result.lineage.last(key.member).key == key
    return {
        "run": result.run.id,
        "member": key.member,
        "segment": key.index,
        "is_winner": is_winner,
        "objective": dict(info["objective"]),
        "score": segment.score,
        "metrics": result.last_metrics(key.member) if is_winner else {},
        "age": segment.age[1],
        "hparams": dict(segment.hparams),
        "schedule": [_step(step) for step in result.lineage.schedule(key)],
        "seed": segment.seed,
        "spec": without_secrets(info["spec"]),
        "data": info.get("data", {}),
        "device": info.get("device"),
        "versions": info.get("versions", {}),
        "digest": result.digest(),
        "ancestry": [_ancestor(one) for one in result.lineage.path(key)],
    }


def _step(step: Any) -> dict[str, Any]:
    shrunk = {} if step.shrink is None else {"shrink": asdict(step.shrink)}
    return {
        "age_start": step.age_start,
        "age_end": step.age_end,
        "member": step.member,
        "hparams": dict(step.hparams),
        **shrunk,
    }


def _ancestor(one: Segment) -> dict[str, Any]:
    return {
        "segment": tell(one.key),
        "start": one.start,
        "parent": None if one.parent is None else tell(one.parent),
        "age": list(one.age),
        "seed": one.seed,
        "score": one.score,
        "hparams": dict(one.hparams),
    }


# --------------------------------------------------------------------------------------------------------- the script


def script(result: Result, segment: Segment) -> str:
    """A plain script that trains by the schedule of a segment's weights."""
    info = result.run.info
    spec, objective = info["spec"], info["objective"]
    steps = result.lineage.schedule(segment.key)
    values: Mapping[str, Any] = {
        "TRAINABLE": spec["trainable"]["name"],
        "OPTIONS": spec["trainable"]["options"],
        "DATA": info.get("data", {}),
        "METRIC": objective["metric"],
        "SPLIT": objective["split"],
        "PRECISION": spec["hosts"].get("precision", "fp32"),
        "SEED": segment.seed,
        "SHRINK": {step.age_start: asdict(step.shrink) for step in steps if step.shrink is not None},
    }
    text = (files("pbt.report") / "assets" / "train_winner.py.txt").read_text(encoding="utf-8")
    text = text.replace("@TITLE@", f"member {segment.key.member} of {result.run.id}")
    for name, value in values.items():
        text = text.replace(f"@{name}@", pformat(value, width=100, sort_dicts=False))
    stretches = "".join(f"    ({step.age_end}, {dict(step.hparams)!r}),\n" for step in steps)
    return text.replace("@SCHEDULE@", f"[\n{stretches}]")


def _write(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Make a folder that is there whole or not at all.

    Raises:
        StorageError: It cannot be written.
    """
    parent = folder.absolute().parent
    if not parent.is_dir():
        raise StorageError(f"cannot write {folder}: there is no folder {parent}. Make it, or name another: --output.")
    try:
        made = parent / f".{folder.name}-{os.getpid()}"
        made.mkdir()
        try:
            for name, data in contents.items():
                write_atomically(made / name, data)
            made.rename(folder)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
    except OSError as error:
        raise StorageError(f"cannot write {folder} ({error.strerror}). Name another folder: --output.") from error
