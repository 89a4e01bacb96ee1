"""A capture backend: how this node captures pods, and how it exempts the host's probes."""

from dataclasses import dataclass

from nodeagent.capture.host_probes import HostProbes
from nodeagent.capture.pod import PodCapture


@dataclass(frozen=True, slots=True)
class CaptureBackend:
    """Both halves of one backend.

    Attributes:
        pods: captures a pod.
        probes: exempts the kubelet's probes, on the host.
    """

    pods: PodCapture
    probes: HostProbes
