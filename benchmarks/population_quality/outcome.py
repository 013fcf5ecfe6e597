"""What one method trained and found with one seed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Stretch:
    """What a member trained with, from one of its own steps to another."""

    member: int
    begin: int
    end: int
    hparams: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The winner of one run: the member that is best on the validation split at the end.

    Attributes:
        score: What the method is judged by; NaN where there is no winner.
        validation: The winner's objective on the validation split.
        test: The same on the test split, evaluated once.
        member_steps: What was trained, counted and not planned.
        hparams: What the winner had at the end.
        seconds: How long the run took, start included.
        error: What went wrong, if anything did.
    """

    score: float = math.nan
    validation: float = math.nan
    test: float = math.nan
    member_steps: int = 0
    hparams: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    error: str = ""
