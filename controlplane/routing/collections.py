"""Routing as collections: what each object says, and look-ups of what counts for a host."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from controlplane.graph.collection import Collection
from controlplane.graph.derived import Derived, Fetch
from controlplane.graph.label_index import LabelIndex
from controlplane.graph.lookups import Index
from controlplane.graph.scheduler import Graph
from controlplane.inputs.sources import Inputs
from controlplane.routing import destinations, hosts, services, virtual_services
from controlplane.routing.destinations import Rules
from controlplane.routing.ir import Routing
from controlplane.routing.services import Endpoint, Service
from controlplane.stages import ROUTES
from meshapi.resources import core
from meshapi.resources.destination_rule import DestinationRule
from meshapi.resources.virtual_service import VirtualService
from meshkit.kube import Key

_NO_RULES: Final = Rules()


@dataclass(frozen=True, slots=True)
class Dated:
    """What an object says, and its place among others: the oldest comes first."""

    key: Key
    created: str
    routing: Routing

    @property
    def place(self) -> tuple[str, str, str]:
        """Where it stands among others for one host."""
        return (self.created, self.key[1], self.key[0])


class RoutingCollections:
    """What users' routing objects say.

    Attributes:
        services: services as routing sees them, by the key of the Kubernetes service.
        virtual_services: what each VirtualService says, by key.
    """

    def __init__(self, graph: Graph, inputs: Inputs) -> None:
        self._mesh = inputs.mesh
        self._nodes = inputs.of(core.Node)
        self._objects = inputs.of(core.Service)
        self.services: Collection[Key, Service] = Derived(
            graph, "routed services", self._objects, ROUTES, self._service
        )
        self._services_by_host: Index[str, Key, Service] = Index(self.services, lambda service: (service.host,))
        self.virtual_services: Collection[Key, Dated] = Derived(
            graph, "virtual services", inputs.of(VirtualService), ROUTES, self._virtual_service
        )
        self._virtual_services: Index[Key, Key, Dated] = Index(
            self.virtual_services, lambda item: ((item.key[0], host) for host in item.routing.hosts)
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

    def service(self, host: str, fetch: Fetch) -> Service | None:
        """Return the service with a host name."""
        found = fetch.members(self._services_by_host, host)
        return found[0] if found else None

    def endpoints(self, service: Service, fetch: Fetch) -> tuple[Endpoint, ...]:
        """Return the endpoints of a service, in the order of their addresses."""
        item = fetch.find(self._objects, service.key)
        if item is None:
            return ()
        mesh = fetch.setting(self._mesh)
        pods = fetch.selected(self._pods, service.namespace, frozenset(item.spec.selector.items()))
        found = [services.of_pod(item, pod, fetch.find(self._nodes, ("", pod.spec.node_name)), mesh) for _, pod in pods]
        return tuple(sorted((one for one in found if one is not None), key=lambda one: one.address))

    def routings(self, service: Service, namespace: str, fetch: Fetch) -> tuple[Routing, ...]:
        """Return what counts for a service at a waypoint of a namespace, in order: the waypoint's and the service's."""
        found = {
            item.key: item
            for scope in {namespace, service.namespace}
            for pattern in hosts.patterns(service.host)
            for item in fetch.members(self._virtual_services, (scope, pattern))
        }
        return tuple(item.routing for item in sorted(found.values(), key=lambda one: one.place))

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
        for scope in dict.fromkeys((namespace, owner, fetch.setting(self._mesh).root_namespace)):
            for pattern in hosts.patterns(host):
                found = self._exported(fetch.members(self._rules_by_host, (scope, pattern)), namespace)
                if found:
                    return destinations.merged(found)
        return _NO_RULES

    @staticmethod
    def _exported(items: Iterable[tuple[str, DestinationRule]], namespace: str) -> list[DestinationRule]:
        return [rule for _, rule in items if destinations.is_exported(rule, namespace)]

    def _service(self, item: core.Service, fetch: Fetch) -> Service | None:
        return services.of_kubernetes(item, fetch.setting(self._mesh))

    def _virtual_service(self, item: VirtualService, fetch: Fetch) -> Dated:
        routing = virtual_services.translate(item, fetch.setting(self._mesh).cluster_domain)
        return Dated(item.key, item.metadata.creation_timestamp, routing)

    def _rule(self, item: DestinationRule, fetch: Fetch) -> tuple[str, DestinationRule]:
        domain = fetch.setting(self._mesh).cluster_domain
        return hosts.complete(item.spec.host, item.metadata.namespace, domain), item
