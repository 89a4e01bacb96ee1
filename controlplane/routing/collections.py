"""Routing as collections: what each object says, and look-ups of what counts for a host."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from controlplane.ambient.ports import datagram_target
from controlplane.gateways.collections import Gateways
from controlplane.graph.collection import Collection
from controlplane.graph.derived import Derived, Fetch
from controlplane.graph.label_index import LabelIndex
from controlplane.graph.lookups import Group, Index
from controlplane.graph.scheduler import Graph
from controlplane.inputs import visibility
from controlplane.inputs.mesh import MeshContext
from controlplane.inputs.sources import MESH, Inputs
from controlplane.routing import backend_tls, backend_traffic, destinations, entries, services, virtual_services
from controlplane.routing.backend_policies import BackendPolicies
from controlplane.routing.backend_tls import TlsReading
from controlplane.routing.destinations import Rules
from controlplane.routing.exports import is_exported
from controlplane.routing.gateway_collections import GatewayRoutes
from controlplane.routing.ir import ConnectionRule, HttpRule, Routing, Target
from controlplane.routing.service_collections import ServicesAtGateways
from controlplane.routing.services import Endpoint, Port, Service
from controlplane.stages import ROUTES
from meshapi import hosts, names
from meshapi.mesh_config.model import Visibility
from meshapi.resources import core
from meshapi.resources.backend_policies import BackendTLSPolicy, XBackendTrafficPolicy
from meshapi.resources.destination_rule import DestinationRule, LocalityLbSetting
from meshapi.resources.networking import ServiceEntry, WorkloadEntry
from meshapi.resources.virtual_service import VirtualService
from meshkit.kube import Key

_NO_RULES: Final = Rules()


@dataclass(frozen=True, slots=True)
class Dated:
    """A VirtualService, and what it says."""

    item: VirtualService
    routing: Routing


@dataclass(frozen=True, slots=True)
class EntryServices:
    """The services of a ServiceEntry's hosts."""

    key: Key
    created: str
    services: tuple[Service, ...]


