"""Exempts the host's probes by iptables, with IP sets where the kernel has them."""

import fcntl
import os
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path

from meshapi import names
from meshkit.linux import changes, ipsets, netns
from nodeagent.capture.iptables import rules
from nodeagent.capture.iptables.tables import HOST_HOOKS, Tables


class IptablesProbes:
    """See ``HostProbes``."""

    def __init__(
        self, tables: Tables, *, versions: tuple[int, ...], sets: bool, lock: Path = Path(names.XTABLES_LOCK)
    ) -> None:
        """Make one.

        Args:
            tables: the way to the kernel's tables.
            versions: of IP that this kernel has.
            sets: whether the kernel has IP sets; without them the host has a rule for each pod.
            lock: file that every program locks that changes the host's tables.
        """
        self._tables = tables
        self._versions = versions
        self._sets = sets
        self._lock = lock
        self._wanted = lru_cache(maxsize=1)(self._read_back)

    def apply(self, host: Path, addresses: Set[str], before: Set[str] | None) -> None:
        """See ``HostProbes.apply``."""

        def work() -> None:
            if self._sets:
                for version in self._versions:
                    ipsets.fill(rules.SETS[version], _of(version, addresses), version)
            if before is None or not self._sets:
                with self._locked():
                    self._apply(None if self._sets else addresses)

        netns.run(host, work)

    def remove(self, host: Path) -> None:
        """See ``HostProbes.remove``."""

        def work() -> None:
            with self._locked():
                for version in self._versions:
                    if self._tables.observe(version, "nat", HOST_HOOKS):
                        self._tables.apply(version, "nat", {}, HOST_HOOKS)
            if self._sets:
                for version in self._versions:
                    ipsets.destroy(rules.SETS[version])

        netns.run(host, work)

    def missing(self, host: Path, addresses: Set[str]) -> tuple[str, ...]:
        """See ``HostProbes.missing``."""
        wanted = self._wanted(None if self._sets else frozenset(addresses))

        def work() -> tuple[str, ...]:
            found = []
            for version in self._versions:
                if self._tables.observe(version, "nat", HOST_HOOKS) != wanted[version]:
                    found.append(f"IPv{version} rules for probes")
                if self._sets and ipsets.members(rules.SETS[version]) != _of(version, addresses):
                    found.append(f"IPv{version} set of probed pods")
            return tuple(found)

        return netns.run(host, work)

    def watch(self, host: Path) -> changes.Changes:
        """See ``HostProbes.watch``."""
        return netns.run(host, lambda: changes.watch(routes=False, tables=("nat",), versions=self._versions))

    def _apply(self, addresses: Set[str] | None) -> None:
        for version in self._versions:
            table = rules.probe_tables(version, addresses)["nat"]
            self._tables.apply(version, "nat", table, HOST_HOOKS)

    def _read_back(self, addresses: frozenset[str] | None) -> dict[int, Mapping[str, object]]:
        """Return what the kernel lists for these addresses, read back from a scratch namespace."""

        def work() -> dict[int, Mapping[str, object]]:
            for version in self._versions if self._sets else ():
                ipsets.fill(rules.SETS[version], frozenset(), version)
            self._apply(addresses)
            return {version: self._tables.observe(version, "nat", HOST_HOOKS) for version in self._versions}

        return netns.scratch(work)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._lock, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _of(version: int, addresses: Set[str]) -> frozenset[str]:
    return frozenset(address for address in addresses if ip_address(address).version == version)
