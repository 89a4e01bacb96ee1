"""Waiting for events."""

import asyncio
import sys
from typing import Any

import pytest

from meshkit.tasks import happens


async def test_an_event_happens_or_does_not() -> None:
    event = asyncio.Event()
    assert not await happens(event, 0.001)
    asyncio.get_running_loop().call_soon(event.set)
    assert await happens(event, 10)


@pytest.mark.parametrize("turns", range(4))
async def test_a_cancellation_around_the_event_is_not_lost(turns: int) -> None:
    event = asyncio.Event()
    assert not await loses(asyncio.create_task(happens(event, 10)), event, turns)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="corrected in Python 3.12: ours can go with support of 3.11")
async def test_the_librarys_own_function_loses_one() -> None:
    """The reason for ours."""
    lost = []
    for turns in range(4):
        event = asyncio.Event()
        lost.append(await loses(asyncio.create_task(asyncio.wait_for(event.wait(), 10)), event, turns))
    assert any(lost)


async def loses(task: asyncio.Task[Any], event: asyncio.Event, turns: int) -> bool:
    """Cancel a task some turns of the loop after its event; return whether it ran on although it had not ended."""
    await asyncio.sleep(0.001)
    event.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    was_done = task.done()
    task.cancel()
    await asyncio.wait({task})
    return not was_done and not task.cancelled()
