"""Every way of capturing, for tests that must hold with each."""

import warnings
from pathlib import Path

from nodeagent.capture.backend import CaptureBackend
from nodeagent.capture.ebpf.pod import EbpfCapture
from nodeagent.capture.egress_filter import EgressFilter
from nodeagent.capture.iptables.legacy import LegacyTables
from nodeagent.capture.iptables.pod import IptablesCapture
from nodeagent.capture.iptables.probes import IptablesProbes
from nodeagent.capture.iptables.restore import RestoredTables
from nodeagent.capture.iptables.tables import Tables
from nodeagent.capture.nftables.pod import NftablesCapture
from nodeagent.capture.nftables.probes import NftablesProbes
from nodeagent.capture.pod import Sandbox
from nodeagent.capture.pod_network import PodNetwork
from nodeagent.discovery.enrolment import PodInfo
from tests.support import ebpf

with warnings.catch_warnings():
    # Where the kernel has modules, its import runs modprobe and leaves pipes for the collector to close.
    warnings.simplefilter("ignore", ResourceWarning)
    import iptc  # noqa: F401

FLUSH = (
    "nft flush ruleset; for p in iptables ip6tables; do for t in nat mangle; do $p-legacy -t $t -F; "
    "$p-legacy -t $t -X; done; done"
)
"""The command that removes every rule of a network namespace."""
REMOVE_HOOKS = f"rm -rf {ebpf.FILE_SYSTEM}/*/v1/hooks {ebpf.FILE_SYSTEM}/*/v1/pods"
"""The command that removes every BPF hook of the tests."""
NETFILTER = ("nftables", "iptables-legacy", "iptables-nft")
NAMES = ("ebpf", *NETFILTER)


POD = PodInfo(
    uid="pod", namespace="shop", name="web", service_account="web", labels={}, annotations={},
    addresses=("10.78.0.1",), host_network=False, terminal=False,
)  # fmt: skip


def sandbox(netns: int, pod: PodInfo = POD) -> Sandbox:
    return Sandbox(pod, netns)


def backend(name: str, lock: Path, *, sets: bool = True, egress: EgressFilter | None = None) -> CaptureBackend:
    around = PodNetwork(egress=egress)
    if name == "ebpf":
        # Probes are exempt by rules on the host, whatever captures pods.
        return CaptureBackend(EbpfCapture(ebpf.node(), around, other=NftablesCapture(around)), NftablesProbes())
    if name == "nftables":
        return CaptureBackend(NftablesCapture(around), NftablesProbes())
    tables: Tables = LegacyTables() if name == "iptables-legacy" else RestoredTables()
    probes = IptablesProbes(tables, versions=(4, 6), sets=sets, lock=lock)
    return CaptureBackend(IptablesCapture(tables, versions=(4, 6), pod_network=around), probes)
