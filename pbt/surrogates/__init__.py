"""Models of what training brings, fitted to what has been seen: they tell strategies where to try next.

Importing the package loads no torch: names below are loaded when first used (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pbt.surrogates.acquisition import exploration, maximise
    from pbt.surrogates.gaussian import Model, Points, fit, stacked

_HOMES = {
    "exploration": "acquisition",
    "maximise": "acquisition",
    "Model": "gaussian",
    "Points": "gaussian",
    "fit": "gaussian",
    "stacked": "gaussian",
}

__all__ = ["Model", "Points", "exploration", "fit", "maximise", "stacked"]


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
