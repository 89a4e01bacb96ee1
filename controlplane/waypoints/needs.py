"""Which services need a waypoint and have no label that names one. Pure.

A service needs one when something that only a waypoint enforces is meant for it: a VirtualService or a DestinationRule
of its namespace with its host, a route that is attached to it, or a policy, Telemetry or EnvoyFilter that
names it in ``targetRefs``. Objects of other namespaces that a waypoint of this namespace would not heed are no reason.
"""

from collections.abc import Iterable
from typing import Any, Final

from controlplane.graph.collection import Collection
from controlplane.graph.derived import Derived, Fetch
from controlplane.graph.lookups import Index
from controlplane.graph.scheduler import Graph
from controlplane.inputs.sources import Inputs
from controlplane.inputs.targets import Target, targets
from controlplane.stages import WAYPOINTS
from controlplane.waypoints import attachment
from controlplane.waypoints.attachment import Reference
from meshapi import hosts, names
from meshapi.resources import base, core
from meshapi.resources.backend_policies import BackendTLSPolicy, XBackendTrafficPolicy
from meshapi.resources.destination_rule import DestinationRule
from meshapi.resources.envoy_filter import EnvoyFilter
from meshapi.resources.gateway_routes import GRPCRoute, HTTPRoute, ParentReference, TCPRoute, TLSRoute
from meshapi.resources.networking import ServiceEntry
from meshapi.resources.request_authentication import RequestAuthentication
from meshapi.resources.security import AuthorizationPolicy
from meshapi.resources.telemetry import Telemetry
from meshapi.resources.virtual_service import VirtualService
from meshkit.kube import Key, Kind, kinds

_MESH: Final = "mesh"
_BY_ADDRESS: Final = "ExternalName"
"""A type of services without a virtual address: clients connect to another name."""


