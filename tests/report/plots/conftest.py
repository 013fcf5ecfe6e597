"""Sweeps that pictures must bear."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from pbt.record.result import Result, load
from tests import ledgers

#: One hyperparameter of every kind there is.
SPACE: dict[str, dict[str, Any]] = {
    "lr": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
    "beta2": {"type": "float", "low": 0.9, "high": 0.9999, "log_complement": True},
    "layers": {"type": "int", "low": 1, "high": 6},
    "warmup": {"type": "int", "low": 1, "high": 5000, "log": True},
    "schedule": {"type": "choice", "options": ["cosine", "constant", "a rather long name"]},
    "final": {"type": "float", "low": 0.0, "high": 1.0, "when": {"schedule": "cosine"}},
    "nesterov": {"type": "choice", "options": [False, True]},
    "mixture": {"type": "simplex", "parts": ["code", "prose", "talk"]},
}


def sample(rng: np.random.Generator) -> dict[str, Any]:
    """A point of the space; `final` is active under `cosine` only."""
    schedule = str(rng.choice(SPACE["schedule"]["options"]))
    weights = rng.dirichlet([1.0, 1.0, 1.0]).tolist()
    return {
        "lr": float(10 ** rng.uniform(-4, -1)),
        "beta2": 1 - float(10 ** rng.uniform(-4, -1)),
        "layers": int(rng.integers(1, 7)),
        "warmup": int(10 ** rng.uniform(0, 3.69)),
        "schedule": schedule,
        "nesterov": bool(rng.random() < 0.5),
        "mixture": dict(zip(("code", "prose", "talk"), weights, strict=True)),
        **({"final": float(rng.random())} if schedule == "cosine" else {}),
    }


def lr_gain(hparams: Any) -> float:
    """Only the learning rate matters."""
    return 0.3 * math.exp(-((math.log10(hparams["lr"]) + 2.3) ** 2))


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The scripted sweep."""
    return load(ledgers.tell(tmp_path_factory.mktemp("small") / "made-up-1"))


@pytest.fixture(scope="session")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A sweep with a hyperparameter of every kind."""
    run = tmp_path_factory.mktemp("rich") / "run"
    return load(ledgers.evolve(run, space=SPACE, sample=sample, gain=lr_gain, members=16, generations=8))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Two members, one generation."""
    return load(ledgers.simulate(tmp_path_factory.mktemp("tiny") / "run", members=2, generations=1))


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """More members than any picture has rows; one diverges and one fails."""
    return load(ledgers.simulate(tmp_path_factory.mktemp("many") / "run", members=100, generations=10))
