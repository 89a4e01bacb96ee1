"""Whether a pod is enrolled in the mesh, and if not, why.

Source: istio/istio, ``cni/pkg/util/podutil.go``: a pod's own label goes before its namespace's, ``none`` opts out, pods
with a sidecar or on the host's network are never captured.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from meshapi import names
from meshapi.analysis.egress import is_registry_only


class SidecarInjection(StrEnum):
    """What the label means by which pods get sidecars in Istio."""

    IGNORE = "ignore"
    AMBIENT = "ambient"
    """Such pods are enrolled."""


class Enrolment(StrEnum):
    """The result, in the words of logs and debug pages."""

    ENROLLED = "enrolled"
    NOT_LABELLED = "neither the pod nor its namespace has the label"
    OPTED_OUT = "the pod's label opts out"
    HOST_NETWORK = "the pod is on the host's network"
    SIDECAR = "the pod has a sidecar"
    TERMINATED = "the pod has terminated"
    EXCLUDED_NAMESPACE = "the namespace is excluded"
    ZTUNNEL = "ztunnel carries the traffic and is not captured itself"


@dataclass(frozen=True, slots=True)
class EnrolmentRules:
    """Which pods are never enrolled, whatever their labels say.

    Attributes:
        excluded_namespaces: namespaces whose pods are never enrolled.
        own_namespace: namespace of the installation; its ztunnel carries the traffic and cannot be captured itself.
        injection_enrols: whether a namespace whose pods would get sidecars in Istio is enrolled; the label
            ``istio.io/dataplane-mode``, of the pod or the namespace, goes before that.
    """

    excluded_namespaces: frozenset[str] = frozenset({"kube-system"})
    own_namespace: str = names.DEFAULT_NAMESPACE
    injection_enrols: bool = False

    def enrol(self, namespace: str, labels: Mapping[str, str]) -> bool:
        """Return whether the labels of a namespace enrol its pods; a pod's own labels may say otherwise."""
        if namespace in self.excluded_namespaces:
            return False
        mode = labels.get(names.DATAPLANE_MODE_LABEL)
        by_injection = self.injection_enrols and labels.get(names.INJECTION_LABEL) == "enabled"
        return mode == names.DATAPLANE_MODE_AMBIENT or (mode is None and by_injection)


def enrolment(  # noqa: PLR0911  (a list of reasons, in order)
    *,
    namespace: str,
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
    namespace_labels: Mapping[str, str],
    host_network: bool,
    terminal: bool,
    rules: EnrolmentRules,
) -> Enrolment:
    """Return whether a pod is enrolled.

    Where a namespace is enrolled and its pods may reach only what the registry knows, no pod opts out: neither by its
    label nor by the annotation of a sidecar, which anybody can write. Waypoints and gateways are never captured.

    Args:
        namespace: of the pod.
        labels: of the pod.
        annotations: of the pod.
        namespace_labels: of its namespace; a misspelt value in the pod's own label leaves the decision to these.
        host_network: ``spec.hostNetwork``.
        terminal: the phase is Succeeded or Failed.
        rules: exclusions of this installation.
    """
    if terminal:
        return Enrolment.TERMINATED
    if host_network:
        return Enrolment.HOST_NETWORK
    is_proxy = labels.get(names.GATEWAY_MANAGED_LABEL) in names.MANAGED_PROXIES
    held = not is_proxy and is_registry_only(labels, namespace_labels) and rules.enrol(namespace, namespace_labels)
    if names.SIDECAR_STATUS_ANNOTATION in annotations and not held:
        return Enrolment.SIDECAR
    if namespace in rules.excluded_namespaces:
        return Enrolment.EXCLUDED_NAMESPACE
    if namespace == rules.own_namespace and labels.get(names.APP_LABEL) in ZTUNNEL_APPS:
        return Enrolment.ZTUNNEL
    own = labels.get(names.DATAPLANE_MODE_LABEL)
    if held:
        return Enrolment.ENROLLED
    if own == names.DATAPLANE_MODE_NONE:
        return Enrolment.OPTED_OUT
    inherited = namespace_labels.get(names.DATAPLANE_MODE_LABEL)
    if names.DATAPLANE_MODE_AMBIENT in {own, inherited}:
        return Enrolment.ENROLLED
    if rules.injection_enrols and inherited is None and namespace_labels.get(names.INJECTION_LABEL) == "enabled":
        inject = labels.get(names.INJECT_LABEL, annotations.get(names.INJECT_LABEL, ""))
        return Enrolment.OPTED_OUT if inject.lower() == "false" else Enrolment.ENROLLED
    return Enrolment.NOT_LABELLED


ZTUNNEL_APPS: Final = frozenset({names.ZTUNNEL_SERVICE_ACCOUNT, names.ZTUNNEL_DRAINING})
