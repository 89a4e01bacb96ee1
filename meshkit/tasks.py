"""What long-running work needs: backoff with jitter, background tasks, and the one error to report out of a group."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Backoff:
    """Delays in seconds that double from ``first_s`` to ``cap_s``, each spread by ``jitter`` (a share of itself).

    Not shared between tasks.
    """

    first_s: float = 0.01
    cap_s: float = 15.0
    jitter: float = 0.2
    random: Callable[[], float] = random.random
    _next_s: float = field(init=False, default=0.0)

    def next(self) -> float:
        """Return the next delay in seconds."""
        self._next_s = min(self.cap_s, self._next_s * 2 or self.first_s)
        return self._next_s * (1 + self.jitter * (2 * self.random() - 1))

    def reset(self) -> None:
        """Begin again with the first delay: the work has succeeded."""
        self._next_s = 0.0


async def happens(event: asyncio.Event, timeout_s: float) -> bool:
    """Wait for an event; return false when it does not happen within ``timeout_s`` seconds.

    Not ``asyncio.wait_for``: before Python 3.12 it loses a cancellation that comes at the moment of the event
    (python/cpython issue 86296), and a task that was cancelled then runs for ever.
    """
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return False
    return True


def first_cause(error: BaseException) -> BaseException:
    """Return the first error inside (nested) groups, which is what a person wants to read."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class Background:
    """Tasks that run while a block does; see ``background``."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._running: list[asyncio.Task[None]] = []

    def start(self, *work: Coroutine[Any, Any, None]) -> list[asyncio.Task[None]]:
        """Start tasks; one of them may be cancelled earlier than the others."""
        started = [self._group.create_task(one) for one in work]
        self._running += started
        return started

    def cancel(self) -> None:
        """Cancel all tasks."""
        for task in self._running:
            task.cancel()


@asynccontextmanager
async def background() -> AsyncIterator[Background]:
    """Run tasks while the block runs: its end cancels them and waits for them, and the first failure ends the block.

    Raises:
        ExceptionGroup: of the errors of the tasks and of the block.
    """
    async with asyncio.TaskGroup() as group:
        made = Background(group)
        yield made
        made.cancel()
