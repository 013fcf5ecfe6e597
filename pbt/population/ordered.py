"""Things in ascending order, many of them, coming and going."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T", bound=Any)

#: A block that grows beyond this is cut in two.
_BLOCK = 2048


class Ordered(Generic[T]):
    """A multiset in ascending order.

    Adding, removing, picking and counting each take a few microseconds, whether there are a thousand or a million: the
    things lie in short sorted lists, so that little has to move, and the lists are few.

    Args:
        items: What is in it from the beginning, in any order; comparable with each other, NaN excepted.
    """

    def __init__(self, items: Iterable[T] = ()) -> None:
        flat = sorted(items)
        half = _BLOCK // 2
        self._blocks = [flat[start : start + half] for start in range(0, len(flat), half)]
        self._lasts = [block[-1] for block in self._blocks]
        self._size = len(flat)

    def __len__(self) -> int:
        """How many there are."""
        return self._size

    def __contains__(self, item: T) -> bool:
        """Whether it is there."""
        return self._find(item) is not None

    def __iter__(self) -> Iterator[T]:
        """From the least to the greatest."""
        return (item for block in self._blocks for item in block)

    def __getitem__(self, index: int) -> T:
        """The `index`-th least, counted from 0.

        Raises:
            IndexError: There are not so many.
        """
        if index >= 0:
            for block in self._blocks:
                if index < len(block):
                    return block[index]
                index -= len(block)
        raise IndexError(index)

    def add(self, item: T) -> None:
        """Put one more in."""
        self._size += 1
        if not self._blocks:
            self._blocks, self._lasts = [[item]], [item]
            return
        place = min(bisect_left(self._lasts, item), len(self._blocks) - 1)
        block = self._blocks[place]
        insort(block, item)
        if len(block) > _BLOCK:
            self._blocks[place : place + 1] = block, rest = block[: _BLOCK // 2], block[_BLOCK // 2 :]
            self._lasts.insert(place + 1, rest[-1])
        self._lasts[place] = block[-1]

    def remove(self, item: T) -> None:
        """Take one out.

        Raises:
            ValueError: It is not there.
        """
        if (found := self._find(item)) is None:
            raise ValueError(f"{item!r} is not there")
        place, index = found
        block = self._blocks[place]
        self._size -= 1
        del block[index]
        if block:
            self._lasts[place] = block[-1]
        else:
            del self._blocks[place], self._lasts[place]

    def _find(self, item: T) -> tuple[int, int] | None:
        """Which block it is in, and where there; None if it is not there."""
        place = bisect_left(self._lasts, item)
        if place == len(self._blocks):
            return None
        index = bisect_left(self._blocks[place], item)
        return (place, index) if self._blocks[place][index] == item else None

    def count_below(self, item: T) -> int:
        """How many are less than it."""
        place = bisect_left(self._lasts, item)
        if place == len(self._blocks):
            return self._size
        return sum(map(len, self._blocks[:place])) + bisect_left(self._blocks[place], item)
