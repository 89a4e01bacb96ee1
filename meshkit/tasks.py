"""Structured background work: backoff with jitter, and loops that outlive their errors."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from meshkit.log import logger

_log = logger("tasks")


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


async def keep_running(
    name: str,
    work: Callable[[], Awaitable[None]],
    *,
    backoff: Backoff,
    healthy_after_s: float = 10.0,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Run ``work`` again and again until cancelled; an error is logged and waited out, never lost.

    A run that lasted ``healthy_after_s`` seconds starts the backoff afresh.
    """
    loop = asyncio.get_running_loop()
    while True:
        started = loop.time()
        reason: str
        try:
            await work()
            reason = "ended"
        except Exception as error:  # whatever it was, the loop goes on and says so
            reason = f"{type(error).__name__}: {error}"
        if loop.time() - started >= healthy_after_s:
            backoff.reset()
        delay_s = backoff.next()
        _log.warning("task stopped, will run again", task=name, reason=reason, retry_in_s=round(delay_s, 3))
        await sleep(delay_s)


def first_cause(error: BaseException) -> BaseException:
    """Return the first error inside (nested) groups, which is what a person wants to read."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
