"""The checkpoint store: content-addressed safetensors with a JSON file beside each. Nothing is ever unpickled.

    checkpoints/
      <sha256>.safetensors   tensors by plain name; age, consumed and seed in the header
      <sha256>.json          the same counters and what the caller wants to remember, for people

A checkpoint is complete before it is visible: tensors first, then the JSON file, each renamed into place; without the
JSON file a checkpoint does not exist. Its name is the hash of its bytes, and reading verifies it. Nothing that training
goes on from stands in the JSON file alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch

from pbt.errors import StorageError
from pbt.record.ledger import write_atomically
from trainables import Shard, State

#: Key of the counters in the safetensors header.
_FACTS = "pbt.state"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint in the store: the hash that names it, its size, and its file."""

    digest: str
    size_bytes: int
    path: Path


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        folder: Created when the first checkpoint is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, state: State, about: Mapping[str, Any]) -> Checkpoint:
        """Write a state, with JSON-able facts about it.

        Raises:
            StorageError: The folder cannot be written.
        """
        for shard in state.shards:
            if tuple(shard.tensor.shape) != shard.global_shape:
                raise StorageError(f"cannot save {shard.name}: it is one of several shards. Gather the ranks first.")
        facts: dict[str, Any] = {"age": state.age, "consumed": state.consumed, "seed": state.seed}
        facts["order"] = [shard.name for shard in state.shards]
        tensors = {shard.name: shard.tensor.detach().cpu().contiguous() for shard in state.shards}
        data = safetensors.torch.save(tensors, {_FACTS: json.dumps(facts)})
        digest = hashlib.sha256(data).hexdigest()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot write {self._folder}: {error.strerror}.") from error
        path = self._folder / f"{digest}.safetensors"
        write_atomically(path, data)
        write_atomically(path.with_suffix(".json"), json.dumps({**facts, "about": dict(about)}, indent=1).encode())
        return Checkpoint(digest, len(data), path)

    def load(self, digest: str) -> State:
        """Read a checkpoint and verify it.

        Raises:
            StorageError: It is not there, or damaged.
        """
        path = self._folder / f"{digest}.safetensors"
        try:
            path.with_suffix(".json").stat()
            data = path.read_bytes()
        except OSError as error:
            raise StorageError(f"cannot read checkpoint {path}: {error.strerror}.") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise StorageError(f"checkpoint {path} is damaged: its contents do not match its name.")
        facts, tensors = _facts(data), safetensors.torch.load(data)
        shards = []
        for name in facts["order"]:
            shape = tuple(tensors[name].shape)
            shards.append(Shard(name, tensors[name], shape, (0,) * len(shape)))
        return State(tuple(shards), facts["age"], facts["consumed"], facts["seed"])


def _facts(data: bytes) -> dict[str, Any]:
    """The counters in a safetensors header: its length in 8 bytes, then JSON."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    facts: dict[str, Any] = json.loads(header["__metadata__"][_FACTS])
    return facts
