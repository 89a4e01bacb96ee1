"""Routes of the Gateway API as collections: what each says, and which count for a service's port."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final

from controlplane.gateways.collections import Gateways
from controlplane.gateways.grants import Referrer
from controlplane.gateways.listener import EdgeListener, ListenerId
from controlplane.graph.collection import Collection
from controlplane.graph.derived import Derived, Fetch
from controlplane.graph.lookups import Index
from controlplane.graph.scheduler import Graph
from controlplane.inputs.sources import Inputs
from controlplane.routing import connection_routes, gateway_routes, precedence
from controlplane.routing.edge import EdgeHost, EdgeLookups
from controlplane.routing.ir import ConnectionRule, HttpRule, Origin, RequestMatch, Respond
from controlplane.routing.route_references import Attachment, References, RouteRules
from controlplane.routing.services import Port, Service
from controlplane.stages import ROUTES
from meshapi.resources.gateway_routes import GRPCRoute, HTTPRoute, TCPRoute, TLSRoute, UDPRoute
from meshkit.kube import Key

_NOT_FOUND: Final = 404
_OF_REQUESTS: Final = ("HTTPRoute", "GRPCRoute")
_OF_CONNECTIONS: Final = ("TCPRoute", "TLSRoute", "UDPRoute")
MODELS: Final[dict[str, type[HTTPRoute | GRPCRoute | TCPRoute | TLSRoute | UDPRoute]]] = {
    "HTTPRoute": HTTPRoute,
    "GRPCRoute": GRPCRoute,
    "TCPRoute": TCPRoute,
    "TLSRoute": TLSRoute,
    "UDPRoute": UDPRoute,
}
"""Kinds of routes."""
_Parent = tuple[str, Key]
"""Kind and key."""


class GatewayRoutes:
    """The routes of one mesh.

    Args:
        graph: the scheduler.
        inputs: where the objects are.
        service: returns what an object of a kind and key is as a service.
        host: returns the service of a ServiceEntry's host, as objects of a namespace see it.
        gateways: those at the edge.

    Attributes:
        by_kind: what each route says, by kind and key.
        at_edge: routes for requests at gateways, by kind and by where their hosts are.
    """

    def __init__(
        self,
        graph: Graph,
        inputs: Inputs,
        service: Callable[[str, Key, Fetch], Service | None],
        host: Callable[[str, str, Fetch], Service | None],
        gateways: Gateways,
    ) -> None:
        self._service = service
        self._host = host
        self._gateways = gateways
        self.by_kind: dict[str, Collection[Key, RouteRules]] = {
            kind: Derived(graph, f"{kind}s", inputs.of(model), ROUTES, self._translation(kind))
            for kind, model in MODELS.items()
        }
        self._of_parents: dict[str, Index[_Parent, Key, RouteRules]] = {
            kind: Index(routes, _parents_of) for kind, routes in self.by_kind.items()
        }
        self.at_edge: dict[str, Index[EdgeHost, Key, RouteRules]] = {
            kind: Index(self.by_kind[kind], _hosts_of) for kind in _OF_REQUESTS
        }
        self._connections: list[Index[tuple[Key, str], Key, RouteRules]] = [
            Index(self.by_kind[kind], _listeners_served) for kind in _OF_CONNECTIONS
        ]
        self._of_listeners: list[Index[tuple[Key, ListenerId], Key, RouteRules]] = [
            Index(routes, _listeners_of) for routes in self.by_kind.values()
        ]

    def http_rules(self, service: Service, port: Port, fetch: Fetch) -> tuple[HttpRule, ...]:
        """Return the rules for requests to a service's port, in order; none: no route is attached.

        Those for the clients of single namespaces go first, and to these clients no others apply.
        """
        found: list[HttpRule] = []
        for client, routes in self._attached(_OF_REQUESTS, service, port, fetch):
            rules = precedence.ordered(routes)
            if not client:
                return (*found, *rules)
            found += [replace(rule, match=replace(rule.match, source_namespace=client)) for rule in rules]
            found.append(HttpRule(Origin("", ("", "")), RequestMatch(source_namespace=client), Respond(_NOT_FOUND)))
        return tuple(found)

    def connection_rules(self, service: Service, port: Port, fetch: Fetch) -> tuple[ConnectionRule, ...]:
        """Return the rules for connections to a service's port, in order as ``http_rules`` does."""
        found: list[ConnectionRule] = []
        for client, routes in self._attached(_OF_CONNECTIONS, service, port, fetch):
            found += [replace(rule, source_namespace=client) for rule in connection_routes.ordered(routes)]
        return tuple(found)

    def rules_at(self, host: EdgeHost, fetch: Fetch) -> tuple[HttpRule, ...]:
        """Return the rules for requests at a host of a gateway, in order."""
        return precedence.ordered(one for index in self.at_edge.values() for one in fetch.members(index, host))

    def connections_at(self, gateway: Key, listener: EdgeListener, fetch: Fetch) -> dict[str, ConnectionRule]:
        """Return the rules for connections to a listener of a gateway, by host name; empty: all hosts."""
        place = (gateway, listener.routes_name)
        found = (one for index in self._connections for one in fetch.members(index, place))
        return connection_routes.at_edge(found, listener, gateway)

    def attached(self, gateway: Key, listener: ListenerId, fetch: Fetch) -> int:
        """Return how many routes are attached to a listener of a gateway."""
        return sum(len(fetch.members(index, (gateway, listener))) for index in self._of_listeners)

    def rival(self, route: RouteRules, at: Attachment, fetch: Fetch) -> Key | None:
        """Return the older TCPRoute that takes all connections of a parent from a route; ``None``: there is none."""
        if route.kind != "TCPRoute":
            return None
        parent = (at.kind, at.service)
        older = (
            other
            for other in fetch.members(self._of_parents["TCPRoute"], parent)
            if (other.created, other.key) < (route.created, route.key)
        )
        return next((other.key for other in older if any(map(at.is_covered_by, other.attachments))), None)

    def _attached(
        self, kinds: Iterable[str], service: Service, port: Port, fetch: Fetch
    ) -> list[tuple[str, list[RouteRules]]]:
        """Return the routes that are attached to a port by the namespace whose clients they are for.

        Those for all clients (an empty name) come last.
        """
        parent = (service.kind, service.key)
        by_client: dict[str, list[RouteRules]] = {}
        for kind in kinds:
            for route in fetch.members(self._of_parents[kind], parent):
                for one in route.attachments:
                    if (one.kind, one.service) == parent and one.accepted.is_true and one.port in {0, port.number}:
                        by_client.setdefault(one.client_namespace, []).append(route)
        return sorted(by_client.items(), key=lambda item: (not item[0], item[0]))

    def _translation(self, kind: str) -> Callable[[Any, Fetch], RouteRules]:
        translate: Callable[[str, Any, References], RouteRules] = (
            gateway_routes.translate if kind in _OF_REQUESTS else connection_routes.translate
        )

        def transform(item: Any, fetch: Fetch) -> RouteRules:
            def is_granted(of_kind: str, namespace: str, key: Key) -> bool:
                return self._gateways.grants.allow(Referrer(of_kind, namespace), "Service", key, fetch)

            references = References(
                lambda parent_kind, key: self._service(parent_kind, key, fetch),
                lambda name: self._host(item.metadata.namespace, name, fetch),
                is_granted,
                EdgeLookups(
                    lambda parent_kind, key: self._gateways.of_parent(parent_kind, key, fetch),
                    lambda namespace: self._gateways.labels_of(namespace, fetch),
                ),
            )
            return translate(kind, item, references)

        return transform


def _parents_of(route: RouteRules) -> Iterable[_Parent]:
    return {(one.kind, one.service) for one in route.attachments if one.accepted.is_true}


def _hosts_of(route: RouteRules) -> Iterable[EdgeHost]:
    return {host for one in route.edges for host in one.hosts}


def _listeners_of(route: RouteRules) -> Iterable[tuple[Key, ListenerId]]:
    return {(one.gateway, listener) for one in route.edges for listener in one.listeners}


def _listeners_served(route: RouteRules) -> Iterable[tuple[Key, str]]:
    return {(host.gateway, host.routes) for one in route.edges for host in one.hosts}
