"""The order in which a member sees its examples: a pseudo-random permutation, computed one place at a time.

Nothing is stored and nothing is drawn in advance: where a member is in its data is a number, its *cursor*, and which
example stands there follows from the member's seed, the epoch and the cursor alone, in any slot and on any device. In
an epoch every example comes exactly once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.core.hold import once
from trainables.core.rng import Draws, mix, seed_word, site

_EPOCH = site("data.epoch")
_ROUND = site("data.order.round")
_POSITIVE = (1 << 62) - 1

#: Rounds of `permute`.
ROUNDS = 4


def permute(place: Tensor, key: Tensor, size: int) -> Tensor:
    """Where a pseudo-random permutation of `range(size)` takes some places.

    Each round rotates all places, mixes those below the largest power of two by exclusive or, odd multiples and shifts,
    turns the range around, and mixes once more, so that nobody is left out. All of that is one-to-one for every key and
    any size, without a search as in cycle-walking.

    Args:
        place: Int64 in [0, size), of any shape.
        key: Int64, broadcast against `place`: which permutation.
        size: Number of places, at least 1.

    Returns:
        Int64 in [0, size), in the shape of both.
    """
    width = size.bit_length() - 1
    mask, shift = (1 << width) - 1, max(1, (width + 1) // 2)

    def stirred(place: Tensor, word: Tensor) -> Tensor:
        mixed = ((place ^ (word >> 32)) * (word | 1)) & mask
        mixed = ((mixed ^ (mixed >> shift)) * ((word >> 16) | 1)) & mask
        return torch.where(place <= mask, mixed ^ (mixed >> shift), place)

    for number in range(ROUNDS):
        # Held: the rounds in one piece, all of their arithmetic in one loop, take the compiler minutes.
        turn = mix(key + seed_word(_ROUND * (2 * number + 1)))
        word = mix(turn)
        place = once(stirred((place + (turn & _POSITIVE)) % size, word))
        place = once(stirred(size - 1 - place, mix(word)))
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
    key = once(mix(mix(draws.seed + where)[:, None] + mix(epoch + _EPOCH)))
    return permute(cursor - epoch * size, key, size)
