"""Lets the kubelet's probes reach captured pods: keeps the host's exemption rules equal to the captured pods."""

import asyncio
from collections.abc import Callable, Set
from pathlib import Path
from typing import Protocol

from meshkit.linux.changes import Changes


class HostProbes(Protocol):
    """Exempts probes from capture by rules on the host. Synchronous, idempotent, called on a thread."""

    def apply(self, host: Path, addresses: Set[str], before: Set[str] | None) -> None:
        """Exempt probes of the node's own processes to these pod addresses, and to no others.

        Args:
            host: the host's network namespace.
            addresses: addresses to exempt.
            before: addresses that the last call exempted; ``None`` if unknown: everything is rebuilt.

        Raises:
            OSError: the host is unchanged.
        """
        ...

    def remove(self, host: Path) -> None:
        """Remove what ``apply`` added to the host, if anything."""
        ...

    def missing(self, host: Path, addresses: Set[str]) -> tuple[str, ...]:
        """Compare the host with these addresses; return the names of what differs."""
        ...

    def watch(self, host: Path) -> Changes:
        """Subscribe to changes of what ``missing`` compares; the caller closes the result."""
        ...


class ProbeExemption:
    """Owns the rules on the host."""

    def __init__(self, probes: HostProbes, host: Path, wanted: Callable[[], frozenset[str]]) -> None:
        """Exempt the addresses that ``wanted()`` returns, in the host's namespace at ``host``."""
        self._probes = probes
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
            await asyncio.to_thread(self._probes.apply, self._host, wanted, before)
            self._made = wanted

    async def remove(self) -> None:
        """Remove the rules for good: no later update or repair adds them again.

        Raises:
            OSError: some rules are left.
        """
        async with self._lock:
            self._removed, self._made = True, None
            await asyncio.to_thread(self._probes.remove, self._host)

    def watch(self) -> Changes:
        """Subscribe to changes on the host. Blocking; the caller closes the result."""
        return self._probes.watch(self._host)

    async def repair(self) -> tuple[str, ...]:
        """Restore rules that another process changed, and return their names; nothing before the first ``update``.

        Raises:
            OSError: as ``update``.
        """
        async with self._lock:
            made = self._made
            if made is None:
                return ()
            missing = await asyncio.to_thread(self._probes.missing, self._host, made)
            if missing:
                self._made = None
                await asyncio.to_thread(self._probes.apply, self._host, made, None)
                self._made = made
            return missing
