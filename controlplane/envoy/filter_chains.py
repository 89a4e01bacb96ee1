"""The filter chains of a service's port."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from envoy.config.core.v3 import extension_pb2
from envoy.config.listener.v3 import listener_components_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2

from controlplane.envoy import by_name, http_connections, names, routes
from controlplane.envoy.http_connections import Edge
from controlplane.envoy.packing import packed
from controlplane.envoy.telemetry.reporting import Reports
from controlplane.routing.ir import ConnectionRule, Origin, Share, Target
from controlplane.routing.services import Discovery, Port, Service
from meshapi import hosts

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
class Named:
    """The chain of some of the connections that carry no requests.

    Attributes:
        client: namespace of the clients; empty: all.
        server_names: that TLS clients send, with ``*.`` for any labels; none: all connections.
        chain: the chain.
    """

    client: str
    server_names: tuple[str, ...]
    chain: listener_components_pb2.FilterChain


@dataclass(frozen=True, slots=True)
class Opening:
    """The chains of one port, and where clients call it.

    Attributes:
        addresses: virtual ones, or networks of them.
        port: that clients call.
        http: for requests; ``None``: there are none.
        tcp: for other connections; ``None``: there are none. Where both are set, the first bytes tell.
        named: for some of the other connections; the first one that fits goes before ``tcp``.
    """

    addresses: tuple[str, ...]
    port: int
    http: listener_components_pb2.FilterChain | None = None
    tcp: listener_components_pb2.FilterChain | None = None
    named: tuple[Named, ...] = ()

    @property
    def chains(self) -> Iterable[listener_components_pb2.FilterChain]:
        """All of its chains."""
        yield from (one for one in (self.http, self.tcp) if one is not None)
        yield from (one.chain for one in self.named)


def of_port(
    service: Service,
    port: Port,
    rules: Iterable[ConnectionRule],
    upstreams: routes.Upstreams,
    *,
    filters: Filters,
    reports: Reports,
) -> Opening:
    """Return the chains of a port: for requests, for other connections, or for both.

    Args:
        service: the service.
        port: one of its ports.
        rules: where connections go that are no requests; what none is for goes to the service.
        upstreams: returns the cluster of a target.
        filters: of policies.
        reports: what is reported of the traffic.
    """
    http = tcp = None
    named: list[Named] = []
    if port.protocol.is_http:
        name = names.inbound_vip(service.host, port.number, is_http=True)
        http = _of_requests(name, service, port, filters, reports)
    if port.protocol.is_tcp:
        rest = _to_itself(service, port)
        for rule in tuple(rules) or _by_name(service, port):
            if not (rule.server_names or rule.source_namespace):
                rest = rule
                break
            name = names.inbound_vip(service.host, port.number, is_http=False, subset=_label(rule))
            first = by_name.of_connections(service, port) if _resolves(service, rule) else ()
            chain = of_connections(proxy_of(name, rule, upstreams), filters, reports, first=first)
            named.append(Named(rule.source_namespace, rule.server_names, chain))
        name = names.inbound_vip(service.host, port.number, is_http=False)
        tcp = of_connections(proxy_of(name, rest, upstreams), filters, reports)
    return Opening(service.addresses, port.number, http, tcp, tuple(named))


def _of_requests(
    name: str, service: Service, port: Port, filters: Filters, reports: Reports
) -> listener_components_pb2.FilterChain:
    operation = f"{service.host}:{port.number}/*"
    if service.discovery is not Discovery.NAMED:
        return of_requests(name, filters, reports, operation)
    resolving = replace(filters, http=(*filters.http, *by_name.of_requests(service, port)))
    return of_requests(name, resolving, reports, operation)


def _to_itself(service: Service, port: Port) -> ConnectionRule:
    """Return the rule of a service without rules."""
    return ConnectionRule(Origin("", ("", "")), (Share(Target(service.host, port.number)),))


def _by_name(service: Service, port: Port) -> tuple[ConnectionRule, ...]:
    """Return the rules of a service without rules that goes by the names that clients send: there are no others."""
    if service.discovery is not Discovery.NAMED:
        return ()
    origin = Origin(service.kind, service.key)
    named = replace(_to_itself(service, port), origin=origin, server_names=(service.host,))
    return (named, ConnectionRule(Origin("", ("", "")), (Share(None),)))


def _resolves(service: Service, rule: ConnectionRule) -> bool:
    """Return whether connections of a rule may go to the name that their client sends: all are the service's."""
    return (
        service.discovery is Discovery.NAMED
        and bool(rule.server_names)
        and all(one == service.host or hosts.matches(service.host, one) for one in rule.server_names)
    )


def _label(rule: ConnectionRule) -> str:
    """Return what tells the chain of a rule from the others of its port."""
    position = rule.origin.rule.rpartition("[")[2].removesuffix("]")
    return ".".join(filter(None, (rule.source_namespace, rule.origin.kind, *rule.origin.key, position)))


def of_requests(
    name: str,
    filters: Filters,
    reports: Reports,
    operation: str,
    *,
    first: Iterable[listener_components_pb2.Filter] = (),
    early: Iterable[extension_pb2.TypedExtensionConfig] = (),
    edge: Edge | None = None,
) -> listener_components_pb2.FilterChain:
    """Return a chain for requests.

    Args:
        name: of the chain, and of its routes.
        filters: of policies.
        reports: what is reported of the requests.
        operation: name of their spans.
        first: filters in front of the connection manager.
        early: changes of a request before its route is chosen.
        edge: set where clients are outside of the mesh.
    """
    chain = Chain(name=name, filters=first)
    manager = http_connections.of_requests(name, filters.http, reports.requests, early=early, edge=edge)
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


def proxy_of(name: str, rule: ConnectionRule, upstreams: routes.Upstreams) -> tcp_proxy_pb2.TcpProxy:
    """Return the filter that sends connections where a rule says; ``name``: of its statistics."""
    result = tcp_proxy_pb2.TcpProxy(stat_prefix=name)
    clusters = [
        (names.BLACK_HOLE if share.target is None else upstreams(share.target).cluster, share.weight)
        for share in rule.shares
    ]
    if len(clusters) == 1:
        result.cluster = clusters[0][0]
    for cluster, weight in clusters if len(clusters) > 1 else ():
        result.weighted_clusters.clusters.add(name=cluster, weight=weight)
    return result
