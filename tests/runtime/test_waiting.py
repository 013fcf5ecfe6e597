"""Calls that wait until somebody wakes them."""

from __future__ import annotations

import asyncio

from pbt.runtime.waiting import Waiting


async def begun(waiting: Waiting, *keys: str) -> list[asyncio.Task[None]]:
    """Calls that wait for these."""
    calls = [asyncio.create_task(waiting.wait(key)) for key in keys]
    await asyncio.sleep(0)
    return calls


def test_who_waits_for_something_is_woken_by_it_alone():
    """Everybody who does; others wait on."""

    async def play() -> list[bool]:
        waiting = Waiting()
        calls = await begun(waiting, "a", "b", "a")
        waiting.wake(["a", "nobody's"])
        await asyncio.sleep(0)
        done = [call.done() for call in calls]
        waiting.wake_all()
        await asyncio.gather(*calls)
        return done

    assert [True, False, True] == asyncio.run(play())


def test_who_waits_again_is_woken_again():
    """As one does who was woken for nothing."""

    async def play() -> None:
        waiting = Waiting()
        for _ in range(2):
            (call,) = await begun(waiting, "a")
            waiting.wake(["a"])
            await asyncio.wait_for(call, 10.0)

    asyncio.run(play())


def test_who_waits_no_longer_leaves_nothing():
    """A host may ask every few seconds, for a month."""

    async def play() -> tuple[bool, bool]:
        waiting = Waiting()
        first, second = await begun(waiting, "a", "a")
        first.cancel()
        await asyncio.sleep(0)
        is_waiting = "a" in waiting
        second.cancel()
        await asyncio.sleep(0)
        return is_waiting, "a" in waiting

    assert (True, False) == asyncio.run(play())


def test_who_is_woken_after_it_gave_up_does_no_harm():
    """Before it has run."""

    async def play() -> None:
        waiting = Waiting()
        first, second = await begun(waiting, "a", "a")
        first.cancel()
        waiting.wake(["a"])
        await asyncio.wait_for(second, 10.0)

    asyncio.run(play())
