"""Virtual hosts of gateways, and the routes that consist of them.

Where a host belongs to no route it is answered with 404; a request that has come over a connection for another
listener's hosts with 421, so that the client opens another one (RFC 9110, 15.5.20).
"""

from collections.abc import Iterable, Sequence
from typing import Final

from envoy.config.route.v3 import route_components_pb2, route_pb2

from controlplane.envoy import routes, virtual_hosts
from controlplane.envoy.packing import flag
from controlplane.gateways.listener import EdgeGateway, EdgeListener, Spoken
from controlplane.routing.edge import EdgeHost
from controlplane.routing.ir import HttpRule

_MISDIRECTED: Final = 421
_NOT_FOUND: Final = 404
VirtualHost: Final = route_components_pb2.VirtualHost


def of_rules(
    place: EdgeHost, rules: Sequence[HttpRule], upstreams: routes.Upstreams, *, needs_tls: bool = False
) -> route_components_pb2.VirtualHost:
    """Return the virtual host of a host, or pattern of hosts; what no rule is for is not found.

    Args:
        place: where it is.
        rules: in order.
        upstreams: returns the cluster of a target.
        needs_tls: whether plain requests are redirected to HTTPS.
    """
    found = [routes.of_rule(rule, place.port, upstreams) for rule in virtual_hosts.reachable(rules)]
    domain = place.hostname or "*"
    return VirtualHost(
        name=f"{domain}:{place.port}",
        domains=[domain],
        routes=found,
        include_request_attempt_count=True,
        require_tls=VirtualHost.ALL if needs_tls else VirtualHost.NONE,
    )


def routes_names(gateway: EdgeGateway) -> list[str]:
    """Return the names of a gateway's routes."""
    return list(dict.fromkeys(one.routes_name for one in gateway.served if one.spoken and one.spoken.is_http))


def configuration(gateway: EdgeGateway, name: str, bodies: dict[str, bytes]) -> route_pb2.RouteConfiguration:
    """Return routes.

    Args:
        gateway: the gateway.
        name: of the routes.
        bodies: serialized virtual hosts by host name (empty: all hosts).
    """
    result = route_pb2.RouteConfiguration(name=name, validate_clusters=flag(False), ignore_port_in_host_matching=True)
    for hostname in sorted(bodies):
        result.virtual_hosts.append(VirtualHost.FromString(bodies[hostname]))
    redirected = {one.hostname for one in gateway.served if one.redirects and one.routes_name == name}
    for hostname, status in _others(gateway, name, set(bodies)):
        domain = hostname or "*"
        if hostname in redirected:
            result.virtual_hosts.add(name=f"{domain}:redirect", domains=[domain], require_tls=VirtualHost.ALL)
            continue
        host = result.virtual_hosts.add(name=f"{domain}:{status}", domains=[domain])
        route = host.routes.add(match=route_components_pb2.RouteMatch(prefix="/"))
        route.direct_response.status = status
    return result


def _others(gateway: EdgeGateway, name: str, taken: set[str]) -> Iterable[tuple[str, int]]:
    """Yield the hosts of listeners that no route is for here, each with the status of its answers."""
    own = [one for one in gateway.served if _is_http(one) and one.routes_name == name]
    port = own[0].port if own else 0
    has_tls = bool(own) and own[0].spoken is Spoken.HTTPS
    for one in own:
        if one.hostname not in taken and (one.hostname or has_tls or one.redirects):
            taken.add(one.hostname)
            yield one.hostname, _NOT_FOUND
    for one in gateway.served if has_tls else ():
        is_rival = not one.routes and one.port == port and one.spoken is not None and one.spoken.has_tls
        if is_rival and one.hostname not in taken:
            taken.add(one.hostname)
            yield one.hostname, _MISDIRECTED


def _is_http(one: EdgeListener) -> bool:
    return one.spoken is not None and one.spoken.is_http
