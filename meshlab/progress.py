"""Progress of long work: a live list of steps on a terminal, one plain line a step elsewhere."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console


class Progress:
    """Says what is going on. Safe to use from several threads."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._lock = threading.Lock()
        self._began = time.monotonic()

    def say(self, line: str) -> None:
        """Write a line, with the seconds since the beginning."""
        with self._lock:
            self._console.print(f"[dim]{time.monotonic() - self._began:6.1f} s[/dim]  {line}", markup=True)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Print that a step is done and how long it took; the caller prints a failure."""
        began = time.monotonic()
        if sys.stderr.isatty():
            with self._console.status(f"{name} …"):
                yield
        else:
            yield
        self.say(f"{name} ({time.monotonic() - began:.1f} s)")
