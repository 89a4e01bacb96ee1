"""Lets the kubelet's probes reach captured pods: keeps the host's exemption rules equal to the captured pods."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from meshkit.linux.changes import Changes
from nodeagent.capture.pod import CaptureBackend


class ProbeExemption:
    """Owns the backend's rules on the host."""

    def __init__(self, backend: CaptureBackend, host: Path, wanted: Callable[[], frozenset[str]]) -> None:
        """Exempt the addresses that ``wanted()`` returns, in the host's namespace at ``host``."""
        self._backend = backend
        self._host = host
        self._wanted = wanted
        self._made: frozenset[str] | None = None
        self._lock = asyncio.Lock()
        self._removed = False

    async def update(self) -> None:
        """Apply the current addresses.

        Raises:
            OSError: the next call rebuilds everything.
        """
        async with self._lock:
            wanted, before = self._wanted(), self._made
            if wanted == before or self._removed:
                return
            # A failure leaves the host in an unknown state.
            self._made = None
            await asyncio.to_thread(self._backend.apply_probes, self._host, wanted, before)
            self._made = wanted

    async def remove(self) -> None:
        """Remove the rules for good: no later update or repair adds them again.

        Raises:
            OSError: some rules are left.
        """
        async with self._lock:
            self._removed, self._made = True, None
            await asyncio.to_thread(self._backend.remove_probes, self._host)

    def watch(self) -> Changes:
        """Subscribe to changes on the host. Blocking; the caller closes the result."""
        return self._backend.watch_probes(self._host)

    async def repair(self) -> tuple[str, ...]:
        """Restore rules that another process changed, and return their names; nothing before the first ``update``.

        Raises:
            OSError: as ``update``.
        """
        async with self._lock:
            made = self._made
            if made is None:
                return ()
            missing = await asyncio.to_thread(self._backend.probes_missing, self._host, made)
            if missing:
                self._made = None
                await asyncio.to_thread(self._backend.apply_probes, self._host, made, None)
                self._made = made
            return missing
