"""Whose fault it was that a stack broke off: its members are trained in halves, until one breaks off alone."""

from __future__ import annotations

from collections.abc import Set


class Suspects:
    """By stack, the sets of slots that are still to be trained apart. The first of them comes next."""

    def __init__(self) -> None:
        self._parts: dict[int, list[frozenset[int]]] = {}

    def next(self, stack: int) -> frozenset[int] | None:
        """Slots to train next, without the others; None if nobody is suspected."""
        parts = self._parts.get(stack)
        return parts[0] if parts else None

    def trained(self, stack: int) -> None:
        """Those whose turn it was were trained: it was none of them."""
        if stack in self._parts:
            self._pop(stack)

    def broke_off(self, stack: int, slots: Set[int]) -> int | None:
        """The training of these slots broke off; returns the slot whose fault it was, once there is only one."""
        if stack in self._parts:
            self._pop(stack)
        if len(slots) == 1:
            return next(iter(slots))
        ordered = sorted(slots)
        half = len(ordered) // 2
        halves = [frozenset(ordered[:half]), frozenset(ordered[half:])]
        self._parts[stack] = halves + self._parts.get(stack, [])
        return None

    def _pop(self, stack: int) -> None:
        del self._parts[stack][0]
        if not self._parts[stack]:
            del self._parts[stack]
