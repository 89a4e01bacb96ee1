"""Every way of capturing, for tests that must hold with each."""

import warnings
from pathlib import Path

from nodeagent.capture.iptables.backend import IptablesBackend
from nodeagent.capture.iptables.legacy import LegacyTables
from nodeagent.capture.iptables.restore import RestoredTables
from nodeagent.capture.nftables.backend import NftablesBackend
from nodeagent.capture.pod import CaptureBackend

with warnings.catch_warnings():
    # Where the kernel has modules, its import runs modprobe and leaves pipes for the collector to close.
    warnings.simplefilter("ignore", ResourceWarning)
    import iptc  # noqa: F401

FLUSH = (
    "nft flush ruleset; for p in iptables ip6tables; do for t in nat mangle; do $p-legacy -t $t -F; "
    "$p-legacy -t $t -X; done; done"
)
"""The command that removes every rule of a network namespace."""
NAMES = ("nftables", "iptables-legacy", "iptables-nft")


def backend(name: str, lock: Path, *, sets: bool = True) -> CaptureBackend:
    match name:
        case "nftables":
            return NftablesBackend()
        case "iptables-legacy":
            return IptablesBackend(LegacyTables(), versions=(4, 6), sets=sets, lock=lock)
        case _:
            return IptablesBackend(RestoredTables(), versions=(4, 6), sets=sets, lock=lock)
