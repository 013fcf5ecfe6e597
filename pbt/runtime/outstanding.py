"""Orders at work: given to hosts and not answered yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Set
from dataclasses import dataclass

from pbt.runtime.drafts import Draft
from pbt.runtime.orders import WorkOrder


@dataclass(frozen=True, slots=True)
class AtWork:
    """An order at work.

    Attributes:
        order: The order.
        draft: What it was made of, to be carried out again if the stack is lost; None if it is a recovery's.
        is_closing: Whether it only saves, at the end.
        released_s: When it was given.
    """

    order: WorkOrder
    draft: Draft | None
    is_closing: bool
    released_s: float


class Outstanding:
    """At most one order for each stack. What is asked of all orders together costs the same however many there are."""

    def __init__(self) -> None:
        self._by_stack: dict[int, AtWork] = {}
        self._published: Counter[str] = Counter()
        self._fetched: Counter[str] = Counter()
        self._released_s = 0.0

    def __len__(self) -> int:
        """Number of orders."""
        return len(self._by_stack)

    @property
    def stacks(self) -> Set[int]:
        """Stacks that have an order."""
        return self._by_stack.keys()

    def add(self, item: AtWork) -> None:
        """An order is given."""
        self._by_stack[item.order.stack] = item
        self._count(item, 1)

    def get(self, stack: int, order: str) -> AtWork | None:
        """The order of this id, if the stack has it."""
        known = self._by_stack.get(stack)
        return known if known is not None and known.order.id == order else None

    def take(self, stack: int) -> AtWork | None:
        """The stack has no order any more; returns the one it had."""
        known = self._by_stack.pop(stack, None)
        if known is not None:
            self._count(known, -1)
        return known

    def publishes(self, token: str) -> bool:
        """Whether an order publishes this state."""
        return token in self._published

    def fetches(self, token: str) -> bool:
        """Whether an order fetches this state."""
        return token in self._fetched

    @property
    def fetched(self) -> Set[str]:
        """Tokens of the states that orders fetch, or have fetched."""
        return self._fetched.keys()

    def busy_s(self, now: float) -> float:
        """Seconds that all orders have been at work so far, summed."""
        return len(self) * now - self._released_s

    def _count(self, item: AtWork, sign: int) -> None:
        self._released_s = self._released_s + sign * item.released_s if self._by_stack else 0.0
        for counter, tokens in (
            (self._published, [part.token for part in item.order.publish]),
            (self._fetched, [part.token for part in item.order.fetch]),
        ):
            for token in tokens:
                counter[token] += sign
                if not counter[token]:
                    del counter[token]
