"""pbt trains populations of neural networks.

In Python::

    import pbt

    result = pbt.Sweep(
        trainable="language",
        space="language",
        objective="bits_per_byte",
        budget={"members": 16, "generations": 8, "steps": 50},
    ).run()
    print(result.best.score, result.best.schedule)

Importing the package loads neither torch, ray, botorch nor mlflow: names below are loaded when first used (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pbt.control import extend, resume, stop
    from pbt.dropin import optuna_sampler, tune_scheduler, tune_searcher
    from pbt.errors import PbtError
    from pbt.evidence import replay
    from pbt.handover import export
    from pbt.population import IPBT, MFPB2, MFPBT, PB2, PBT, Arm, Fixed, Halving, Replay
    from pbt.record.result import Result, load
    from pbt.report.report_page import write_report
    from pbt.search import ASHA, MFMES, FreezeThaw, MedianRule, OptunaSearch, RandomSearch, RungEnsemble
    from pbt.spec import Budget, Checkpoints, Component, Hosts, Objective, SweepSpec, Tracking
    from pbt.sweep import Sweep

__all__ = [
    "ASHA",
    "IPBT",
    "MFMES",
    "MFPB2",
    "MFPBT",
    "PB2",
    "PBT",
    "Arm",
    "Budget",
    "Checkpoints",
    "Component",
    "Fixed",
    "FreezeThaw",
    "Halving",
    "Hosts",
    "MedianRule",
    "Objective",
    "OptunaSearch",
    "PbtError",
    "RandomSearch",
    "Replay",
    "Result",
    "RungEnsemble",
    "Sweep",
    "SweepSpec",
    "Tracking",
    "export",
    "extend",
    "load",
    "optuna_sampler",
    "replay",
    "resume",
    "stop",
    "tune_scheduler",
    "tune_searcher",
    "write_report",
]

_HOMES = {
    "Sweep": "sweep",
    **dict.fromkeys(("PBT", "PB2", "MFPB2", "MFPBT", "IPBT", "Fixed", "Halving", "Replay", "Arm"), "population"),
    **dict.fromkeys(
        ("ASHA", "MFMES", "FreezeThaw", "MedianRule", "OptunaSearch", "RandomSearch", "RungEnsemble"), "search"
    ),
    "Result": "record.result",
    "load": "record.result",
    "PbtError": "errors",
    "resume": "control",
    "extend": "control",
    "stop": "control",
    "replay": "evidence",
    "export": "handover",
    **dict.fromkeys(("optuna_sampler", "tune_scheduler", "tune_searcher"), "dropin"),
    "write_report": "report.report_page",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'spec')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
