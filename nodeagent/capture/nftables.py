"""Capture by nftables. Applies plans; decides nothing."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

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

    def apply_probes(self, netns: Path, addresses: Iterable[str]) -> None:
        """See ``CaptureBackend.apply_probes``."""
        transaction = rules.probe_rules(addresses)
        _inside(netns, lambda: nft.apply(transaction))

    def remove_probes(self, netns: Path) -> None:
        """See ``CaptureBackend.remove_probes``."""
        _inside(netns, lambda: nft.apply(rules.remove_probe_rules()))


_inside = netns.run


def _prepare() -> None:
    marks.add(REPLIES)
    # When one of two ztunnels closes its listener, connections that are queued in it go to the other's (Linux 5.14).
    # Without it a few may be reset in an upgrade, which is no reason to leave a pod uncaptured. Here and not in the
    # engine, because ztunnel should not need what it takes to write settings from a container. It stays when the pod
    # is let go: all it changes for an application is that its own shared listeners lose nothing either.
    with suppress(OSError):
        sysctl.write("net/ipv4/tcp_migrate_req", "1")


def _apply(plan: PodPlan) -> None:
    nft.apply(rules.pod_rules(plan))
    # The way back for answers outlives the rules: a captured connection needs it from its first packet to its last.
    if plan.mode is Mode.NONE:
        marks.remove(REPLIES)
