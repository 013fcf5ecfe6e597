"""The checkpoint store: content-addressed safetensors with a JSON file beside each. Nothing is ever unpickled.

    checkpoints/
      <sha256>.safetensors   tensors by plain name
      <sha256>.json          age, consumed, seed, and what the caller wants to remember

A checkpoint is complete before it is visible: tensors first, then the JSON file, each renamed into place; without the
JSON file a checkpoint does not exist. Its name is the hash of its bytes, and reading verifies it.
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
        data = safetensors.torch.save({shard.name: shard.tensor.detach().cpu().contiguous() for shard in state.shards})
        digest = hashlib.sha256(data).hexdigest()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot write {self._folder}: {error.strerror}.") from error
        path = self._folder / f"{digest}.safetensors"
        write_atomically(path, data)
        facts = {"age": state.age, "consumed": state.consumed, "seed": state.seed, "about": dict(about)}
        facts["order"] = [shard.name for shard in state.shards]
        write_atomically(path.with_suffix(".json"), json.dumps(facts, indent=1).encode())
        return Checkpoint(digest, len(data), path)

    def load(self, digest: str) -> State:
        """Read a checkpoint and verify it.

        Raises:
            StorageError: It is not there, or damaged.
        """
        path = self._folder / f"{digest}.safetensors"
        try:
            facts = json.loads(path.with_suffix(".json").read_bytes())
            data = path.read_bytes()
        except OSError as error:
            raise StorageError(f"cannot read checkpoint {path}: {error.strerror}.") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise StorageError(f"checkpoint {path} is damaged: its contents do not match its name.")
        tensors = safetensors.torch.load(data)
        shards = []
        for name in facts["order"]:
            shape = tuple(tensors[name].shape)
            shards.append(Shard(name, tensors[name], shape, (0,) * len(shape)))
        return State(tuple(shards), facts["age"], facts["consumed"], facts["seed"])
