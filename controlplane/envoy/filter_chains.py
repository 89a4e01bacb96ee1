"""The filter chains of a service's port."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from envoy.config.core.v3 import extension_pb2
from envoy.config.listener.v3 import listener_components_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2

from controlplane.envoy import http_connections, names, routes
from controlplane.envoy.packing import packed
from controlplane.envoy.telemetry.reporting import Reports
from controlplane.routing.ir import ConnectionRule, Target
from controlplane.routing.services import Port, Service

Chain: Final = listener_components_pb2.FilterChain
HTTP_MANAGER: Final = "envoy.filters.network.http_connection_manager"
TCP_PROXY: Final = "envoy.filters.network.tcp_proxy"


@dataclass(frozen=True, slots=True)
class Filters:
    """The filters of the policies for a service.

    Attributes:
        http: for requests.
        network: for connections that carry none.
    """

    http: tuple[http_connection_manager_pb2.HttpFilter, ...] = ()
    network: tuple[listener_components_pb2.Filter, ...] = ()


@dataclass(frozen=True, slots=True)
class Opening:
    """The chains of one port, and where clients call it.

    Attributes:
        addresses: virtual ones, or networks of them.
        port: that clients call.
        http: for requests; ``None``: there are none.
        tcp: for other connections; ``None``: there are none. Where both are set, the first bytes tell.
    """

    addresses: tuple[str, ...]
    port: int
    http: listener_components_pb2.FilterChain | None = None
    tcp: listener_components_pb2.FilterChain | None = None


def of_port(
    service: Service,
    port: Port,
    rule: ConnectionRule | None,
    upstreams: routes.Upstreams,
    *,
    filters: Filters,
    reports: Reports,
) -> Opening:
    """Return the chains of a port: for requests, for other connections, or for both.

    Args:
        service: the service.
        port: one of its ports.
        rule: where connections go that are no requests; ``None``: to the service.
        upstreams: returns the cluster of a target.
        filters: of policies.
        reports: what is reported of the traffic.
    """
    http = tcp = None
    if port.protocol.is_http:
        name = names.inbound_vip(service.host, port.number, is_http=True)
        http = of_requests(name, filters, reports, f"{service.host}:{port.number}/*")
    if port.protocol.is_tcp:
        name = names.inbound_vip(service.host, port.number, is_http=False)
        tcp = of_connections(_proxy(name, service, port, rule, upstreams), filters, reports)
    return Opening(service.addresses, port.number, http, tcp)


def of_requests(
    name: str,
    filters: Filters,
    reports: Reports,
    operation: str,
    *,
    first: Iterable[listener_components_pb2.Filter] = (),
    early: Iterable[extension_pb2.TypedExtensionConfig] = (),
) -> listener_components_pb2.FilterChain:
    """Return a chain for requests.

    Args:
        name: of the chain, and of its routes.
        filters: of policies.
        reports: what is reported of the requests.
        operation: name of their spans.
        first: filters in front of the connection manager.
        early: changes of a request before its route is chosen.
    """
    chain = Chain(name=name, filters=first)
    manager = http_connections.of_service(name, filters.http, reports.requests, early)
    if reports.spans is not None:
        reports.spans.apply(manager, operation)
    chain.filters.add(name=HTTP_MANAGER, typed_config=packed(manager))
    return chain


def of_connections(
    proxy: tcp_proxy_pb2.TcpProxy,
    filters: Filters,
    reports: Reports,
    *,
    first: Iterable[listener_components_pb2.Filter] = (),
) -> listener_components_pb2.FilterChain:
    """Return a chain for connections that carry no requests, named after its proxy's statistics.

    Args:
        proxy: says where they go.
        filters: of policies.
        reports: what is reported of the connections.
        first: filters in front of those of policies.
    """
    chain = Chain(name=proxy.stat_prefix, filters=[*first, *filters.network])
    proxy.access_log.extend(reports.connections)
    proxy.access_log_options.flush_access_log_on_connected = True
    chain.filters.add(name=TCP_PROXY, typed_config=packed(proxy))
    return chain


def _proxy(
    name: str, service: Service, port: Port, rule: ConnectionRule | None, upstreams: routes.Upstreams
) -> tcp_proxy_pb2.TcpProxy:
    result = tcp_proxy_pb2.TcpProxy(stat_prefix=name)
    shares = () if rule is None else rule.shares
    if len(shares) > 1:
        for share in shares:
            if share.target is not None:
                result.weighted_clusters.clusters.add(name=upstreams(share.target).cluster, weight=share.weight)
        return result
    target = shares[0].target if shares else Target(service.host, port.number)
    result.cluster = names.BLACK_HOLE if target is None else upstreams(target).cluster
    return result
