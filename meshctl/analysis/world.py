"""The analyzed objects as models; an object that cannot be read is a finding."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec
import yaml

from meshapi import names
from meshapi.analysis.enrolment import Enrolment, EnrolmentRules, enrolment
from meshapi.errors import InvalidResource
from meshapi.mesh_config import reading
from meshapi.mesh_config.model import WaypointProvisioning
from meshapi.resources import (
    base,
    core,
    destination_rule,
    istio_gateway,
    network_policy,
    networking,
    request_authentication,
    security,
    virtual_service,
)
from meshctl.analysis.messages import Code, Finding
from meshkit.kube import Json, Kind, kinds

ObjectT = TypeVar("ObjectT", bound=base.Object)
Key = tuple[str, str, str]
"""Kind, namespace, name."""

MODELS: Final[Mapping[str, tuple[Kind, type[base.Object]]]] = {
    "Namespace": (kinds.NAMESPACE, core.Namespace),
    "Pod": (kinds.POD, core.Pod),
    "Service": (kinds.SERVICE, core.Service),
    "AuthorizationPolicy": (kinds.AUTHORIZATION_POLICY, security.AuthorizationPolicy),
    "PeerAuthentication": (kinds.PEER_AUTHENTICATION, security.PeerAuthentication),
    "ServiceEntry": (kinds.SERVICE_ENTRY, networking.ServiceEntry),
    "VirtualService": (kinds.VIRTUAL_SERVICE, virtual_service.VirtualService),
    "DestinationRule": (kinds.DESTINATION_RULE, destination_rule.DestinationRule),
    "RequestAuthentication": (kinds.REQUEST_AUTHENTICATION, request_authentication.RequestAuthentication),
    "NetworkPolicy": (kinds.NETWORK_POLICY, network_policy.NetworkPolicy),
    "Gateway": (kinds.ISTIO_GATEWAY, istio_gateway.Gateway),
    "WorkloadEntry": (kinds.WORKLOAD_ENTRY, networking.WorkloadEntry),
}
_GROUPS: Final = {kind.name: kind.group for kind, _ in MODELS.values()}
_CONFIG_MAP: Final = kinds.CONFIG_MAP.name


@dataclass(slots=True)
class World:
    """All analyzed objects.

    Attributes:
        root_namespace: where policies hold for the whole mesh.
        cluster_domain: suffix of service names.
        rules: which pods are never enrolled.
        knows_pods: whether all pods were read; without them, selectors are not checked.
        findings: about objects that could not be read.
        mesh_config: the mesh configuration; ``None`` where there is none.
        mesh_config_origin: file that it is from; empty for the cluster.
    """

    root_namespace: str = names.DEFAULT_NAMESPACE
    cluster_domain: str = names.DEFAULT_CLUSTER_DOMAIN
    rules: EnrolmentRules = field(default_factory=EnrolmentRules)
    knows_pods: bool = False
    findings: list[Finding] = field(default_factory=list)
    mesh_config: reading.Reading | None = None
    mesh_config_origin: str = ""
    _objects: dict[Key, base.Object] = field(default_factory=dict)
    _origins: dict[Key, str] = field(default_factory=dict)

    def add(self, item: Json, kind: str, origin: str = "") -> None:
        """Read one object; a later one of the same name takes the place of an earlier."""
        if kind == _CONFIG_MAP:
            self._add_mesh_config(item, origin)
            return
        model = MODELS[kind][1]
        metadata = item.get("metadata") or {}
        key = (kind, str(metadata.get("namespace", "")), str(metadata.get("name", "")))
        try:
            read = base.read(model, item)
        except InvalidResource as error:
            self.findings.append(Finding(Code.INVALID, *key, error.field, error.reason, origin))
            return
        self._objects[key], self._origins[key] = read, origin

    def _add_mesh_config(self, item: Json, origin: str) -> None:
        self.mesh_config, self.mesh_config_origin = reading.read(item), origin
        given = reading.config_of(self.mesh_config.content).root_namespace
        self.root_namespace = given or self.root_namespace

    @property
    def makes_waypoints(self) -> bool:
        """Whether the control plane makes waypoints for services that need one and name none."""
        if self.mesh_config is None:
            return False
        return reading.config_of(self.mesh_config.content).waypoints is WaypointProvisioning.AUTOMATIC

    def all(self, model: type[ObjectT], namespace: str | None = None) -> Iterator[ObjectT]:
        """Return the objects of a kind, of one namespace or of all."""
        for (_, found, _), item in self._objects.items():
            if isinstance(item, model) and namespace in (None, found):
                yield item

    def finding(self, code: Code, item: base.Object, path: str, text: str) -> Finding:
        """Return a finding about an object."""
        key = (type(item).__name__, *item.key)
        return Finding(code, *key, path, text, self._origins.get(key, ""))

    def unknown(self, item: base.Object) -> Iterator[Finding]:
        """Return a finding for each field that means nothing here."""
        for path in base.unknown_fields(item):
            yield self.finding(Code.UNKNOWN_FIELD, item, path, "is not known and ignored; check the spelling")

    def namespace_labels(self, name: str) -> Mapping[str, str]:
        """Return the labels of a namespace; none where it is not known."""
        namespace = self._objects.get(("Namespace", "", name))
        return namespace.metadata.labels if namespace is not None else {}

    def is_enrolled(self, pod: core.Pod) -> bool:
        """Return whether the node agent captures a pod."""
        return self.enrolment(pod) is Enrolment.ENROLLED

    def is_labelled(self, pod: core.Pod) -> bool:
        """Return whether a pod would be enrolled without its sidecar."""
        annotations = {**pod.metadata.annotations}
        annotations.pop(names.SIDECAR_STATUS_ANNOTATION, None)
        bare = msgspec.structs.replace(pod, metadata=msgspec.structs.replace(pod.metadata, annotations=annotations))
        return self.enrolment(bare) is Enrolment.ENROLLED

    def enrolment(self, pod: core.Pod) -> Enrolment:
        """Return whether a pod is enrolled, or why it is not; by the same rules as the node agent."""
        return enrolment(
            namespace=pod.metadata.namespace,
            labels=pod.metadata.labels,
            annotations=pod.metadata.annotations,
            namespace_labels=self.namespace_labels(pod.metadata.namespace),
            host_network=pod.spec.host_network,
            terminal=pod.is_terminal,
            rules=self.rules,
        )


def documents(text: str, default_namespace: str) -> Iterable[tuple[Json, str]]:
    """Return the objects of a YAML text that are of a kind that is looked at, with that kind.

    Raises:
        ValueError: it is not YAML.
    """
    try:
        loaded: list[Any] = list(yaml.safe_load_all(text))
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    for document in loaded:
        items = document.get("items") if isinstance(document, dict) and "items" in document else [document]
        for item in items or ():
            if not isinstance(item, dict):
                continue
            kind, version = str(item.get("kind", "")), str(item.get("apiVersion", ""))
            group = version.rpartition("/")[0]
            metadata = item.setdefault("metadata", {})
            if kind == _CONFIG_MAP and metadata.get("name") == names.MESH_CONFIGMAP and not group:
                metadata.setdefault("namespace", default_namespace)
                yield item, kind
            if kind not in MODELS or group != _GROUPS[kind]:
                continue
            if MODELS[kind][0].namespaced:
                metadata.setdefault("namespace", default_namespace)
            yield item, kind
