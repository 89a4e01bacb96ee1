"""The kubelet's probes reach captured pods: keeps the host's rules at the addresses of the pods that are captured."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from meshkit.linux.changes import Changes
from nodeagent.capture.backend import CaptureBackend


class ProbeExemption:
    """Owns what the backend keeps on the host."""

    def __init__(self, backend: CaptureBackend, host: Path, wanted: Callable[[], frozenset[str]]) -> None:
        """Exempt ``wanted()`` in the namespace at ``host``."""
        self._backend = backend
        self._host = host
        self._wanted = wanted
        self._made: frozenset[str] | None = None
        self._turn = asyncio.Lock()
        self._removed = False

    async def update(self) -> None:
        """Exempt what is wanted now.

        Raises:
            OSError: the next call makes everything anew.
        """
        async with self._turn:
            wanted, before = self._wanted(), self._made
            if wanted == before or self._removed:
                return
            # After a failure nothing is known.
            self._made = None
            await asyncio.to_thread(self._backend.apply_probes, self._host, wanted, before)
            self._made = wanted

    async def remove(self) -> None:
        """Take everything back for good: neither an update nor a repair makes it again.

        Raises:
            OSError: something of it is left.
        """
        async with self._turn:
            self._removed, self._made = True, None
            await asyncio.to_thread(self._backend.remove_probes, self._host)

    def watch(self) -> Changes:
        """Begin to notice changes on the host; blocking, and the caller closes the result."""
        return self._backend.watch_probes(self._host)

    async def repair(self) -> tuple[str, ...]:
        """Put back what somebody else has changed and name it; nothing before the first ``update``.

        Raises:
            OSError: as ``update``.
        """
        async with self._turn:
            made = self._made
            if made is None:
                return ()
            missing = await asyncio.to_thread(self._backend.probes_missing, self._host, made)
            if missing:
                self._made = None
                await asyncio.to_thread(self._backend.apply_probes, self._host, made, None)
                self._made = made
            return missing
