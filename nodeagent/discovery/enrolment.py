"""What the node agent reads of a pod, and whether the pod is enrolled. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from meshapi import names
from meshapi.analysis.enrolment import ZTUNNEL_APPS, Enrolment, EnrolmentRules, enrolment


@dataclass(frozen=True, slots=True)
class PodInfo:
    """What the node agent reads of a pod.

    Attributes:
        addresses: ``status.podIPs``, empty until the sandbox has its network.
        terminal: the phase is Succeeded or Failed.
        terminating: the pod was deleted, and its grace period runs.
    """

    uid: str
    namespace: str
    name: str
    service_account: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    addresses: tuple[str, ...]
    host_network: bool
    terminal: bool
    terminating: bool = False

    @property
    def key(self) -> str:
        """``namespace/name``, for people."""
        return f"{self.namespace}/{self.name}"


def enrolment_of(pod: PodInfo, namespace_labels: Mapping[str, str], rules: EnrolmentRules) -> Enrolment:
    """Return whether a pod is enrolled, or why it is not."""
    return enrolment(
        namespace=pod.namespace,
        labels=pod.labels,
        annotations=pod.annotations,
        namespace_labels=namespace_labels,
        host_network=pod.host_network,
        terminal=pod.terminal,
        rules=rules,
    )


def is_own_proxy(pod: PodInfo, rules: EnrolmentRules) -> bool:
    """Return whether a pod is a ztunnel that is a workload of the mesh itself: it serves port 15008 of its own pod."""
    is_ztunnel = pod.namespace == rules.own_namespace and pod.labels.get(names.APP_LABEL) in ZTUNNEL_APPS
    is_tunnel = pod.labels.get(names.TUNNEL_LABEL) == names.TUNNEL_LABEL_HTTP
    return is_ztunnel and is_tunnel and not pod.host_network and not pod.terminal
