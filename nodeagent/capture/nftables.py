"""Capture by nftables. Applies plans; decides nothing."""

from collections.abc import Set
from contextlib import suppress
from pathlib import Path
from typing import Final

from meshkit.linux import marks, netns, nft, sysctl
from nodeagent.capture import nftables_rules as rules
from nodeagent.capture.plan import REPLIES, Mode, PodPlan


class NftablesBackend:
    """See ``CaptureBackend``. Tables are replaced whole: whoever has changed one of ours is corrected."""

    def prepare(self, netns: int) -> None:
        """See ``CaptureBackend.prepare``."""
        _inside(netns, _prepare)

    def apply(self, netns: int, plan: PodPlan) -> None:
        """See ``CaptureBackend.apply``."""
        _inside(netns, lambda: _apply(plan))

    def apply_probes(self, netns: Path, addresses: Set[str], before: Set[str] | None) -> None:
        """See ``CaptureBackend.apply_probes``."""
        if before is None:
            transaction = rules.probe_rules(addresses)
        else:
            transaction = rules.probe_changes(addresses - before, before - addresses)
        _inside(netns, lambda: nft.apply(transaction))

    def remove_probes(self, netns: Path) -> None:
        """See ``CaptureBackend.remove_probes``."""
        _inside(netns, lambda: nft.apply(rules.remove_probe_rules()))


_inside = netns.run


_SETTINGS: Final = {
    # When one of two ztunnels closes its listener, connections that are queued in it go to the other's (Linux 5.14).
    # Without it a few may be reset in an upgrade.
    "net/ipv4/tcp_migrate_req": "1",
    # The tunnel connects to the application in its clients' names. Of one client that connects often, every port waits
    # for a minute in TIME_WAIT; with time stamps a port can be used again after a second (RFC 6191). Without it, some
    # 375 new connections a second between one client and one pod are the most that can be sustained.
    "net/ipv4/tcp_tw_reuse": "1",
}
"""Settings of a captured pod's namespace. Here and not in the engine, because ztunnel should not need what it takes to
write them from a container. They stay when the pod is let go: an application notices neither."""


def _prepare() -> None:
    marks.add(REPLIES)
    for name, value in _SETTINGS.items():
        # Capture is right without them, so a kernel that does not know one is no reason to leave a pod uncaptured.
        with suppress(OSError):
            sysctl.write(name, value)


def _apply(plan: PodPlan) -> None:
    fresh = nft.list_table(rules.FAMILY, rules.POD_TABLE) is None
    nft.apply(rules.pod_rules(plan, fresh=fresh))
    # The way back for answers outlives the rules: a captured connection needs it from its first packet to its last.
    if plan.mode is Mode.NONE:
        marks.remove(REPLIES)
