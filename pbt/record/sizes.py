"""What a step counts in a search that tries smaller models first: so much of a step of the model that is wanted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pbt.member import Hparams


class Sizes:
    """Of models of a run.

    Args:
        info: What `run.json` says.
    """

    def __init__(self, info: Mapping[str, Any]) -> None:
        fidelity = info.get("fidelity") or {}
        self._name: str = fidelity.get("name", "")
        self._rates: list[tuple[Any, float]] = [(value, rate) for value, rate in fidelity.get("rates", ())]

    def rate(self, hparams: Hparams) -> float:
        """Steps of the model that is wanted that one of this one counts."""
        return next((rate for known, rate in self._rates if known == hparams.get(self._name)), 1.0)

    def configuration(self, member: int, hparams: Hparams) -> str:
        """The same for members that are one configuration at several sizes, and for no others."""
        own = {name: value for name, value in hparams.items() if name != self._name}
        return json.dumps(own, sort_keys=True) if self._rates else str(member)

    def is_wanted(self, hparams: Hparams) -> bool:
        """Whether this is the model that is wanted, and not a smaller one."""
        return not self._rates or hparams.get(self._name) == self._rates[-1][0]
