"""Capture by iptables. Applies plans; decides nothing. Knows nothing of how a table is reached: see ``Tables``."""

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Protocol, TypeVar

from meshapi import names
from meshkit.linux import changes, ipsets
from meshkit.linux import netns as namespaces
from nodeagent.capture.iptables import rules
from nodeagent.capture.plan import Mode, PodPlan
from nodeagent.capture.pod_network import GUARDED, PodNetwork

T = TypeVar("T")

POD_HOOKS: Final = ("PREROUTING", "OUTPUT", "POSTROUTING")
_HOST_HOOKS: Final = ("POSTROUTING",)


class Tables(Protocol):
    """One way to the kernel's tables. Called inside the namespace."""

    label: str

    def apply(self, version: int, name: str, table: rules.Table, hooks: tuple[str, ...]) -> None:
        """Make our chains of these hooks as given, in one commit; without a change nothing is written.

        Raises:
            OSError: the table is as it was.
        """
        ...

    def observe(self, version: int, name: str, hooks: tuple[str, ...]) -> Mapping[str, object]:
        """Return our chains of these hooks, by hook: something that is equal when they are equal, jumps included.

        A chain that is not there, and that nothing jumps to, is left out.
        """
        ...


class IptablesBackend:
    """See ``CaptureBackend``.

    Attributes:
        name: of the backend.
    """

    name = "iptables"

    def __init__(
        self,
        tables: Tables,
        *,
        versions: tuple[int, ...],
        sets: bool,
        lock: Path = Path(names.XTABLES_LOCK),
        preparation: PodNetwork = GUARDED,
    ) -> None:
        """Make a backend.

        Args:
            tables: the way to the kernel's tables.
            versions: of IP that this kernel has.
            sets: whether the kernel has IP sets; without them the host has a rule for each pod.
            lock: file that everybody holds who changes the host's tables. Namespaces of pods need none: no other
            process
                changes them while a pod starts, and later what others change is repaired.
            pod_network: sets up what the rules need.
        """
        self.how = tables.label
        self._tables = tables
        self._versions = versions
        self._sets = sets
        self._pod_network = preparation
        self._lock = lock
        self._wanted = lru_cache(maxsize=64)(self._ask)
        self._wanted_probes = lru_cache(maxsize=1)(self._ask_probes)

    def prepare(self, netns: int) -> None:
        """See ``CaptureBackend.prepare``."""
        _inside(netns, self._pod_network.prepare)

    def apply(self, netns: int, plan: PodPlan) -> None:
        """See ``CaptureBackend.apply``."""

        def work() -> None:
            self._pod_network.before_rules(plan)
            self._apply(plan)
            self._pod_network.after_rules(plan)

        _inside(netns, work)

    def clear(self, netns: int) -> bool:
        """See ``CaptureBackend.clear``."""

        def work() -> bool:
            found = any(self._observe().values())
            if found:
                self._apply(PodPlan(mode=Mode.NONE))
            return found

        return _inside(netns, work)

    def present(self, netns: int) -> bool:
        """See ``CaptureBackend.present``."""
        return any(_inside(netns, self._observe).values())

    def missing(self, netns: int, plan: PodPlan) -> tuple[str, ...]:
        """See ``CaptureBackend.missing``."""
        wanted = self._wanted(plan)
        return _inside(netns, lambda: self._rules_missing(wanted) + self._pod_network.missing(plan))

    def repair(self, netns: int, plan: PodPlan) -> tuple[str, ...]:
        """See ``CaptureBackend.repair``."""
        wanted = self._wanted(plan)

        def work() -> tuple[str, ...]:
            missing = self._rules_missing(wanted)
            if missing:
                self._apply(plan)
                self._pod_network.rules_restored()
            return missing + self._pod_network.repair(plan)

        return _inside(netns, work)

    def watch(self, netns: int, plan: PodPlan) -> changes.Changes:
        """See ``CaptureBackend.watch``."""
        # Reading a table creates it, so only those that the plan uses are read.
        tables = [name for name, table in rules.pod_tables(plan, 4).items() if table]
        return _inside(netns, lambda: changes.watch(tables=tables, versions=self._versions))

    def apply_probes(self, netns: Path, addresses: Set[str], before: Set[str] | None) -> None:
        """See ``CaptureBackend.apply_probes``."""

        def work() -> None:
            if self._sets:
                for version in self._versions:
                    ipsets.fill(rules.SETS[version], _of(version, addresses), version)
            if before is None or not self._sets:
                with self._locked():
                    self._apply_probes(None if self._sets else addresses)

        _inside(netns, work)

    def remove_probes(self, netns: Path) -> None:
        """See ``CaptureBackend.remove_probes``."""

        def work() -> None:
            with self._locked():
                for version in self._versions:
                    if self._tables.observe(version, "nat", _HOST_HOOKS):
                        self._tables.apply(version, "nat", {}, _HOST_HOOKS)
            if self._sets:
                for version in self._versions:
                    ipsets.destroy(rules.SETS[version])

        _inside(netns, work)

    def probes_missing(self, netns: Path, addresses: Set[str]) -> tuple[str, ...]:
        """See ``CaptureBackend.probes_missing``."""
        wanted = self._wanted_probes(None if self._sets else frozenset(addresses))

        def work() -> tuple[str, ...]:
            found = []
            for version in self._versions:
                if self._tables.observe(version, "nat", _HOST_HOOKS) != wanted[version]:
                    found.append(f"IPv{version} rules for probes")
                if self._sets and ipsets.members(rules.SETS[version]) != _of(version, addresses):
                    found.append(f"IPv{version} set of probed pods")
            return tuple(found)

        return _inside(netns, work)

    def watch_probes(self, netns: Path) -> changes.Changes:
        """See ``CaptureBackend.watch_probes``."""
        return _inside(netns, lambda: changes.watch(routes=False, tables=("nat",), versions=self._versions))

    def _apply(self, plan: PodPlan) -> None:
        tables = {version: rules.pod_tables(plan, version) for version in self._versions}
        # What redirects comes last and goes first.
        order = rules.TABLES if plan.mode is Mode.CAPTURE else tuple(reversed(rules.TABLES))
        for name in order:
            for version in self._versions:
                self._tables.apply(version, name, tables[version][name], POD_HOOKS)

    def _apply_probes(self, addresses: Set[str] | None) -> None:
        for version in self._versions:
            table = rules.probe_tables(version, addresses)["nat"]
            self._tables.apply(version, "nat", table, _HOST_HOOKS)

    def _rules_missing(self, wanted: Mapping[tuple[int, str], Mapping[str, object]]) -> tuple[str, ...]:
        found = self._observe()
        unlike = (where for where in wanted if found[where] != wanted[where])
        return tuple(f"IPv{version} {name} rules" for version, name in unlike)

    def _observe(self) -> dict[tuple[int, str], Mapping[str, object]]:
        return {
            (version, name): self._tables.observe(version, name, POD_HOOKS)
            for version in self._versions
            for name in rules.TABLES
        }

    def _ask(self, plan: PodPlan) -> dict[tuple[int, str], Mapping[str, object]]:
        """Return what the kernel lists for a plan, read back from a scratch namespace."""

        def work() -> dict[tuple[int, str], Mapping[str, object]]:
            self._apply(plan)
            return self._observe()

        return namespaces.scratch(work)

    def _ask_probes(self, addresses: frozenset[str] | None) -> dict[int, Mapping[str, object]]:
        def work() -> dict[int, Mapping[str, object]]:
            for version in self._versions if self._sets else ():
                ipsets.fill(rules.SETS[version], frozenset(), version)
            self._apply_probes(addresses)
            return {version: self._tables.observe(version, "nat", _HOST_HOOKS) for version in self._versions}

        return namespaces.scratch(work)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._lock, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _inside(target: int | Path, work: Callable[[], T]) -> T:
    return namespaces.run(target, work)


def _of(version: int, addresses: Set[str]) -> frozenset[str]:
    return frozenset(address for address in addresses if ip_address(address).version == version)
