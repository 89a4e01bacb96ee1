"""Capture by nftables. Applies plans; decides nothing."""

from collections.abc import Iterable
from pathlib import Path

from meshkit.linux import marks, netns, nft
from nodeagent.capture import nftables_rules as rules
from nodeagent.capture.plan import REPLIES, Mode, PodPlan


class NftablesBackend:
    """See ``CaptureBackend``. Tables are replaced whole: whoever has changed one of ours is corrected."""

    def prepare(self, netns: int) -> None:
        """See ``CaptureBackend.prepare``."""
        _inside(netns, lambda: marks.add(REPLIES))

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


def _apply(plan: PodPlan) -> None:
    nft.apply(rules.pod_rules(plan))
    # The way back for answers outlives the rules: a captured connection needs it from its first packet to its last.
    if plan.mode is Mode.NONE:
        marks.remove(REPLIES)