class Needs:
    """The services that automatic waypoints are for.

    Attributes:
        services: why a Kubernetes service needs one, as ``VirtualService shop/web``, by key; absent: it does not.
        entries: the same for ServiceEntries.
    """

    services: Collection[Key, str]
    entries: Collection[Key, str]

    def __init__(self, graph: Graph, inputs: Inputs, references: Collection[Key, Reference]) -> None:
        self._mesh = inputs.mesh
        self._namespaces = inputs.namespaces
        self._references = references
        self._by_host: list[tuple[Kind, Index[Key, Key, Any]]] = [
            (kinds.VIRTUAL_SERVICE, Index(inputs.of(VirtualService), _hosts_of_virtual_service)),
            (kinds.DESTINATION_RULE, Index(inputs.of(DestinationRule), _host_of_rule)),
        ]
        self._by_target: list[tuple[Kind, Index[Target, Key, Any]]] = [
            (kinds.HTTP_ROUTE, Index(inputs.of(HTTPRoute), _parents)),
            (kinds.GRPC_ROUTE, Index(inputs.of(GRPCRoute), _parents)),
            (kinds.TCP_ROUTE, Index(inputs.of(TCPRoute), _parents)),
            (kinds.TLS_ROUTE, Index(inputs.of(TLSRoute), _parents)),
            (kinds.AUTHORIZATION_POLICY, Index(inputs.of(AuthorizationPolicy), targets)),
            (kinds.REQUEST_AUTHENTICATION, Index(inputs.of(RequestAuthentication), targets)),
            (kinds.TELEMETRY, Index(inputs.of(Telemetry), targets)),
            (kinds.ENVOY_FILTER, Index(inputs.of(EnvoyFilter), targets)),
            (kinds.BACKEND_TLS_POLICY, Index(inputs.of(BackendTLSPolicy), _backends)),
            (kinds.BACKEND_TRAFFIC_POLICY, Index(inputs.of(XBackendTrafficPolicy), _backends)),
        ]
        self.services = Derived(graph, "services in need", inputs.of(core.Service), WAYPOINTS, self._of_service)
        self.entries = Derived(graph, "entries in need", inputs.of(ServiceEntry), WAYPOINTS, self._of_entry)

    def of(self, kind: Kind, key: Key, fetch: Fetch) -> Reference | None:
        """Return the automatic waypoint of a service or ServiceEntry that needs one."""
        found = fetch.find(self.services if kind is kinds.SERVICE else self.entries, key)
        return None if found is None else Reference((key[0], names.AUTOMATIC_WAYPOINT))

    def reasons(self, namespace: str) -> list[str]:
        """Return why a namespace needs a waypoint, in order; empty: it needs none. Outside of a transform."""
        held = (*self.services.items(), *self.entries.items())
        return sorted({reason for key, reason in held if key[0] == namespace})

    def _of_service(self, service: core.Service, fetch: Fetch) -> str | None:
        if service.spec.type == _BY_ADDRESS or not self._is_meant(service, fetch):
            return None
        name, namespace = service.key[1], service.key[0]
        complete = f"{name}.{namespace}.svc.{fetch.setting(self._mesh).cluster_domain}"
        return self._reason(kinds.SERVICE, service.key, (name, *hosts.patterns(complete)), fetch)

    def _of_entry(self, entry: ServiceEntry, fetch: Fetch) -> str | None:
        if not self._is_meant(entry, fetch):
            return None
        spellings = [pattern for host in entry.spec.hosts for pattern in hosts.patterns(host.lower())]
        return self._reason(kinds.SERVICE_ENTRY, entry.key, spellings, fetch)

    def _is_meant(self, item: base.Object, fetch: Fetch) -> bool:
        """Return whether automatic waypoints are for an object: no label says anything, its namespace is enrolled."""
        mesh, namespace, labels = fetch.setting(self._mesh), item.metadata.namespace, item.metadata.labels
        if not mesh.automatic_waypoints or labels.get(names.GATEWAY_MANAGED_LABEL) in names.MANAGED_PROXIES:
            return False
        if attachment.reference(item.metadata, namespace) or fetch.find(self._references, ("", namespace)):
            return False
        found = fetch.find(self._namespaces, ("", namespace))
        return found is not None and mesh.enrolment.enrol(namespace, found.metadata.labels)

    def _reason(self, kind: Kind, key: Key, spellings: Iterable[str], fetch: Fetch) -> str | None:
        for of, index in self._by_host:
            for spelling in spellings:
                if found := fetch.members(index, (key[0], spelling)):
                    return _shown(of, found)
        for of, by_target in self._by_target:
            if found := fetch.members(by_target, (kind.group, kind.name, *key)):
                return _shown(of, found)
        return None


def _shown(kind: Kind, found: Iterable[base.Object]) -> str:
    return f"{kind.name} {'/'.join(min(one.key for one in found))}"


def _hosts_of_virtual_service(item: VirtualService) -> Iterable[Key]:
    if item.spec.gateways and _MESH not in item.spec.gateways:
        return ()
    return {(item.metadata.namespace, _spelt(host)) for host in item.spec.hosts}


def _host_of_rule(item: DestinationRule) -> Iterable[Key]:
    return ((item.metadata.namespace, _spelt(item.spec.host)),)


def _spelt(host: str) -> str:
    return host.rstrip(".").lower()


def _parents(route: HTTPRoute | GRPCRoute | TCPRoute | TLSRoute) -> Iterable[Target]:
    own = route.metadata.namespace
    return {_parent(one, own) for one in route.spec.parent_refs}


def _backends(policy: BackendTLSPolicy | XBackendTrafficPolicy) -> Iterable[Target]:
    return {(one.group, one.kind, policy.metadata.namespace, one.name) for one in policy.spec.target_refs}


def _parent(one: ParentReference, namespace: str) -> Target:
    return ("" if one.group == "core" else one.group, one.kind, one.namespace or namespace, one.name)
