"""The brain's hands on the states that stacks publish: saved to the checkpoint store, offered from it, dropped."""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping, Set
from typing import Any, Protocol

from pbt.runtime.checkpoints import Checkpoint, CheckpointStore, Saver
from pbt.runtime.exchange import LocalExchange
from trainables import State


class States(Protocol):
    """What the brain asks for. The token of a state is `MEMBER:SEGMENT`, the segment that ended in it."""

    def offer(self, token: str, digest: str) -> None:
        """Publish a checkpoint.

        Raises:
            StorageError: It is damaged, or gone.
        """

    def save(self, token: str, about: Mapping[str, Any]) -> None:
        """Begin to save a published state, or one about to be; `Brain.saved` or `Brain.not_saved` hears of it."""

    def withdraw(self, token: str) -> None:
        """A state that is to be saved was lost before it was read: let nobody wait for it."""

    def drop(self, token: str) -> None:
        """Nobody will read the state again."""

    def remove(self, digest: str) -> None:
        """Delete a checkpoint."""

    def keep(self, digests: Set[str]) -> None:
        """Delete every checkpoint but these, where possible: whoever wrote the others died before it was on record."""


class Listener(Protocol):
    """Who hears how saving went."""

    def saved(self, token: str, checkpoint: Checkpoint) -> None:
        """A state is a checkpoint now."""

    def not_saved(self, token: str, reason: str) -> None:
        """A state could not be saved."""


#: Seconds to wait for checkpoints being written when everything else has stopped.
_PATIENCE_S = 5.0


def _same(state: Any) -> Any:
    return state


class StoredStates:
    """States in an exchange of this process, and checkpoints in a store. A thread writes while training goes on.

    Args:
        exchange: Holds states, or handles to them.
        store: Holds checkpoints.
        wake: Called, from the writing thread, when `tell` has something to tell.
        wrap: Makes a handle of a state.
        unwrap: The state of a handle.
    """

    def __init__(
        self,
        exchange: LocalExchange,
        store: CheckpointStore,
        wake: Callable[[], None],
        wrap: Callable[[State], Any] = _same,
        unwrap: Callable[[Any], State] = _same,
    ) -> None:
        self._exchange, self._store, self._wake = exchange, store, wake
        self._wrap, self._unwrap = wrap, unwrap
        self._news: queue.SimpleQueue[tuple[str, Checkpoint | str]] = queue.SimpleQueue()
        self._saver = Saver(store, self._hear, self._hear)

    def offer(self, token: str, digest: str) -> None:
        """Publish a checkpoint."""
        self._exchange.publish(token, self._wrap(self._store.load(digest)))

    def save(self, token: str, about: Mapping[str, Any]) -> None:
        """Begin to save a state."""
        self._saver.save(token, lambda: self._unwrap(self._exchange.fetch(token)), about)

    def withdraw(self, token: str) -> None:
        """A state that is to be saved will not come."""
        self._exchange.withdraw(token)

    def drop(self, token: str) -> None:
        """Forget a state."""
        self._exchange.drop(token)

    def remove(self, digest: str) -> None:
        """Delete a checkpoint."""
        self._store.remove(digest)

    def keep(self, digests: Set[str]) -> None:
        """Delete every checkpoint but these."""
        self._store.keep(digests)

    def tell(self, listener: Listener) -> None:
        """Tell how saving went since last asked."""
        while True:
            try:
                token, found = self._news.get_nowait()
            except queue.Empty:
                return
            if isinstance(found, Checkpoint):
                listener.saved(token, found)
            else:
                listener.not_saved(token, found)

    def close(self) -> None:
        """Write no more. What waits for a state that nobody publishes any more is given up."""
        self._exchange.close()
        self._saver.close(timeout=_PATIENCE_S)

    def _hear(self, token: str, found: Checkpoint | str) -> None:
        self._news.put((token, found))
        self._wake()
