"""Which published states somebody will still read."""

from __future__ import annotations

from collections.abc import Callable, Iterable


class Tokens:
    """Drops a published state once its last reader is through.

    Args:
        drop: Called with a token that nobody will read again.
    """

    def __init__(self, drop: Callable[[str], None]) -> None:
        self._drop = drop
        self._readers: dict[str, set[str]] = {}
        self._published: set[str] = set()

    def reads(self, token: str, reader: str) -> None:
        """Somebody will read the state."""
        self._readers.setdefault(token, set()).add(reader)

    def read(self, token: str, reader: str) -> None:
        """Somebody has read the state, or will not."""
        readers = self._readers.get(token, set())
        readers.discard(reader)
        if not readers:
            self._readers.pop(token, None)
            if token in self._published:
                self._published.discard(token)
                self._drop(token)

    def read_all(self, tokens: Iterable[str], reader: str) -> None:
        """Somebody has read these states."""
        for token in tokens:
            self.read(token, reader)

    def published_all(self, tokens: Iterable[str]) -> None:
        """These states are at hand. One that nobody reads any more is dropped."""
        for token in tokens:
            self._published.add(token)
            if token not in self._readers:
                self._published.discard(token)
                self._drop(token)

    def gone(self, tokens: Iterable[str]) -> None:
        """These states are at hand no more, whoever was to read them."""
        self._published.difference_update(tokens)

    def is_published(self, token: str) -> bool:
        """Whether the state is at hand."""
        return token in self._published

    def is_read_by(self, token: str, reader: str) -> bool:
        """Whether this reader will read the state."""
        return reader in self._readers.get(token, set())
