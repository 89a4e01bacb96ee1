"""Waiting for a condition with a deadline."""

import asyncio
import os
from collections.abc import Callable
from typing import Final

TIMEOUT_FACTOR: Final = float(os.environ.get("CULVERT_TEST_TIMEOUT_FACTOR", "1"))
"""How many times longer than on an ordinary machine anything may take; for an emulated processor (``tests/vm``)."""


def scaled(seconds: float) -> float:
    """What a number of seconds on an ordinary machine is worth on this one."""
    return seconds * TIMEOUT_FACTOR


async def until(condition: Callable[[], object], *, within_s: float = 5.0) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + scaled(within_s)
    while not condition():
        assert loop.time() < deadline, f"not true within {scaled(within_s)} s"
        await asyncio.sleep(0.002)
