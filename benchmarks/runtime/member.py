"""What Ray trains. It imports neither torch nor anything of ours: an actor that Ray starts anew is up at once."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from ray import tune


class Member(tune.Trainable):
    """The same, as Ray Tune has it: a trial for each member."""

    def setup(self, config: dict[str, Any]) -> None:
        """Called in a new actor."""
        self._weights = np.zeros(int(config["state_mb"] * 10**6 // 4), np.float32)
        self._took: float | None = None

    def step(self) -> dict[str, Any]:
        """Wait."""
        time.sleep(self.config["segment_s"])
        took, self._took = self._took, None
        score = np.random.default_rng().random()
        return {"score": score, "ended_at": time.time(), "took_ms": took}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """As people write it."""
        now = time.time()
        np.save(Path(checkpoint_dir) / "weights.npy", self._weights)
        (Path(checkpoint_dir) / "given_at.json").write_text(json.dumps(now))

    def load_checkpoint(self, checkpoint_dir: str) -> None:  # type: ignore[override]
        """As people write it."""
        self._weights = np.load(Path(checkpoint_dir) / "weights.npy")
        self._took = 1e3 * (time.time() - json.loads((Path(checkpoint_dir) / "given_at.json").read_text()))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Only the learning rate changes."""
        return True
