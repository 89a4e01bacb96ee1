"""Tries capture by BPF, in a namespace made for the question, and makes the backend."""

import os
from collections.abc import Iterable
from pathlib import Path

from meshengine.bpf import programs_at
from meshkit.linux import links, netns
from nodeagent.capture.ebpf.node import EbpfNode
from nodeagent.capture.ebpf.places import Places
from nodeagent.capture.ebpf.pod import EbpfCapture
from nodeagent.capture.kernel import refusals
from nodeagent.capture.plan import PodPlan
from nodeagent.capture.pod import PodCapture, Sandbox
from nodeagent.capture.pod_network import PodNetwork
from nodeagent.discovery.enrolment import PodInfo

_NOBODY = PodInfo(
    uid="trial",
    namespace="",
    name="trial",
    service_account="",
    labels={},
    annotations={},
    addresses=(),
    host_network=False,
    terminal=False,
)


def make(
    places: Places, around: PodNetwork, *, other: PodCapture | None, direct_limit: int = 0
) -> tuple[EbpfNode, EbpfCapture]:
    """Load the programs, capture a namespace and release it again. No hook is attached to a cgroup yet.

    Raises:
        OSError: the kernel lacks something, or the node a mount; the text says what.
    """
    netns.scratch(netns.cookie)  # first, because older kernels refuse the rest for other reasons
    node = EbpfNode(places.pins, places.pods, direct_limit=direct_limit)
    capture = EbpfCapture(node, around, other=other)
    netns.scratch(lambda: _capture_here(capture))
    return node, capture


def programs_of_others(cgroups: Iterable[Path]) -> list[str]:
    """Return programs that are not ours on the hooks of this backend, as ``name (hook)``.

    Raises:
        OSError: the kernel does not say.
    """
    with refusals():
        found = [one for cgroup in cgroups for one in programs_at(cgroup)]
    return sorted({f"{name} ({hook})" for hook, name in found if not name.startswith("cv_")})


def check_unasked(places: Places, node: EbpfNode) -> None:
    """Check what matters only where the operator has not asked for capture by BPF.

    Raises:
        OSError: programs of others see connections first and may change where they go, or a ztunnel that has listened
            since before the hooks would have to be restarted.
    """
    if others := programs_of_others((places.root, places.pods)):
        raise OSError(f"programs of others are on the same hooks: {', '.join(others)}")
    netns.scratch(lambda: node.try_adoption(netns.cookie()))


def _capture_here(capture: EbpfCapture) -> None:
    links.set_up("lo")
    space = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        sandbox = Sandbox(_NOBODY, space)
        capture.prepare(sandbox)
        try:
            capture.apply(sandbox, PodPlan(dns=True))
        finally:
            capture.clear(sandbox)
    finally:
        os.close(space)
