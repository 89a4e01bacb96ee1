"""Capture by nftables. Applies plans; decides nothing."""

from collections.abc import Set
from functools import lru_cache
from pathlib import Path

from meshkit.linux import changes, netns, nft
from nodeagent.capture.nftables import rules
from nodeagent.capture.plan import Mode, PodPlan
from nodeagent.capture.pod_network import GUARDED, PodNetwork


class NftablesBackend:
    """See ``CaptureBackend``. Tables are replaced as a whole, which reverts foreign changes."""

    name = "nftables"
    how = "libnftables"

    def __init__(self, preparation: PodNetwork = GUARDED) -> None:
        """Make a backend; ``pod_network`` sets up what the rules need."""
        self._pod_network = preparation

    def prepare(self, netns: int) -> None:
        """See ``CaptureBackend.prepare``."""
        _inside(netns, self._pod_network.prepare)

    def apply(self, netns: int, plan: PodPlan) -> None:
        """See ``CaptureBackend.apply``."""
        _inside(netns, lambda: self._apply(plan))

    def clear(self, netns: int) -> bool:
        """See ``CaptureBackend.clear``."""
        return _inside(netns, lambda: _remove(rules.POD_TABLE))

    def present(self, netns: int) -> bool:
        """See ``CaptureBackend.present``."""
        return _inside(netns, lambda: _listed(rules.POD_TABLE)) is not None

    def missing(self, netns: int, plan: PodPlan) -> tuple[str, ...]:
        """See ``CaptureBackend.missing``."""
        return _inside(netns, lambda: _rules_missing(plan) + self._pod_network.missing(plan))

    def repair(self, netns: int, plan: PodPlan) -> tuple[str, ...]:
        """See ``CaptureBackend.repair``."""

        def work() -> tuple[str, ...]:
            missing = _rules_missing(plan)
            if missing:
                self._apply(plan)
                self._pod_network.rules_restored()
            return missing + self._pod_network.repair(plan)

        return _inside(netns, work)

    def watch(self, netns: int, plan: PodPlan) -> changes.Changes:  # noqa: ARG002
        """See ``CaptureBackend.watch``."""
        return _inside(netns, changes.watch)

    def apply_probes(self, netns: Path, addresses: Set[str], before: Set[str] | None) -> None:
        """See ``CaptureBackend.apply_probes``."""
        if before is None:
            transaction = rules.probe_rules(addresses)
        else:
            transaction = rules.probe_changes(addresses - before, before - addresses)
        _inside(netns, lambda: nft.apply(transaction))

    def remove_probes(self, netns: Path) -> None:
        """See ``CaptureBackend.remove_probes``."""
        _inside(netns, lambda: _remove(rules.HOST_TABLE))

    def probes_missing(self, netns: Path, addresses: Set[str]) -> tuple[str, ...]:
        """See ``CaptureBackend.probes_missing``."""
        found = _inside(netns, lambda: _listed(rules.HOST_TABLE))
        return () if found == _as_listed(rules.probe_rules(addresses), rules.HOST_TABLE) else _unlike(found, "probes")

    def watch_probes(self, netns: Path) -> changes.Changes:
        """See ``CaptureBackend.watch_probes``."""
        return _inside(netns, lambda: changes.watch(routes=False))

    def _apply(self, plan: PodPlan) -> None:
        self._pod_network.before_rules(plan)
        fresh = _listed(rules.POD_TABLE) is None
        nft.apply(rules.pod_rules(plan, fresh=fresh))
        self._pod_network.after_rules(plan)


_inside = netns.run


def _remove(table: str) -> bool:
    if _listed(table) is None:
        return False
    nft.apply(rules.remove(table))
    return True


def _rules_missing(plan: PodPlan) -> tuple[str, ...]:
    wanted = None if plan.mode is Mode.NONE else _as_listed(rules.pod_rules(plan, fresh=True), rules.POD_TABLE)
    found = _listed(rules.POD_TABLE)
    return () if found == wanted else _unlike(found, "rules")


def _unlike(found: str | None, what: str) -> tuple[str, ...]:
    return (f"nftables {what}" if found is None else f"nftables {what} changed",)


def _listed(table: str) -> str | None:
    return nft.list_table(rules.FAMILY, table)


@lru_cache(maxsize=64)
def _as_listed(transaction: str, table: str) -> str | None:
    """Return how the kernel lists a table as planned, read back from a scratch namespace."""

    def read_back() -> str | None:
        nft.apply(transaction)
        return _listed(table)

    return netns.scratch(read_back)
