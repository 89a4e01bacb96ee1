"""The routes of a service's port. Facts: Istio's ``listener_waypoint.go``.

What stands behind a rule for every request can never match and is left out. Where rules are only for the clients of
some namespaces, the others reach the service as if there were none.
"""

from collections.abc import Iterable, Sequence

from envoy.config.route.v3 import route_components_pb2, route_pb2

from controlplane.envoy import routes
from controlplane.envoy.packing import flag
from controlplane.routing.ir import HttpRule
from controlplane.routing.services import Port


def of_port(
    name: str, port: Port, rules: Sequence[HttpRule], own: routes.Upstream, upstreams: routes.Upstreams
) -> route_pb2.RouteConfiguration:
    """Return the routes of a port.

    Args:
        name: of the configuration.
        port: the port of the service that clients have called.
        rules: for the port, in order.
        own: the service's own cluster, for requests that no rule is about.
        upstreams: returns the cluster of a target.
    """
    found = [routes.of_rule(rule, port.number, upstreams) for rule in reachable(rules)]
    if all(rule.match.source_namespace for rule in rules):
        found.append(routes.default(own))
    return _of_routes(name, f"inbound|http|{port.number}", found)


def of_workloads(name: str, header: str) -> route_pb2.RouteConfiguration:
    """Return the routes of requests to workloads: routing objects are about services, so there are no others.

    Args:
        name: of the configuration.
        header: that names the cluster; the workload does not get it.
    """
    route = routes.default(routes.Upstream(""))
    route.route.cluster_header = header
    route.request_headers_to_remove.append(header)
    return _of_routes(name, "inbound|http|0", [route])


def _of_routes(name: str, host_name: str, found: Iterable[route_components_pb2.Route]) -> route_pb2.RouteConfiguration:
    host = route_components_pb2.VirtualHost(
        name=host_name, domains=["*"], routes=found, include_request_attempt_count=True
    )
    return route_pb2.RouteConfiguration(name=name, virtual_hosts=[host], validate_clusters=flag(False))


def reachable(rules: Iterable[HttpRule]) -> Iterable[HttpRule]:
    """Yield the rules that requests can come to: none is behind one for every request."""
    for rule in rules:
        yield rule
        if rule.match.is_catch_all:
            return
