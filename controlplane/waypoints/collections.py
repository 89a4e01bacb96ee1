"""The waypoints of one mesh as collections, and which of them services, ServiceEntries and workloads use."""

from controlplane.graph.collection import Collection
from controlplane.graph.derived import Derived, Fetch
from controlplane.graph.scheduler import Graph
from controlplane.inputs.sources import Inputs
from controlplane.stages import ATTACHMENTS, WAYPOINTS
from controlplane.waypoints import attachment
from controlplane.waypoints.attachment import Attachment, Reference, World
from controlplane.waypoints.needs import Needs
from controlplane.waypoints.waypoint import Waypoint, known, of_gateway
from meshapi import names
from meshapi.mesh_config.model import Visibility
from meshapi.resources.base import Metadata
from meshapi.resources.core import Namespace, Service
from meshapi.resources.gateway import Gateway, GatewayClass
from meshapi.resources.networking import ServiceEntry
from meshkit.kube import Key, kinds


class Waypoints:
    """The waypoints, and what is attached to them.

    Attributes:
        ready: the waypoints that traffic can be sent to, by the key of the Gateway.
        services: what Kubernetes services are attached to, by key; absent: no label names a waypoint.
        entries: what ServiceEntries are attached to, by key.
        known: the waypoints of the mesh's own class, ready or not: a pod is ready when it has its configuration.
        served: what Kubernetes services are attached to, by key, where waypoints that are known count like ready ones.
        served_entries: the same for ServiceEntries.
        needs: which services automatic waypoints are for.
    """

    ready: Collection[Key, Waypoint]
    services: Collection[Key, Attachment]
    entries: Collection[Key, Attachment]
    known: Collection[Key, Waypoint]
    served: Collection[Key, Attachment]
    served_entries: Collection[Key, Attachment]

    def __init__(self, graph: Graph, inputs: Inputs) -> None:
        self._inputs = inputs
        self._classes = inputs.of(GatewayClass)
        self.ready = Derived(graph, "waypoints", inputs.of(Gateway), WAYPOINTS, self._waypoint)
        self._references: Collection[Key, Reference] = Derived(
            graph, "waypoints of namespaces", inputs.namespaces, WAYPOINTS, self._reference
        )
        self.needs = Needs(graph, inputs, self._references)
        self.services = Derived(graph, "attached services", inputs.of(Service), ATTACHMENTS, self._service)
        self.entries = Derived(graph, "attached entries", inputs.of(ServiceEntry), ATTACHMENTS, self._entry)
        self.known = Derived(graph, "known waypoints", inputs.of(Gateway), WAYPOINTS, self._known)
        self.served = Derived(graph, "served services", inputs.of(Service), ATTACHMENTS, self._service_served)
        self.served_entries = Derived(graph, "served entries", inputs.of(ServiceEntry), ATTACHMENTS, self._entry_served)

    def of_service(self, key: Key, fetch: Fetch) -> Waypoint | None:
        """Return the waypoint that a Kubernetes service uses."""
        return self._of(fetch.find(self.services, key), fetch)

    def serving(self, kind: str, key: Key, fetch: Fetch) -> Waypoint | None:
        """Return the waypoint that has, or has to have, the configuration for a service or, by kind, a ServiceEntry."""
        found = fetch.find(self.served_entries if kind == "ServiceEntry" else self.served, key)
        return None if found is None or found.waypoint is None else fetch.find(self.known, found.waypoint)

    def serving_workload(self, metadata: Metadata, fetch: Fetch) -> Waypoint | None:
        """Return the waypoint that has, or has to have, the configuration for a workload."""
        found = attachment.of_workload(metadata, self._world(fetch, self.known))
        return None if found is None or found.waypoint is None else fetch.find(self.known, found.waypoint)

    def for_ingress(self, kind: str, key: Key, fetch: Fetch) -> Waypoint | None:
        """Return the waypoint that gateways go through to a service or, by kind, a ServiceEntry; ``None``: past it."""
        found = fetch.find(self.entries if kind == "ServiceEntry" else self.services, key)
        return self._of(found, fetch) if found is not None and found.ingress else None

    def of_entry(self, key: Key, fetch: Fetch) -> Waypoint | None:
        """Return the waypoint that a ServiceEntry uses."""
        return self._of(fetch.find(self.entries, key), fetch)

    def of_workload(self, metadata: Metadata, fetch: Fetch) -> Waypoint | None:
        """Return the waypoint that a workload uses; no collection has these: there may be very many."""
        return self._of(self.workload_attachment(metadata, fetch), fetch)

    def workload_attachment(self, metadata: Metadata, fetch: Fetch) -> Attachment | None:
        """Return what a workload is attached to."""
        return attachment.of_workload(metadata, self._world(fetch))

    def _of(self, found: Attachment | None, fetch: Fetch) -> Waypoint | None:
        if found is None or found.waypoint is None:
            return None
        return fetch.find(self.ready, found.waypoint)

    def _waypoint(self, gateway: Gateway, fetch: Fetch) -> Waypoint | None:
        return of_gateway(gateway, fetch.find(self._classes, ("", gateway.spec.gateway_class_name)))

    def _known(self, gateway: Gateway, fetch: Fetch) -> Waypoint | None:
        if gateway.spec.gateway_class_name != names.WAYPOINT_CLASS:
            return None
        return known(gateway, fetch.find(self._classes, ("", gateway.spec.gateway_class_name)))

    def _reference(self, namespace: Namespace, _: Fetch) -> Reference | None:
        return attachment.reference(namespace.metadata, namespace.metadata.name)

    def _service(self, service: Service, fetch: Fetch) -> Attachment | None:
        return self._service_in(service, self._world(fetch), fetch)

    def _service_served(self, service: Service, fetch: Fetch) -> Attachment | None:
        return self._service_in(service, self._world(fetch, self.known), fetch)

    def _service_in(self, service: Service, world: World, fetch: Fetch) -> Attachment | None:
        automatic = self.needs.of(kinds.SERVICE, service.key, fetch)
        return attachment.of_service(service.metadata, world, automatic=automatic)

    def _entry(self, entry: ServiceEntry, fetch: Fetch) -> Attachment | None:
        return self._entry_in(entry, self._world(fetch), fetch)

    def _entry_served(self, entry: ServiceEntry, fetch: Fetch) -> Attachment | None:
        return self._entry_in(entry, self._world(fetch, self.known), fetch)

    def _entry_in(self, entry: ServiceEntry, world: World, fetch: Fetch) -> Attachment | None:
        given = fetch.setting(self._inputs.mesh).service_entry_visibility
        is_private = False
        if given is not None:
            namespace = world.namespace(entry.metadata.namespace)
            is_private = given.of(namespace.metadata.labels if namespace is not None else {}) is Visibility.NAMESPACE
        automatic = self.needs.of(kinds.SERVICE_ENTRY, entry.key, fetch)
        return attachment.of_service(entry.metadata, world, automatic=automatic, is_private=is_private)

    def _world(self, fetch: Fetch, among: Collection[Key, Waypoint] | None = None) -> World:
        """Return what attachments depend on; they name a waypoint of ``among``, by default of the ready waypoints."""
        waypoints = self.ready if among is None else among
        return World(
            reference=lambda namespace: fetch.find(self._references, ("", namespace)),
            waypoint=lambda key: fetch.find(waypoints, key),
            namespace=lambda namespace: fetch.find(self._inputs.namespaces, ("", namespace)),
        )
