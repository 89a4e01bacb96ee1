"""The engine's events on an asyncio loop: a descriptor is watched, batches are drained, nobody is called back from Rust."""

import asyncio
from collections.abc import AsyncIterator

from meshengine._native import Engine


async def batches(engine: Engine) -> AsyncIterator[bytes]:
    """Yield serialized ``EventBatch`` messages as they come, until the iteration is given up."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    descriptor = engine.event_fd()
    loop.add_reader(descriptor, ready.set)
    try:
        while True:
            await ready.wait()
            ready.clear()
            yield engine.drain_events()
    finally:
        loop.remove_reader(descriptor)
