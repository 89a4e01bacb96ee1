"""Captures a pod by iptables. Applies plans; decides nothing. How a table is reached is not known here: ``Tables``."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TypeVar

from meshkit.linux import changes
from meshkit.linux import netns as namespaces
from nodeagent.capture.iptables import rules
from nodeagent.capture.iptables.tables import POD_HOOKS, Tables
from nodeagent.capture.plan import Mode, PodPlan
from nodeagent.capture.pod import PodCapture, Sandbox
from nodeagent.capture.pod_network import GUARDED, PodNetwork

T = TypeVar("T")


class IptablesCapture:
    """See ``PodCapture``.

    No lock is taken: no other process changes a pod's tables while the pod starts, and what others change later is
    repaired.
    """

    name = "iptables"

    def __init__(self, tables: Tables, *, versions: tuple[int, ...], pod_network: PodNetwork = GUARDED) -> None:
        """Make a backend.

        Args:
            tables: the way to the kernel's tables.
            versions: of IP that this kernel has.
            pod_network: sets up what the rules need.
        """
        self.how = tables.label
        self._tables = tables
        self._versions = versions
        self._pod_network = pod_network
        self._wanted = lru_cache(maxsize=64)(self._read_back)

    def used_for(self, plan: PodPlan) -> PodCapture:  # noqa: ARG002
        """See ``PodCapture.used_for``."""
        return self

    def replace(self, sandbox: Sandbox, other: PodCapture) -> None:
        """See ``PodCapture.replace``: rules of this backend do for open connections what those of the other did."""
        other.clear(sandbox)

    def prepare(self, sandbox: Sandbox) -> None:
        """See ``PodCapture.prepare``."""
        _inside(sandbox, self._pod_network.prepare)

    def apply(self, sandbox: Sandbox, plan: PodPlan) -> None:
        """See ``PodCapture.apply``."""

        def work() -> None:
            self._pod_network.before_rules(plan)
            self._apply(plan)
            self._pod_network.after_rules(plan)

        _inside(sandbox, work)

    def clear(self, sandbox: Sandbox) -> bool:
        """See ``PodCapture.clear``."""

        def work() -> bool:
            found = any(self._observe().values())
            if found:
                self._apply(PodPlan(mode=Mode.NONE))
            return found

        return _inside(sandbox, work)

    def present(self, sandbox: Sandbox) -> bool:
        """See ``PodCapture.present``."""
        return any(_inside(sandbox, self._observe).values())

    def missing(self, sandbox: Sandbox, plan: PodPlan) -> tuple[str, ...]:
        """See ``PodCapture.missing``."""
        wanted = self._wanted(plan)
        return _inside(sandbox, lambda: self._rules_missing(wanted) + self._pod_network.missing(plan))

    def repair(self, sandbox: Sandbox, plan: PodPlan) -> tuple[str, ...]:
        """See ``PodCapture.repair``."""
        wanted = self._wanted(plan)

        def work() -> tuple[str, ...]:
            missing = self._rules_missing(wanted)
            if missing:
                self._apply(plan)
                self._pod_network.rules_restored()
            return missing + self._pod_network.repair(plan)

        return _inside(sandbox, work)

    def watch(self, sandbox: Sandbox, plan: PodPlan) -> changes.Changes:
        """See ``PodCapture.watch``."""
        # Reading a table creates it, so only those that the plan uses are read.
        tables = [name for name, table in rules.pod_tables(plan, 4).items() if table]
        return _inside(sandbox, lambda: changes.watch(tables=tables, versions=self._versions))

    def _apply(self, plan: PodPlan) -> None:
        tables = {version: rules.pod_tables(plan, version) for version in self._versions}
        # What redirects comes last and goes first.
        order = rules.TABLES if plan.mode is Mode.CAPTURE else tuple(reversed(rules.TABLES))
        for name in order:
            for version in self._versions:
                self._tables.apply(version, name, tables[version][name], POD_HOOKS)

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

    def _read_back(self, plan: PodPlan) -> dict[tuple[int, str], Mapping[str, object]]:
        """Return what the kernel lists for a plan, read back from a scratch namespace."""

        def work() -> dict[tuple[int, str], Mapping[str, object]]:
            self._apply(plan)
            return self._observe()

        return namespaces.scratch(work)


def _inside(sandbox: Sandbox, work: Callable[[], T]) -> T:
    return namespaces.run(sandbox.netns, work)
