"""VirtualServices at gateways of Istio's API as collections: what each says there, and which count for a host."""

from collections.abc import Mapping

from controlplane.gateways.collections import Gateways
from controlplane.gateways.ingresses import Claimed
from controlplane.gateways.listener import EdgeListener
from controlplane.graph.collection import Collection
from controlplane.graph.derived import Derived, Fetch
from controlplane.graph.lookups import Index
from controlplane.graph.scheduler import Graph
from controlplane.graph.union import Union
from controlplane.inputs.sources import Inputs
from controlplane.routing import at_gateways, ingress_rules, virtual_services
from controlplane.routing.at_gateways import AtGateways
from controlplane.routing.edge import EdgeHost
from controlplane.routing.ir import ConnectionRule, HttpRule, Routing
from controlplane.routing.virtual_services import Here
from controlplane.stages import ROUTES
from meshapi.resources.core import Service
from meshapi.resources.virtual_service import VirtualService
from meshkit.kube import Key


class ServicesAtGateways:
    """The VirtualServices of one mesh, at gateways.

    Attributes:
        bound: what each VirtualService that names a Gateway says there, by key.
        of_ingresses: what each Ingress says, by the key of the Gateway that it is.
        at_edge: by where the rules of all of them for requests count.
    """

    def __init__(self, graph: Graph, inputs: Inputs, gateways: Gateways) -> None:
        self._mesh = inputs.mesh
        self._objects = inputs.of(VirtualService)
        self._gateways = gateways
        self.bound: Collection[Key, AtGateways] = Derived(
            graph, "virtual services at gateways", self._objects, ROUTES, self._bind
        )
        self._services = inputs.of(Service)
        self.of_ingresses: Collection[Key, AtGateways] = Derived(
            graph, "ingresses at gateways", gateways.istio.ingresses.claimed, ROUTES, self._bind_ingress
        )
        every = Union(graph, "all at gateways", self.bound, self.of_ingresses)
        self.at_edge: Index[EdgeHost, Key, AtGateways] = Index(every, lambda one: [place for place, _ in one.requests])
        self._connections: Index[tuple[Key, str], Key, AtGateways] = Index(
            self.bound, lambda one: {(chain.gateway, chain.routes) for chain, _ in one.connections}
        )

    def rules_at(self, host: EdgeHost, fetch: Fetch) -> tuple[HttpRule, ...]:
        """Return the rules for requests at a host of a gateway, in order."""
        return at_gateways.ordered(fetch.members(self.at_edge, host), host)

    def is_redirected(self, host: EdgeHost, fetch: Fetch) -> bool:
        """Return whether plain requests at a host of a gateway are redirected to HTTPS."""
        return any(host in one.redirected for one in fetch.members(self.at_edge, host))

    def connections_at(self, gateway: Key, listener: EdgeListener, fetch: Fetch) -> Mapping[str, ConnectionRule]:
        """Return the rules for connections to a listener of a gateway, by host name; empty: all hosts."""
        found = fetch.members(self._connections, (gateway, listener.routes_name))
        return at_gateways.connections(found, listener, gateway)

    def _bind(self, item: VirtualService, fetch: Fetch) -> AtGateways | None:
        domain = fetch.setting(self._mesh).cluster_domain

        def translate(here: Here) -> Routing:
            return virtual_services.translate_at(item, domain, here, lambda key: fetch.find(self._objects, key))

        return at_gateways.bind(item, domain, lambda key: self._gateways.istio.at(key, fetch), translate)

    def _bind_ingress(self, claimed: Claimed, fetch: Fetch) -> AtGateways:
        def port(service: Key, name: str, number: int) -> int:
            found = fetch.find(self._services, service)
            ports = () if found is None else found.spec.ports
            return next((one.port for one in ports if (one.name == name if name else one.port == number)), 0)

        domain = fetch.setting(self._mesh).cluster_domain
        gateways = self._gateways.istio.at(claimed.gateway.key, fetch) or ()
        return ingress_rules.bind(claimed, gateways, domain, port)
