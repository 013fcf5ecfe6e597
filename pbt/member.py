"""Members, the slots they sit in, and the one source of their randomness."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

#: A hyperparameter's values by name. A Simplex value is itself a mapping of parts to weights.
Hparams: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True, order=True)
class Slot:
    """A place in a stack: `stack` numbers the sweep's stacks, `index` the slots of one."""

    stack: int
    index: int


@dataclass(frozen=True, slots=True, order=True)
class SegmentKey:
    """Names a segment: the `index`-th stretch of training of `member`, counted from 0."""

    member: int
    index: int


@dataclass(frozen=True, slots=True)
class Shrinkage:
    """Shrink and perturb: parameters become `keep * trained + noise * fresh`, and the optimizer begins anew.

    Attributes:
        keep: Share of the trained parameters, in [0, 1].
        noise: Share of the fresh ones, in [0, 1].
        seed: Of the fresh ones.
    """

    keep: float
    noise: float
    seed: int


def lay_out(members: int, stacks: int) -> tuple[Slot, ...]:
    """One slot per member, in member order, dealt to `stacks` stacks as evenly as they go.

    Raises:
        ValueError: There are more stacks than members, or none.
    """
    if not 1 <= stacks <= members:
        raise ValueError(f"cannot divide {members} members into {stacks} stacks")
    bounds = [members * stack // stacks for stack in range(stacks + 1)]
    return tuple(
        Slot(stack, member - bounds[stack])
        for stack in range(stacks)
        for member in range(bounds[stack], bounds[stack + 1])
    )


def generator(seed: int, purpose: str, *ids: int) -> np.random.Generator:
    """A generator that depends on nothing but the arguments.

    Strategies draw each decision from its own generator, named by what it is for, so that a decision does not depend
    on the order in which others were made, and no generator state has to be saved.
    """
    return np.random.default_rng([seed, int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:4]), *ids])


def member_seed(seed: int, member: int) -> int:
    """The member's own seed, a whole number in `[0, 2**62)`."""
    return int(generator(seed, "member seed", member).integers(2**62))
