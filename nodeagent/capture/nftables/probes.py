"""Exempts the host's probes by nftables."""

from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from meshkit.linux import changes, netns, nft
from nodeagent.capture.nftables import rules, tables


@dataclass(frozen=True, slots=True)
class NftablesProbes:
    """See ``HostProbes``. The table is replaced as a whole unless it is known what it holds."""

    def apply(self, host: Path, addresses: Set[str], before: Set[str] | None) -> None:
        """See ``HostProbes.apply``."""
        if before is None:
            transaction = rules.probe_rules(addresses)
        else:
            transaction = rules.probe_changes(addresses - before, before - addresses)
        netns.run(host, lambda: nft.apply(transaction))

    def remove(self, host: Path) -> None:
        """See ``HostProbes.remove``."""
        netns.run(host, lambda: tables.remove(rules.HOST_TABLE))

    def missing(self, host: Path, addresses: Set[str]) -> tuple[str, ...]:
        """See ``HostProbes.missing``."""
        found = netns.run(host, lambda: tables.listed(rules.HOST_TABLE))
        return tables.difference(found, tables.as_listed(rules.probe_rules(addresses), rules.HOST_TABLE), "probes")

    def watch(self, host: Path) -> changes.Changes:
        """See ``HostProbes.watch``."""
        return netns.run(host, lambda: changes.watch(routes=False))
