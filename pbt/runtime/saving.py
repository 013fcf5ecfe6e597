"""When members are saved, what is saved already, and what is being written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from pbt.errors import StorageError
from pbt.member import SegmentKey
from pbt.runtime.states import States
from pbt.spec import Checkpoints

#: States of one member that may wait for the disk: one slower than training must not fill the memory.
_WAITING = 2


def token_of(key: SegmentKey) -> str:
    """The token of a member's state at the end of a segment."""
    return f"{key.member}:{key.index}"


def key_of(token: str) -> SegmentKey:
    """The segment whose end state has this token."""
    member, index = token.split(":")
    return SegmentKey(int(member), int(index))


class Saving:
    """Decides when a member is due, and keeps account.

    Args:
        options: When members are saved.
        states: Does the saving.
        clock: Seconds, from any beginning.
        saved: Digest of the checkpoint of each segment saved so far.
    """

    def __init__(
        self, options: Checkpoints, states: States, clock: Callable[[], float], saved: Mapping[SegmentKey, str]
    ) -> None:
        self._options, self._states, self._clock = options, states, clock
        self._began = clock()
        self._last: dict[int, tuple[int, float]] = {}
        self.saved: dict[SegmentKey, str] = dict(saved)
        self.pending: set[SegmentKey] = set()
        self._waiting: Counter[int] = Counter()

    def is_safe(self, key: SegmentKey) -> bool:
        """Whether the state at the end of the segment is saved, or being written."""
        return key in self.saved or key in self.pending

    def is_due(self, key: SegmentKey, consumed: int) -> bool:
        """Whether the member, at the end of this segment with `consumed` steps behind it, is to be saved now."""
        if self.is_safe(key) or self._waiting[key.member] >= _WAITING:
            return False
        steps, at = self._last.get(key.member, (0, self._began))
        every_s = None if self._options.every_minutes is None else self._options.every_minutes * 60
        by_steps = self._options.every_steps is not None and consumed - steps >= self._options.every_steps
        by_time = every_s is not None and self._clock() - at >= every_s
        return by_steps or by_time

    def was_at(self, key: SegmentKey, consumed: int) -> None:
        """An earlier session ended the segment with so many steps behind the member: if it was saved, count from it."""
        if key in self.saved:
            self._last[key.member] = consumed, self._began

    def begin(self, key: SegmentKey, consumed: int, about: Mapping[str, Any]) -> None:
        """Save a state that is published, or about to be."""
        self._last[key.member] = consumed, self._clock()
        self.pending.add(key)
        self._waiting[key.member] += 1
        self._states.save(token_of(key), about)

    def end(self, key: SegmentKey, digest: str | None) -> None:
        """It is saved, or could not be."""
        if key in self.pending:
            self.pending.discard(key)
            self._waiting[key.member] -= 1
        if digest is not None:
            self.saved[key] = digest

    def remove(self, keys: Iterable[SegmentKey]) -> None:
        """Forget checkpoints, and delete the files that no other segment shares."""
        gone = [self.saved.pop(key) for key in keys]
        for digest in set(gone) - set(self.saved.values()):
            with suppress(StorageError):  # the ledger does not name it: it goes when the sweep is taken up again
                self._states.remove(digest)
