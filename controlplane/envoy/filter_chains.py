"""The filter chains of a service's port: chosen by the address and the port that clients have called."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from envoy.config.listener.v3 import listener_components_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2

from controlplane.envoy import http_connections, names, routes
from controlplane.envoy.packing import number, packed
from controlplane.envoy.telemetry.reporting import Reports
from controlplane.routing.ir import ConnectionRule, Target
from controlplane.routing.services import Port, Protocol, Service

Chain: Final = listener_components_pb2.FilterChain
HTTP_MANAGER: Final = "envoy.filters.network.http_connection_manager"
TCP_PROXY: Final = "envoy.filters.network.tcp_proxy"
HTTP_WORDS: Final = ("http/1.0", "http/1.1", "h2c")
"""What the inspector reports for HTTP."""


@dataclass(frozen=True, slots=True)
class Filters:
    """The filters of the policies for a service.

    Attributes:
        http: for requests.
        network: for connections that carry none.
    """

    http: tuple[http_connection_manager_pb2.HttpFilter, ...] = ()
    network: tuple[listener_components_pb2.Filter, ...] = ()


def of_port(
    service: Service,
    port: Port,
    rule: ConnectionRule | None,
    upstreams: routes.Upstreams,
    *,
    filters: Filters,
    reports: Reports,
) -> Iterable[listener_components_pb2.FilterChain]:
    """Yield the chains of a port: for requests, for other connections, or for both, told apart by the first bytes.

    Args:
        service: the service.
        port: one of its ports.
        rule: where connections go that are no requests; ``None``: to the service.
        upstreams: returns the cluster of a target.
        filters: of policies.
        reports: what is reported of the traffic.
    """
    if not service.addresses:
        return
    if port.protocol.is_http:
        chain = _chain(names.inbound_vip(service.host, port.number, is_http=True), service, port)
        if port.protocol is Protocol.UNKNOWN:
            chain.filter_chain_match.application_protocols.extend(HTTP_WORDS)
        manager = http_connections.of_service(chain.name, filters.http, reports.requests)
        if reports.spans is not None:
            reports.spans.apply(manager, f"{service.host}:{port.number}/*")
        chain.filters.add(name=HTTP_MANAGER, typed_config=packed(manager))
        yield chain
    if port.protocol.is_tcp:
        chain = _chain(names.inbound_vip(service.host, port.number, is_http=False), service, port)
        chain.filters.extend(filters.network)
        proxy = _proxy(chain.name, service, port, rule, upstreams)
        proxy.access_log.extend(reports.connections)
        proxy.access_log_options.flush_access_log_on_connected = True
        chain.filters.add(name=TCP_PROXY, typed_config=packed(proxy))
        yield chain


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


def _chain(name: str, service: Service, port: Port) -> listener_components_pb2.FilterChain:
    chain = Chain(name=name)
    chain.filter_chain_match.destination_port.CopyFrom(number(port.number))
    for address in service.addresses:
        network = ipaddress.ip_network(address, strict=False)
        prefix = str(network.network_address)
        chain.filter_chain_match.prefix_ranges.add(address_prefix=prefix, prefix_len=number(network.prefixlen))
    return chain
