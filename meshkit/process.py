"""A process from its start to its end: signals, and what the exit status means. ``app`` of each process has the rest.

Exit status: 0 after an ordered end; ``CANNOT_RUN`` when something outside of the process is in the way (a port is
taken, the kernel lacks something, Kubernetes cannot be reached), logged in one line; ``CRASHED`` when the process
itself is at fault, logged with its trace.
"""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any, Final

from meshkit.log import logger
from meshkit.tasks import first_cause

CANNOT_RUN: Final = 1
CRASHED: Final = 70
"""``EX_SOFTWARE`` of sysexits.h."""

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

Work = Callable[[asyncio.Event], Coroutine[Any, Any, None]]
"""What a process does. It serves until the event is set, then ends in order; it may set the event itself."""


class Fatal(Exception):
    """The process is at fault and cannot go on; the text says all, so no trace is logged."""


def run(scope: str, work: Work, *, expected: tuple[type[Exception], ...] = (OSError,)) -> int:
    """Run ``work`` on a loop until it ends; return the exit status.

    Args:
        scope: of the log lines, as ``nodeagent``.
        work: gets an event that SIGTERM or SIGINT sets.
        expected: errors that have their reason outside of the process.
    """
    try:
        asyncio.run(_with_signals(work))
    except (Exception, BaseExceptionGroup) as error:
        return _report(scope, first_cause(error), expected)
    return 0


async def _with_signals(work: Work) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop.set)
    try:
        await work(stop)
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


def _report(scope: str, cause: BaseException, expected: tuple[type[Exception], ...]) -> int:
    log = logger(scope)
    if isinstance(cause, expected):
        log.error("cannot run", reason=str(cause) or type(cause).__name__)
        return CANNOT_RUN
    reason = f"{type(cause).__name__}: {cause}"
    if isinstance(cause, Fatal):
        log.error("failed", reason=reason)
    else:
        log.error("failed", reason=reason, exc_info=cause)
    return CRASHED
