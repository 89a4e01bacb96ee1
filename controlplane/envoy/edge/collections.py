"""What each gateway gets, as collections.

A virtual host is computed once for each host of a gateway, and its routes out of the serialized virtual hosts. So a
route that changes concerns its own hosts, and what is sent is one resource: the routes of a port or, over TLS, those of
a listener.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from controlplane.envoy import clusters, names, routes
from controlplane.envoy import listeners as shared_listeners
from controlplane.envoy.assembling import assembled, patched_clusters
from controlplane.envoy.edge import datagrams, hosts, listeners, secrets
from controlplane.envoy.patches import additions as added
from controlplane.envoy.patches import listeners as listener_patches
from controlplane.envoy.patches import routes as route_patches
from controlplane.envoy.patches.attachment import EnvoyFilters
from controlplane.envoy.placing import Made, Message, origins, placed
from controlplane.envoy.policy_filters import PolicyFilters
from controlplane.envoy.telemetry.reporting import Reporting
from controlplane.envoy.upstreams import Upstreams
from controlplane.gateways import servers
from controlplane.gateways.collections import Gateways
from controlplane.gateways.listener import EdgeGateway, EdgeListener, Spoken
from controlplane.graph.derived import Derived, Fetch
from controlplane.graph.lookups import Group, Index
from controlplane.graph.scheduler import Graph
from controlplane.inputs.sources import MESH, Inputs
from controlplane.routing import sealed
from controlplane.routing.at_gateways import AtGateways
from controlplane.routing.collections import RoutingCollections
from controlplane.routing.edge import EdgeHost
from controlplane.routing.ir import ConnectionRule, HttpRule
from controlplane.routing.policies import Policies
from controlplane.routing.route_references import RouteRules
from controlplane.stages import CHAINS, CLUSTERS, PROXIES
from controlplane.waypoints.collections import Waypoints
from meshapi.mesh_config.model import GatewayTopology, MeshConfig
from meshkit.kube import Key

_Routes = tuple[Key, str]
"""A gateway, and the name of routes."""


@dataclass(frozen=True, slots=True)
class VirtualHostMade:
    """A virtual host.

    Attributes:
        place: where it is.
        body: the serialized message.
        made: what had a part in it.
    """

    place: EdgeHost
    body: bytes
    made: Made


class EdgeCollections:
    """The resources of all gateways at the edge.

    Attributes:
        hosts: virtual hosts.
        listeners: listeners, and what belongs to them.
        made: the collections of resources.
    """

    def __init__(
        self,
        graph: Graph,
        inputs: Inputs,
        routing: RoutingCollections,
        gateways: Gateways,
        waypoints: Waypoints,
        *,
        policies: Policies,
        patches: EnvoyFilters,
        reporting: Reporting,
    ) -> None:
        self._inputs = inputs
        self._routing = routing
        self._waypoints = waypoints
        self._filters = PolicyFilters(policies)
        self._patches = patches
        self._reporting = reporting
        self.hosts: list[Derived[EdgeHost, VirtualHostMade]] = [
            Derived(graph, f"virtual hosts of {kind}s", index, CHAINS, functools.partial(self._host, kind))
            for kind, index in routing.gateway.at_edge.items()
        ]
        self.hosts.append(
            Derived(
                graph, "virtual hosts of VirtualServices", routing.at_gateways.at_edge, CHAINS, self._host_of_services
            )
        )
        self._hosts: list[Index[_Routes, EdgeHost, VirtualHostMade]] = [
            Index(one, lambda found: ((found.place.gateway, found.place.routes),)) for one in self.hosts
        ]
        # A change of one route concerns the routes of its own listener, not those of all that the gateway has.
        by_routes: Index[_Routes, Key, EdgeGateway] = Index(
            gateways.known, lambda gateway: ((gateway.key, name) for name in hosts.routes_names(gateway))
        )
        self.listeners = Derived(graph, "listeners of gateways", gateways.known, PROXIES, self._listeners)
        self.made: tuple[Derived[Key, Made] | Derived[_Routes, Made], ...] = (
            Derived(graph, "datagrams of gateways", gateways.known, CLUSTERS, self._datagrams),
            Derived(graph, "secrets of gateways", gateways.known, CHAINS, self._secrets),
            self.listeners,
            Derived(graph, "routes of gateways", by_routes, PROXIES, self._routes),
        )

    def _upstreams(self, view: Key, fetch: Fetch) -> Upstreams:
        return Upstreams(self._routing, self._waypoints, view, fetch)

    def _of_gateway(self, gateway: EdgeGateway, fetch: Fetch) -> Upstreams:
        """Return the clusters as a gateway sees them; the Gateways that it is made of have a part in what is made."""
        found = self._upstreams(gateway.key, fetch)
        found.sources.update((servers.KIND, key) for key in gateway.merged)
        return found

    def _host(self, kind: str, group: Group[EdgeHost, Key, RouteRules], fetch: Fetch) -> VirtualHostMade | None:
        """Return the virtual host of a place; ``None`` where a group of an earlier kind has it."""
        place = group.key
        for other, index in self._routing.gateway.at_edge.items():
            if other == kind:
                break
            if fetch.members(index, place):
                return None
        return self._made(place, self._routing.gateway.rules_at(place, fetch), fetch)

    def _host_of_services(self, group: Group[EdgeHost, Key, AtGateways], fetch: Fetch) -> VirtualHostMade:
        place = group.key
        needs_tls = self._routing.at_gateways.is_redirected(place, fetch)
        return self._made(place, self._routing.at_gateways.rules_at(place, fetch), fetch, needs_tls=needs_tls)

    def _made(
        self, place: EdgeHost, rules: tuple[HttpRule, ...], fetch: Fetch, *, needs_tls: bool = False
    ) -> VirtualHostMade:
        upstreams = self._upstreams(place.gateway, fetch)
        made = hosts.of_rules(place, rules, _http(upstreams, place.port), needs_tls=needs_tls)
        sources = frozenset({*upstreams.sources, *origins(rules)})
        body = made.SerializeToString(deterministic=True)
        return VirtualHostMade(place, body, Made((), sources, frozenset(upstreams.foreign)))

    def _routes(self, group: Group[_Routes, Key, EdgeGateway], fetch: Fetch) -> Made:
        (gateway,) = group.members.values()
        upstreams, patching = self._of_gateway(gateway, fetch), self._patches.of(None, gateway.key, fetch)
        found = [one for index in self._hosts for one in fetch.members(index, group.key)]
        for one in found:
            upstreams.sources.update(one.made.sources)
        bodies = {one.place.hostname: one.body for one in found}
        configuration = hosts.configuration(gateway, group.key[1], bodies)
        route_patches.patch(configuration, patching)
        return assembled(upstreams, [configuration], patching)

    def _listeners(self, gateway: EdgeGateway, fetch: Fetch) -> Made:
        upstreams = self._of_gateway(gateway, fetch)
        making = listeners.Making(
            gateway,
            self._filters.of(None, upstreams),
            self._reporting.of_gateway(gateway, upstreams),
            lambda listener: self._connections(gateway, listener, upstreams),
            lambda port: lambda target: upstreams.find(target, port, is_http=False),
            self._topology(gateway, fetch),
        )
        opened = self._reporting.of_tunnels(upstreams).opened
        patching = self._patches.of(None, gateway.key, fetch)
        every = (*making.listeners(), shared_listeners.connect_originate(opened))
        made: list[Message] = [
            *patched_clusters([clusters.connect_originate()], patching),
            *(one for listener in every if (one := listener_patches.patched(listener, patching)) is not None),
            *added.of(patching),
        ]
        return assembled(upstreams, made, patching)

    def _topology(self, gateway: EdgeGateway, fetch: Fetch) -> GatewayTopology:
        """Return what is in front of a gateway: what its pods say goes before the mesh configuration, as a whole."""
        if gateway.topology is not None:
            return gateway.topology
        config = fetch.find(self._inputs.config, MESH) or MeshConfig()
        return config.default_config.gateway_topology

    def _datagrams(self, gateway: EdgeGateway, fetch: Fetch) -> Made:
        upstreams = self._upstreams(gateway.key, fetch)
        made: list[Message] = []
        for one in gateway.served:
            if one.spoken is Spoken.UDP:
                rule = self._connections(gateway, one, upstreams)[""]
                made += datagrams.upstream(one, rule, lambda target: self._routing.datagram_endpoints(target, fetch))
        return assembled(upstreams, made, self._patches.of(None, gateway.key, fetch))

    def _connections(
        self, gateway: EdgeGateway, listener: EdgeListener, upstreams: Upstreams
    ) -> Mapping[str, ConnectionRule]:
        if listener.spoken is Spoken.AUTO_PASSTHROUGH:
            admitted = sealed.admitted(listener, self._routing.every_service(upstreams.fetch), gateway.key[0])
            return sealed.connections(listener, admitted, upstreams.sealed_rules, names.sealed)
        routing = self._routing.at_gateways if gateway.merged else self._routing.gateway
        found = routing.connections_at(gateway.key, listener, upstreams.fetch)
        upstreams.sources.update(origins(found.values()))
        return found

    def _secrets(self, gateway: EdgeGateway, fetch: Fetch) -> Made:
        found = secrets.of_gateway(gateway, lambda key: fetch.find(self._inputs.secrets, key))
        return Made(placed(gateway.key, found))


def _http(upstreams: Upstreams, port: int) -> routes.Upstreams:
    return lambda target: upstreams.find(target, port, is_http=True)
