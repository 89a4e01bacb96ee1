"""Every way of capturing, for tests that must hold with each."""

from pathlib import Path

from nodeagent.capture.backend import CaptureBackend
from nodeagent.capture.iptables import IptablesBackend
from nodeagent.capture.iptables_legacy import LegacyTables
from nodeagent.capture.iptables_restore import RestoredTables
from nodeagent.capture.nftables import NftablesBackend

NAMES = ("nftables", "iptables-legacy", "iptables-nft")


def backend(name: str, lock: Path, *, sets: bool = True) -> CaptureBackend:
    match name:
        case "nftables":
            return NftablesBackend()
        case "iptables-legacy":
            return IptablesBackend(LegacyTables(), versions=(4, 6), sets=sets, lock=lock)
        case _:
            return IptablesBackend(RestoredTables(), versions=(4, 6), sets=sets, lock=lock)
