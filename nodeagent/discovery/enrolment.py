"""Whether a pod belongs to the mesh. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from meshapi import names


@dataclass(frozen=True, slots=True)
class PodFacts:
    """What the node agent reads of a pod."""

    uid: str
    namespace: str
    name: str
    service_account: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    addresses: tuple[str, ...]
    host_network: bool
    terminal: bool

    @property
    def key(self) -> str:
        """``namespace/name``, for people."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class EnrolmentRules:
    """What is never enrolled, whatever its labels say.

    Attributes:
        excluded_namespaces: left alone as a whole.
        own_namespace: where Culvert is installed; its ztunnel carries the traffic and cannot be captured itself.
    """

    excluded_namespaces: frozenset[str] = frozenset({"kube-system"})
    own_namespace: str = names.DEFAULT_NAMESPACE


def belongs(pod: PodFacts, namespace_labels: Mapping[str, str], rules: EnrolmentRules) -> bool:
    """Say whether the pod shall be captured: by its own label, else by its namespace's."""
    if pod.host_network or pod.terminal or names.SIDECAR_STATUS_ANNOTATION in pod.annotations:
        return False
    if pod.namespace in rules.excluded_namespaces or _is_ztunnel(pod, rules):
        return False
    own = pod.labels.get(names.DATAPLANE_MODE_LABEL)
    if own == names.DATAPLANE_MODE_NONE:
        return False
    wanted = names.DATAPLANE_MODE_AMBIENT
    return own == wanted or namespace_labels.get(names.DATAPLANE_MODE_LABEL) == wanted


def is_own_proxy(pod: PodFacts, rules: EnrolmentRules) -> bool:
    """Say whether the pod is a ztunnel that is a workload of the mesh itself: it serves port 15008 of its own pod."""
    is_tunnel = pod.labels.get(names.TUNNEL_LABEL) == names.TUNNEL_LABEL_HTTP
    return _is_ztunnel(pod, rules) and is_tunnel and not pod.host_network and not pod.terminal


def _is_ztunnel(pod: PodFacts, rules: EnrolmentRules) -> bool:
    return pod.namespace == rules.own_namespace and pod.labels.get(names.APP_LABEL) == names.ZTUNNEL_SERVICE_ACCOUNT
