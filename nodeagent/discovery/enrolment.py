"""Whether a pod belongs to the mesh. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from meshapi import names


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


@dataclass(frozen=True, slots=True)
class EnrolmentRules:
    """Which pods are never enrolled, whatever their labels say.

    Attributes:
        excluded_namespaces: namespaces whose pods are never enrolled.
        own_namespace: namespace of the installation; its ztunnel carries the traffic and cannot be captured itself.
    """

    excluded_namespaces: frozenset[str] = frozenset({"kube-system"})
    own_namespace: str = names.DEFAULT_NAMESPACE


def belongs(pod: PodInfo, namespace_labels: Mapping[str, str], rules: EnrolmentRules) -> bool:
    """Return whether a pod is enrolled: by its own label, else by its namespace's."""
    if pod.host_network or pod.terminal or names.SIDECAR_STATUS_ANNOTATION in pod.annotations:
        return False
    if pod.namespace in rules.excluded_namespaces or _is_ztunnel(pod, rules):
        return False
    own = pod.labels.get(names.DATAPLANE_MODE_LABEL)
    if own == names.DATAPLANE_MODE_NONE:
        return False
    wanted = names.DATAPLANE_MODE_AMBIENT
    return own == wanted or namespace_labels.get(names.DATAPLANE_MODE_LABEL) == wanted


def _is_ztunnel(pod: PodInfo, rules: EnrolmentRules) -> bool:
    app = pod.labels.get(names.APP_LABEL)
    return pod.namespace == rules.own_namespace and app in {names.ZTUNNEL_SERVICE_ACCOUNT, names.ZTUNNEL_DRAINING}
