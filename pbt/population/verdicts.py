"""Who stands where, and what may be decided about a member when it is compared with others."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from pbt.member import Hparams, Shrinkage
from pbt.spec import Mode
from pbt.strategy import badness

#: Reports that a standing goes back: as many as Jaderberg et al. 2017 (arXiv 1711.09846, section 4.1.1) compare.
RECENT = 10


@dataclass(frozen=True, slots=True)
class Standing:
    """A member at its last report.

    Attributes:
        member: Who.
        score: The objective; NaN if it diverged.
        hparams: What it had trained with.
        age: Steps in the ancestry of its weights.
        recent: `(age, score)` of the last reports in that ancestry, at most `RECENT`, this one included and last.
    """

    member: int
    score: float
    hparams: Hparams
    age: int
    recent: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Replace:
    """The receiver goes on from the donor's weights, with these hyperparameters."""

    receiver: int
    donor: int
    hparams: Hparams
    reason: str


@dataclass(frozen=True, slots=True)
class Restart:
    """The member begins again from new weights, with these hyperparameters."""

    member: int
    hparams: Hparams
    seed: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Keep:
    """The member was considered for replacement and goes on as it is."""

    member: int
    reason: str


@dataclass(frozen=True, slots=True)
class Adopt:
    """The member goes on in its own weights, with these hyperparameters."""

    member: int
    hparams: Hparams


@dataclass(frozen=True, slots=True)
class Renew:
    """The member goes on from weights, its own or a donor's, shrunk and perturbed, with these hyperparameters."""

    member: int
    donor: int
    hparams: Hparams
    how: Shrinkage
    reason: str


Verdict: TypeAlias = Replace | Restart | Keep | Adopt | Renew


def rank(standings: Iterable[Standing], mode: Mode) -> list[Standing]:
    """From best to worst; NaN last, behind even infinity, and ties in member order."""
    return sorted(standings, key=lambda it: (math.isnan(it.score), badness(it.score, mode), it.member))
