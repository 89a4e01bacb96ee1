"""The routes of a service's port: what all objects for the service say, in order.

Facts: Istio's ``listener_waypoint.go``: the rules of all VirtualServices for a host are concatenated, oldest first;
what stands behind a rule for every request can never match and is left out.
"""

from collections.abc import Iterable

from envoy.config.route.v3 import route_components_pb2, route_pb2

from controlplane.envoy import routes
from controlplane.envoy.packing import flag
from controlplane.routing.ir import HttpRule, Routing
from controlplane.routing.services import Port


def of_port(
    name: str, port: Port, routings: Iterable[Routing], own: routes.Upstream, upstreams: routes.Upstreams
) -> route_pb2.RouteConfiguration:
    """Return the routes of a port.

    Args:
        name: of the configuration.
        port: the port of the service that clients have called.
        routings: what objects say, in order.
        own: the service's own cluster, for requests to which no rule applies because there is none.
        upstreams: returns the cluster of a target.
    """
    found = [routes.of_rule(rule, port.number, upstreams) for rule in rules(routings, port)]
    host = route_components_pb2.VirtualHost(
        name=f"inbound|http|{port.number}",
        domains=["*"],
        routes=found or [routes.default(own.cluster, own.hash_policies)],
        include_request_attempt_count=True,
    )
    return route_pb2.RouteConfiguration(name=name, virtual_hosts=[host], validate_clusters=flag(False))


def rules(routings: Iterable[Routing], port: Port) -> Iterable[HttpRule]:
    """Return the rules for a port, up to the first one for every request."""
    for routing in routings:
        for rule in routing.http:
            if rule.port in {0, port.number}:
                yield rule
                if rule.match.is_catch_all:
                    return
