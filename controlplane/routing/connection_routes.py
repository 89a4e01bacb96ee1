"""From TCPRoutes, TLSRoutes and UDPRoutes to rules for connections. Pure. Source: Gateway API v1.

A backend that cannot be resolved takes its share of the connections, which are closed.
"""

from collections.abc import Iterable

from controlplane.gateways.listener import EdgeListener
from controlplane.inputs.verdicts import Verdict
from controlplane.routing.ir import ConnectionRule, Origin, Share
from controlplane.routing.route_references import ACCEPTED, References, Resolution, RouteRules
from controlplane.routing.services import Port
from meshapi.resources.gateway_routes import BackendReference, TCPRoute, TLSRoute, UDPRoute
from meshkit.kube import Key

Route = TCPRoute | TLSRoute | UDPRoute


def translate(kind: str, route: Route, references: References) -> RouteRules:
    """Return the rules of a route and its conditions."""
    resolution = Resolution(kind, route.metadata.namespace, route.spec.parent_refs, references)
    hostnames = route.spec.hostnames if isinstance(route, TLSRoute) else ()
    rules = tuple(
        ConnectionRule(
            Origin(kind, route.key, f"spec.rules[{index}]"),
            _shares(resolution, rule.backend_refs),
            server_names=tuple(one.lower() for one in hostnames),
        )
        for index, rule in enumerate(route.spec.rules)
    )
    is_cut = isinstance(route, TCPRoute | UDPRoute) and len(rules) > 1  # the API's version v1alpha2 lets it
    accepted = (
        Verdict(True, ACCEPTED.reason, "only spec.rules[0] has an effect; merge the rules") if is_cut else ACCEPTED
    )
    in_mesh = () if isinstance(route, UDPRoute) else resolution.attachments(accepted, _carries_connections)
    attachments = tuple(in_mesh)
    created = route.metadata.creation_timestamp
    edges = resolution.edges(accepted, hostnames)
    return RouteRules(
        kind, route.key, created, attachments, resolved=resolution.resolved, connections=rules, edges=edges
    )


def ordered(routes: Iterable[RouteRules]) -> tuple[ConnectionRule, ...]:
    """Return the rules of routes for one port: those for names of TLS first, then one for all other connections.

    Of equal ones the oldest route's counts. What no rule is for is refused, as the API demands where a route is
    attached.
    """
    by_age = sorted(routes, key=lambda route: (route.created, route.key))
    rules = [rule for route in by_age for rule in route.connections]
    found = [rule for rule in rules if rule.server_names]
    rest = next((rule for rule in rules if not rule.server_names), REFUSAL)
    return (*found, rest)


def at_edge(routes: Iterable[RouteRules], listener: EdgeListener, gateway: Key) -> dict[str, ConnectionRule]:
    """Return the rules for connections to a listener of a gateway by host name; empty: all hosts.

    For each host the oldest route counts, and of it the first rule. What no route is for is refused.
    """
    found: dict[str, ConnectionRule] = {}
    for route in sorted(routes, key=lambda one: (one.created, one.key)):
        places = (host for one in route.edges for host in one.hosts)
        for place in places:
            if (place.gateway, place.routes) == (gateway, listener.routes_name) and route.connections:
                found.setdefault(place.hostname, route.connections[0])
    found.setdefault(listener.hostname, REFUSAL)
    return found


REFUSAL = ConnectionRule(Origin("", ("", "")), (Share(None),))
"""Leads nowhere."""


def _shares(resolution: Resolution, backends: Iterable[BackendReference]) -> tuple[Share, ...]:
    found = [Share(resolution.target(one), one.weight) for one in backends]
    return tuple(share for share in found if share.weight) or (Share(None),)


def _carries_connections(port: Port) -> bool:
    return port.protocol.is_tcp
