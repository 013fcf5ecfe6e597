"""Calls that wait on an event loop until somebody wakes them."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable


class Waiting:
    """Who waits, by what for. Everything happens on one event loop: between a look and a wait nobody else runs."""

    def __init__(self) -> None:
        self._calls: dict[Hashable, set[asyncio.Future[None]]] = {}

    def __contains__(self, key: Hashable) -> bool:
        """Whether somebody waits for this."""
        return key in self._calls

    async def wait(self, key: Hashable) -> None:
        """Wait until this is woken."""
        call = asyncio.get_running_loop().create_future()
        calls = self._calls.setdefault(key, set())
        calls.add(call)
        try:
            await call
        finally:  # woken, or the caller waits no longer
            calls.discard(call)
            if not calls and self._calls.get(key) is calls:
                del self._calls[key]

    def wake(self, keys: Iterable[Hashable]) -> None:
        """Let go of those who wait for any of these; they look for themselves whether that is what they wait for."""
        for key in keys:
            for call in self._calls.pop(key, ()):
                if not call.done():  # cancelled, but it has not run since
                    call.set_result(None)

    def wake_all(self) -> None:
        """Let go of everybody."""
        self.wake(list(self._calls))
