"""Starts a proxy again when it crashes, within its container: at once, not when the kubelet's back-off has passed.

The process that serves is a child of this one. Everything is imported before the first child is made, so the next one
begins where Python has already done its part (some 0.7 s). The parent opens nothing, starts no thread and does nothing
but wait, so that there is little that could end it.

The exit status of a child says whether to restart it: 0 (terminated) and 1 (a port is taken,
the kernel lacks something) are passed on; a signal or ``CRASHED`` begins a new child. More than ``_BURST`` of those
within ``_WINDOW_S`` is not worth hiding: the container ends, and Kubernetes shows it.
"""

import gc
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from meshkit.linux import syscalls
from meshkit.log import logger
from meshkit.process import CRASHED

_BURST: Final = 5
_WINDOW_S: Final = 60.0
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

_log = logger("supervisor")


class Crashes:
    """Whether one more crash is worth one more child."""

    def __init__(self, clock: Callable[[], float], *, burst: int = _BURST, window_s: float = _WINDOW_S) -> None:
        self._clock = clock
        self._window_s = window_s
        self._times: deque[float] = deque(maxlen=burst)
        self.count = 0

    def again(self) -> bool:
        """Note a crash; return whether to start again."""
        now = self._clock()
        full = len(self._times) == self._times.maxlen
        if full and now - self._times[0] < self._window_s:
            return False
        self._times.append(now)
        self.count += 1
        return True


def supervise(serve: Callable[[int], int], crashes: Crashes | None = None) -> int:
    """Run ``serve(number of crashes before)`` in a child until it ends for good; return the exit status.

    Call it from a process without threads: a child has only the thread that made it.
    """
    crashes = crashes or Crashes(time.monotonic)
    # What the collector never touches again stays one memory for parent and children.
    gc.collect()
    gc.freeze()
    while True:
        # Blocked until the child is known: a request to end that comes in between must reach it.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        child = os.fork()
        if child == 0:
            syscalls.die_with_parent(signal.SIGKILL)  # outside of a container it would outlive its parent
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            os._exit(serve(crashes.count))
        status = _wait(child)
        if not _crashed(status):
            return status if status >= 0 else 128 - status
        if not crashes.again():
            _log.error("crashed too often, giving up", status=status, crashes=crashes.count)
            return CRASHED
        _log.error("crashed, starting again", status=status, crashes=crashes.count)


def _wait(child: int) -> int:
    """Hand signals on to the child until it has ended; return its exit status, negative for a signal."""
    for number in _SIGNALS:
        signal.signal(number, lambda number, _: os.kill(child, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    while True:
        ended, status = os.wait()  # as process 1 of a container this one also inherits orphans
        if ended == child:
            return os.waitstatus_to_exitcode(status)


def _crashed(status: int) -> bool:
    return status == CRASHED or (status < 0 and -status not in _SIGNALS)
