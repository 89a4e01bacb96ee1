"""Waiting for a condition with a deadline."""

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object], *, within_s: float = 5.0) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while not condition():
        assert loop.time() < deadline, f"not true within {within_s} s"
        await asyncio.sleep(0.002)
