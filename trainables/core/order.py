"""The order in which a member sees its examples: a pseudo-random permutation, computed one place at a time.

Nothing is stored and nothing is drawn in advance: where a member is in its data is a number, its *cursor*, and which
example stands there follows from the member's seed, the epoch and the cursor alone, in any slot and on any device. In
an epoch every example comes exactly once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainables.core.hold import once
from trainables.core.rng import Draws, mix, seed_word, site

_EPOCH = site("data.epoch")
_ROUND = site("data.order.round")
_POSITIVE = (1 << 62) - 1

#: Rounds of `permute`.
ROUNDS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Sizes:
    """How large several sets are, and what else `permute` must know of each: int64 tensors of one shape.

    Attributes:
        size: Elements, at least 1.
        mask: The largest power of two that is not above the size, less 1.
        shift: Half the bits of the mask, rounded up, at least 1.
    """

    size: Tensor
    mask: Tensor
    shift: Tensor

    @classmethod
    def of(cls, sizes: Sequence[int], device: torch.device) -> Sizes:
        """Some sizes, `(D,)`."""
        columns = zip(*map(_of, sizes), strict=True)
        return cls(*(torch.tensor(column, device=device) for column in columns))

    def at(self, index: Tensor) -> Sizes:
        """Those at an index, in its shape."""
        return Sizes(self.size[index], self.mask[index], self.shift[index])


def _of(size: int) -> tuple[int, int, int]:
    width = size.bit_length() - 1
    return size, (1 << width) - 1, max(1, (width + 1) // 2)


def permute(place: Tensor, key: Tensor, size: int | Sizes) -> Tensor:
    """Where a pseudo-random permutation of `range(size)` takes some places.

    Each round rotates all places, mixes those below the largest power of two by exclusive or, odd multiples and shifts,
    turns the range around, and mixes once more, so that nobody is left out. All of that is one-to-one for every key and
    any size, without a search as in cycle-walking.

    Args:
        place: Int64 in [0, size), of any shape.
        key: Int64, broadcast against `place`: which permutation.
        size: Number of places, at least 1; or one for each, broadcast against `place`.

    Returns:
        Int64 in [0, size), in the shape of both.
    """
    num: Any
    num, mask, shift = (size.size, size.mask, size.shift) if isinstance(size, Sizes) else _of(size)

    def stirred(place: Tensor, word: Tensor) -> Tensor:
        mixed = ((place ^ (word >> 32)) * (word | 1)) & mask
        mixed = ((mixed ^ (mixed >> shift)) * ((word >> 16) | 1)) & mask
        return torch.where(place <= mask, mixed ^ (mixed >> shift), place)

    for number in range(ROUNDS):
        # Held: the rounds in one piece, all of their arithmetic in one loop, take the compiler minutes.
        turn = mix(key + seed_word(_ROUND * (2 * number + 1)))
        word = mix(turn)
        place = once(stirred((place + (turn & _POSITIVE)) % num, word))
        place = once(stirred(num - 1 - place, mix(word)))
    return place


def examples(draws: Draws, where: int, count: int, size: int) -> Tensor:
    """The members' next examples: numbers `(K, count)` in [0, size).

    A member that has consumed s steps stands at place `s * count` of its endless sequence of epochs, each of them
    `size` examples in an order of its own. A batch may end one epoch and begin the next.

    Args:
        draws: The members' seeds, and the steps they have consumed.
        where: The `site` of the data set: two data sets are in unrelated orders.
        count: Examples per member and step.
        size: Examples there are.
    """
    cursor = draws.consumed[:, None] * count + torch.arange(count, device=draws.consumed.device)
    epoch = torch.div(cursor, size, rounding_mode="floor")
    return permute(cursor - epoch * size, epoch_key(draws.seed[:, None], where, epoch), size)


def epoch_key(seed: Tensor, where: int | Tensor, epoch: Tensor) -> Tensor:
    """What names a member's order of a data set (`where`) in an epoch."""
    return once(mix(mix(seed + where) + mix(epoch + _EPOCH)))
