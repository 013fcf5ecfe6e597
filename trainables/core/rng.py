"""Random numbers as a pure function of (seed, consumed, site, index).

No generator state exists: a draw depends on the member's seed, on how many steps it has consumed, on where in the
program the draw is made (its *site*) and on the element's index, and on nothing else. So a member draws the same
numbers in any slot, at any capacity, on any device, eager or compiled.

The hash is SplitMix64 used as a counter-based generator: a key is mixed from (seed, consumed, site), and element i
is `mix(key + (i + 1) * GAMMA)`. All arithmetic is int64, wrapping modulo 2**64.

Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators"; the mixing function is Stafford's
variant 13, as in Java's SplittableRandom and Vigna's splitmix64.c.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


def _signed(value: int) -> int:
    """The int64 with the same bits as `value` modulo 2**64."""
    return (value + 2**63) % 2**64 - 2**63


_GAMMA = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def seed_word(seed: int) -> int:
    """The int64 that stands for a member's seed, whatever its size."""
    return _signed(seed)


@torch.compiler.assume_constant_result
def site(name: str) -> int:
    """The int64 that names a place where random numbers are drawn."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little", signed=True)


def _shift_right(h: Tensor, count: int) -> Tensor:
    """Logical shift: torch's `>>` on int64 keeps the sign."""
    return (h >> count) & ((1 << (64 - count)) - 1)


def mix(h: Tensor) -> Tensor:
    """SplitMix64's finaliser: a bijection of int64 in which every input bit moves about half the output bits."""
    h = (h ^ _shift_right(h, 30)) * _MIX_1
    h = (h ^ _shift_right(h, 27)) * _MIX_2
    return h ^ _shift_right(h, 31)


def bits(key: Tensor, num: int, first: int = 0) -> Tensor:
    """`num` random int64 words per key, from word `first` on: `(K,)` -> `(K, num)`."""
    index = torch.arange(first + 1, first + num + 1, dtype=torch.int64, device=key.device)
    return mix(key[:, None] + index * _GAMMA)


def uniform(key: Tensor, num: int) -> Tensor:
    """`num` float64 values per key, uniform in [0, 1) with 53 bits."""
    return _shift_right(bits(key, num), 11).to(torch.float64) * 2.0**-53


def below(key: Tensor, num: int, high: int | Tensor) -> Tensor:
    """`num` integers per key, uniform in [0, high); `high` at most 2**31, one for all or `(K,)` int64."""
    return (_shift_right(bits(key, num), 33) * (high if isinstance(high, int) else high[:, None])) >> 31


def normal(key: Tensor, num: int) -> Tensor:
    """`num` float64 standard normal values per key, by inversion."""
    half_open = uniform(key, num) + 2.0**-54  # never exactly 0
    return torch.erfinv(2.0 * half_open - 1.0) * 2.0**0.5


def keep(key: Tensor, num: int, p: Tensor, first: int = 0) -> Tensor:
    """Dropout's mask: True with probability `1 - p[k]`, `(K, num)`.

    One hashed word serves four elements with 16 bits each, so `p` acts rounded to a multiple of 2**-16.

    Args:
        key: `(K,)` int64.
        num: Elements per key.
        p: `(K,)` probability of dropping, in [0, 1).
        first: Where in the mask to begin: its elements before that are left out.
    """
    word, lane = divmod(first, 4)
    lanes = bits(key, -(-(lane + num) // 4), word).view(torch.int16)[:, lane : lane + num]
    threshold = (p * 65536.0).round() - 32768.0
    return lanes >= threshold.clamp(max=32767.0).to(torch.int16)[:, None]


@dataclass(frozen=True, slots=True)
class Draws:
    """The random draws of one step.

    Attributes:
        seed: The members' seeds, `(K,)` int64.
        consumed: Their counters, `(K,)` int64.
        part: Which micro-batch of the step this is, from 0. What is drawn for each example begins at element
            `part * num` of the site's, so that the micro-batches together draw what the whole batch would.
    """

    seed: Tensor
    consumed: Tensor
    part: int = 0

    def key(self, where: int) -> Tensor:
        """The `(K,)` key of one site at this step."""
        return mix(mix(mix(self.seed) + self.consumed * _GAMMA) + where)
