"""Tries capture by BPF, in a namespace made for the question, and makes the backend."""

import os

from meshkit.linux import links, netns
from nodeagent.capture.ebpf.node import EbpfNode
from nodeagent.capture.ebpf.places import Places
from nodeagent.capture.ebpf.pod import EbpfCapture
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