class RoutingCollections:
    """What users' routing objects say.

    Attributes:
        services: services as routing sees them, by the key of the Kubernetes service.
        entry_services: hosts of ServiceEntries as services, by host.
        virtual_services: what each VirtualService says, by key.
        at_gateways: VirtualServices at gateways of Istio's API.
        gateway: routes of the Gateway API.
        backend_tls: TLS that is spoken to services.
        backend_traffic: sessions and limits of retries of services.
    """

    def __init__(self, graph: Graph, inputs: Inputs, gateways: Gateways) -> None:
        self._gateways = gateways
        self._mesh = inputs.mesh
        self._config = inputs.config
        self._namespaces = inputs.namespaces
        self._nodes = inputs.of(core.Node)
        self._pod_objects = inputs.of(core.Pod)
        self._objects = inputs.of(core.Service)
        self.services: Collection[Key, Service] = Derived(
            graph, "routed services", self._objects, ROUTES, self._service
        )
        self._services_by_host: Index[str, Key, Service] = Index(self.services, lambda service: (service.host,))
        self._entry_objects = inputs.of(ServiceEntry)
        self._entries: Collection[Key, EntryServices] = Derived(
            graph, "services of entries", self._entry_objects, ROUTES, self._entry
        )
        by_host: Index[str, Key, EntryServices] = Index(
            self._entries, lambda item: {service.host for service in item.services}
        )
        self.entry_services: Collection[str, Service] = Derived(graph, "routed entries", by_host, ROUTES, self._owned)
        over: tuple[Collection[Any, Service], ...] = (self.services, self.entry_services)
        self._every: list[Index[str, Any, Service]] = [Index(one, lambda _: ("",)) for one in over]
        # Slices change with every pod of their services; only those that list something else are read.
        listing: Collection[Key, core.EndpointSlice] = Derived(
            graph, "slices beside pods", inputs.of(core.EndpointSlice), ROUTES, services.beside_pods
        )
        self._slices: Index[Key, Key, core.EndpointSlice] = Index(listing, _service_of)
        self._workload_entries = LabelIndex(
            inputs.of(WorkloadEntry), lambda item: item.metadata.namespace, lambda item: item.spec.labels
        )
        self._virtual_objects = inputs.of(VirtualService)
        self.virtual_services: Collection[Key, Dated] = Derived(
            graph, "virtual services", self._virtual_objects, ROUTES, self._virtual_service
        )
        self._virtual_services: Index[Key, Key, Dated] = Index(
            self.virtual_services, lambda one: ((one.item.metadata.namespace, host) for host in one.routing.hosts)
        )
        self.at_gateways = ServicesAtGateways(graph, inputs, gateways)
        self.gateway = GatewayRoutes(graph, inputs, self.of_object, self._entry_seen_from, gateways)
        self._certificates = inputs.certificates
        self.backend_tls = BackendPolicies(graph, inputs, BackendTLSPolicy, self._tls_policy)
        self.backend_traffic = BackendPolicies(
            graph, inputs, XBackendTrafficPolicy, lambda item, _: backend_traffic.read(item)
        )
        self._rules: Collection[Key, tuple[str, DestinationRule]] = Derived(
            graph, "destination rules", inputs.of(DestinationRule), ROUTES, self._rule
        )
        self._rules_by_host: Index[Key, Key, tuple[str, DestinationRule]] = Index(
            self._rules, lambda item: ((item[1].metadata.namespace, item[0]),)
        )
        self._pods = LabelIndex(
            inputs.of(core.Pod), lambda pod: pod.metadata.namespace, lambda pod: pod.metadata.labels
        )

    def _owned(self, group: Group[str, Key, EntryServices], fetch: Fetch) -> Service | None:
        """Return the service of a host that ServiceEntries name: the oldest entry's, unless Kubernetes has the host."""
        if fetch.members(self._services_by_host, group.key):
            return None
        oldest = min(group.members.values(), key=lambda one: (one.created, one.key))
        return next((service for service in oldest.services if service.host == group.key), None)

    def _entry(self, item: ServiceEntry, fetch: Fetch) -> "EntryServices":
        mesh = fetch.setting(self._mesh)
        # Labels of the namespace count only where the mesh's configuration bounds visibility by them.
        bounded = mesh.service_entry_visibility is not None
        namespace = fetch.find(self._namespaces, ("", item.metadata.namespace)) if bounded else None
        is_private = visibility.of_entry(item, mesh, namespace) is not Visibility.PUBLIC
        made = entries.of_entry(item, is_private=is_private)
        return EntryServices(item.key, item.metadata.creation_timestamp, made)

    def _entry_endpoints(self, service: Service, mesh: MeshContext, fetch: Fetch) -> Iterable[Endpoint]:
        entry = fetch.find(self._entry_objects, service.key)
        if entry is None:
            return ()
        selector = entry.spec.workload_selector
        labels = frozenset(selector.labels.items()) if selector is not None else frozenset()
        pods = [pod for _, pod in fetch.selected(self._pods, service.namespace, labels)]
        with_nodes = [(pod, fetch.find(self._nodes, ("", pod.spec.node_name))) for pod in pods]
        others = [item for _, item in fetch.selected(self._workload_entries, service.namespace, labels)]
        return (*entries.listed(entry, service.host, mesh), *entries.selected(entry, with_nodes, others, mesh))

    def cluster_id(self, fetch: Fetch) -> str:
        """Return the name of Kubernetes' cluster."""
        return fetch.setting(self._mesh).cluster_id

    def is_edge(self, view: Key, fetch: Fetch) -> bool:
        """Return whether a view is of a gateway at the edge, not of a waypoint."""
        return fetch.find(self._gateways.known, view) is not None

    def client_certificate(self, view: Key, fetch: Fetch) -> Key | None:
        """Return the Secret with which a gateway proves itself to backends; ``None``: it is none, or has none."""
        gateway = fetch.find(self._gateways.known, view)
        return None if gateway is None else gateway.client_certificate

    def service(self, host: str, fetch: Fetch) -> Service | None:
        """Return the service with a host name."""
        found = fetch.members(self._services_by_host, host)
        return found[0] if found else fetch.find(self.entry_services, host)

    def every_service(self, fetch: Fetch) -> tuple[Service, ...]:
        """Return all services, by host."""
        found = (service for index in self._every for service in fetch.members(index, ""))
        return tuple(sorted(found, key=lambda one: one.host))

    def _entry_seen_from(self, namespace: str, host: str, fetch: Fetch) -> Service | None:
        found = fetch.find(self.entry_services, host)
        return found if found is not None and found.is_seen_from(namespace) else None

    def endpoints(self, service: Service, fetch: Fetch) -> tuple[Endpoint, ...]:
        """Return the endpoints of a service, in the order of their addresses."""
        mesh = fetch.setting(self._mesh)
        if service.kind == entries.KIND:
            return tuple(sorted(self._entry_endpoints(service, mesh, fetch), key=lambda one: one.address))
        item = fetch.find(self._objects, service.key)
        if item is None:
            return ()
        selector = frozenset(item.spec.selector.items())
        pods = fetch.selected(self._pods, service.namespace, selector)
        vms = fetch.selected(self._workload_entries, service.namespace, selector)
        found = [
            *(services.of_pod(item, pod, fetch.find(self._nodes, ("", pod.spec.node_name)), mesh) for _, pod in pods),
            *(entries.of_service(item, vm, mesh) for _, vm in vms),
            *(
                one
                for each in fetch.members(self._slices, item.key)
                for one in services.of_slice(item, each, mesh, lambda name: self._pod(service.namespace, name, fetch))
            ),
        ]
        return tuple(sorted((one for one in found if one is not None), key=lambda one: one.address))

    def _pod(self, namespace: str, name: str, fetch: Fetch) -> tuple[core.Pod, core.Node | None] | None:
        pod = fetch.find(self._pod_objects, (namespace, name))
        return None if pod is None else (pod, fetch.find(self._nodes, ("", pod.spec.node_name)))

    def datagram_endpoints(self, target: Target, fetch: Fetch) -> tuple[tuple[str, int], ...]:
        """Return addresses and ports of the ready pods of a Kubernetes service's UDP port, in order."""
        service = self.service(target.host, fetch)
        item = None if service is None else fetch.find(self._objects, service.key)
        if item is None:
            return ()
        pods = fetch.selected(self._pods, item.metadata.namespace, frozenset(item.spec.selector.items()))
        found = ((pod, datagram_target(item, pod, target.port)) for _, pod in pods)
        return tuple(
            sorted(
                (pod.addresses[0], number)
                for pod, number in found
                if number and pod.is_ready and pod.addresses and not pod.is_terminal
            )
        )

    def http_rules(self, service: Service, port: Port, namespace: str, fetch: Fetch) -> tuple[HttpRule, ...]:
        """Return the rules for a service's port at a waypoint of a namespace, in order.

        Routes of Gateway API go before VirtualServices: where one is attached, these do not count.
        """
        attached = self.gateway.http_rules(service, port, fetch)
        if attached:
            return attached
        return tuple(
            rule
            for routing in self.routings(service, namespace, fetch)
            for rule in routing.http
            if rule.port in {0, port.number}
        )

    def connection_rules(
        self, service: Service, port: Port, namespace: str, fetch: Fetch
    ) -> tuple[ConnectionRule, ...]:
        """Return the rules for connections to a service's port that are no requests, in order.

        Routes of Gateway API go before VirtualServices. Of these, rules for TLS go before the others, and the name that
        a client sends is the service's: one rule counts at most.
        """
        if not port.protocol.is_tcp:
            return ()
        attached = self.gateway.connection_rules(service, port, fetch)
        if attached:
            return attached
        routings = self.routings(service, namespace, fetch)
        tls = [rule for one in routings for rule in one.tls if _is_named(service.host, rule.server_names)]
        candidates = (*tls, *(rule for one in routings for rule in one.tcp))
        found = [rule for rule in candidates if rule.port in {0, port.number} and _covers(rule, service)]
        return tuple(replace(rule, server_names=()) for rule in found[:1])

    def routings(self, service: Service, namespace: str, fetch: Fetch) -> tuple[Routing, ...]:
        """Return what VirtualServices say of a service.

        Those of the waypoint's namespace and of the service's count, as far as they are exported to the waypoint's.
        """
        found = {
            one.item.key: one
            for scope in {namespace, service.namespace}
            for pattern in hosts.patterns(service.host)
            for one in fetch.members(self._virtual_services, (scope, pattern))
            if is_exported(one.item, namespace)
        }
        return tuple(one.routing for one in sorted(found.values(), key=lambda one: one.item.metadata.age))

    def rules(self, host: str, namespace: str, owner: str, fetch: Fetch) -> Rules:
        """Return what DestinationRules say of a host to a proxy.

        The proxy's namespace goes before the service's, and that before the root namespace; within one, the most
        specific name counts.

        Args:
            host: complete name.
            namespace: of the proxy.
            owner: namespace of the service.
            fetch: how it is read.
        """
        config = fetch.find(self._config, MESH)
        locality = LocalityLbSetting() if config is None else config.locality_lb_setting
        for scope in dict.fromkeys((namespace, owner, fetch.setting(self._mesh).root_namespace)):
            for pattern in hosts.patterns(host):
                found = _exported(fetch.members(self._rules_by_host, (scope, pattern)), namespace)
                if found:
                    return replace(destinations.merged(found), mesh_locality=locality)
        return replace(_NO_RULES, mesh_locality=locality)

    def of_object(self, kind: str, key: Key, fetch: Fetch) -> Service | None:
        """Return an object as a service; of a ServiceEntry, its first host."""
        if kind != entries.KIND:
            return fetch.find(self.services, key)
        found = fetch.find(self._entries, key)
        return next(iter(found.services), None) if found is not None else None

    def _tls_policy(self, item: BackendTLSPolicy, fetch: Fetch) -> TlsReading:
        namespace = item.metadata.namespace
        return backend_tls.read(item, lambda name: fetch.find(self._certificates, (namespace, name)))

    def _service(self, item: core.Service, fetch: Fetch) -> Service | None:
        return services.of_kubernetes(item, fetch.setting(self._mesh))

    def _virtual_service(self, item: VirtualService, fetch: Fetch) -> Dated:
        domain = fetch.setting(self._mesh).cluster_domain
        routing = virtual_services.translate(item, domain, lambda key: fetch.find(self._virtual_objects, key))
        return Dated(item, routing)

    def _rule(self, item: DestinationRule, fetch: Fetch) -> tuple[str, DestinationRule]:
        domain = fetch.setting(self._mesh).cluster_domain
        return hosts.complete(item.spec.host, item.metadata.namespace, domain), item


def _service_of(item: core.EndpointSlice) -> tuple[Key, ...]:
    name = item.metadata.labels.get(names.SERVICE_NAME_LABEL)
    return ((item.metadata.namespace, name),) if name else ()


def _is_named(host: str, patterns: Iterable[str]) -> bool:
    return any(hosts.matches(pattern, host) for pattern in patterns)


def _covers(rule: ConnectionRule, service: Service) -> bool:
    """Return whether one of a rule's subnets contains an address, or a whole CIDR, of the service."""
    networks = [ipaddress.ip_network(one, strict=False) for one in rule.subnets]
    addresses = [ipaddress.ip_network(one, strict=False) for one in service.addresses]
    return not networks or any(
        one.network_address in network and one.broadcast_address in network for network in networks for one in addresses
    )


def _exported(items: Iterable[tuple[str, DestinationRule]], namespace: str) -> list[DestinationRule]:
    return [rule for _, rule in items if is_exported(rule, namespace)]
