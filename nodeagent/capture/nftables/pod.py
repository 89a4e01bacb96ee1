"""Captures a pod by nftables. Applies plans; decides nothing."""

from collections.abc import Callable
from typing import TypeVar

from meshkit.linux import changes, nft
from meshkit.linux import netns as namespaces
from nodeagent.capture.nftables import rules, tables
from nodeagent.capture.plan import Mode, PodPlan
from nodeagent.capture.pod import PodCapture, Sandbox
from nodeagent.capture.pod_network import GUARDED, PodNetwork

T = TypeVar("T")


class NftablesCapture:
    """See ``PodCapture``. Tables are replaced as a whole, which reverts foreign changes."""

    name = "nftables"
    how = "libnftables"

    def __init__(self, pod_network: PodNetwork = GUARDED) -> None:
        """Make a backend; ``pod_network`` sets up what the rules need."""
        self._pod_network = pod_network

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
        _inside(sandbox, lambda: self._apply(plan))

    def clear(self, sandbox: Sandbox) -> bool:
        """See ``PodCapture.clear``."""
        return _inside(sandbox, lambda: tables.remove(rules.POD_TABLE))

    def present(self, sandbox: Sandbox) -> bool:
        """See ``PodCapture.present``."""
        return _inside(sandbox, lambda: tables.listed(rules.POD_TABLE)) is not None

    def missing(self, sandbox: Sandbox, plan: PodPlan) -> tuple[str, ...]:
        """See ``PodCapture.missing``."""
        return _inside(sandbox, lambda: _rules_missing(plan) + self._pod_network.missing(plan))

    def repair(self, sandbox: Sandbox, plan: PodPlan) -> tuple[str, ...]:
        """See ``PodCapture.repair``."""

        def work() -> tuple[str, ...]:
            missing = _rules_missing(plan)
            if missing:
                self._apply(plan)
                self._pod_network.rules_restored()
            return missing + self._pod_network.repair(plan)

        return _inside(sandbox, work)

    def watch(self, sandbox: Sandbox, plan: PodPlan) -> changes.Changes:  # noqa: ARG002
        """See ``PodCapture.watch``."""
        return _inside(sandbox, changes.watch)

    def _apply(self, plan: PodPlan) -> None:
        self._pod_network.before_rules(plan)
        fresh = tables.listed(rules.POD_TABLE) is None
        nft.apply(rules.pod_rules(plan, fresh=fresh))
        self._pod_network.after_rules(plan)


def _inside(sandbox: Sandbox, work: Callable[[], T]) -> T:
    return namespaces.run(sandbox.netns, work)


def _rules_missing(plan: PodPlan) -> tuple[str, ...]:
    planned = None if plan.mode is Mode.NONE else rules.pod_rules(plan, fresh=True)
    wanted = planned and tables.as_listed(planned, rules.POD_TABLE)
    return tables.difference(tables.listed(rules.POD_TABLE), wanted, "rules")
