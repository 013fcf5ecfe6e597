"""What is trained: the contract, the shared training core and the ready trainables.

Light to import: torch is loaded when a name below is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainables.base import (
        Capabilities,
        HparamSpec,
        MetricSpec,
        Place,
        Plan,
        Shard,
        Stack,
        State,
        Trainable,
    )
    from trainables.errors import DataError, TrainableError
    from trainables.language import Language
    from trainables.quadratic import Quadratic
    from trainables.registry import load
    from trainables.shrink import shrink_and_perturb
    from trainables.vision import Vision

__all__ = [
    "Capabilities",
    "DataError",
    "HparamSpec",
    "Language",
    "MetricSpec",
    "Place",
    "Plan",
    "Quadratic",
    "Shard",
    "Stack",
    "State",
    "Trainable",
    "TrainableError",
    "Vision",
    "load",
    "shrink_and_perturb",
]

_ELSEWHERE = {
    "DataError": "errors",
    "Language": "language",
    "Quadratic": "quadratic",
    "TrainableError": "errors",
    "Vision": "vision",
    "load": "registry",
    "shrink_and_perturb": "shrink",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_ELSEWHERE.get(name, 'base')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
