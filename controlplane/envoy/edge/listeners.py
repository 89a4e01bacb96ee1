"""Listeners of gateways: one for each port. Facts: Istio's ``pilot/pkg/networking/core/gateway.go``."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from envoy.config.core.v3 import address_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2

from controlplane.envoy import filter_chains, routes, transport
from controlplane.envoy.edge import datagrams
from controlplane.envoy.filter_chains import Filters
from controlplane.envoy.http_connections import Edge
from controlplane.envoy.packing import packed
from controlplane.envoy.telemetry.reporting import Reports
from controlplane.gateways.listener import EdgeGateway, EdgeListener, Spoken
from controlplane.routing.ir import ConnectionRule

_TLS_INSPECTOR: Final = "envoy.filters.listener.tls_inspector"


@dataclass(frozen=True, slots=True)
class Making:
    """What the chains of one gateway are made of.

    Attributes:
        gateway: the gateway.
        filters: of policies.
        reports: what is reported of the traffic.
        rules: returns the rules for connections to a listener, by host name.
        upstreams: returns the cluster of a target, for connections to a port.
    """

    gateway: EdgeGateway
    filters: Filters
    reports: Reports
    rules: Callable[[EdgeListener], Mapping[str, ConnectionRule]]
    upstreams: Callable[[int], routes.Upstreams]

    def listeners(self) -> Iterable[listener_pb2.Listener]:
        """Yield the listeners, one for each port."""
        by_port: dict[int, list[EdgeListener]] = {}
        for one in self.gateway.served:
            if one.spoken is not Spoken.UDP:
                by_port.setdefault(one.port, []).append(one)
        for port, found in sorted(by_port.items()):
            yield self._of_port(port, found)
        yield from (datagrams.listener(one) for one in self.gateway.served if one.spoken is Spoken.UDP)

    def _of_port(self, port: int, found: Sequence[EdgeListener]) -> listener_pb2.Listener:
        socket = address_pb2.SocketAddress(address="::", port_value=port, ipv4_compat=True)
        result = listener_pb2.Listener(
            name=f"0.0.0.0_{port}",
            address=address_pb2.Address(socket_address=socket),
            filter_chains=self._chains(found),
        )
        if any(one.spoken is not None and one.spoken.has_tls for one in found):
            result.listener_filters.add(name=_TLS_INSPECTOR, typed_config=packed(tls_inspector_pb2.TlsInspector()))
        return result

    def _chains(self, found: Iterable[EdgeListener]) -> Iterable[listener_components_pb2.FilterChain]:
        names = set()
        for one in found:
            # Plain listeners of a port share one chain: the host of a request tells them apart.
            if one.routes_name in names or one.spoken is None:
                continue
            names.add(one.routes_name)
            if one.spoken.is_http:
                yield self._of_requests(one)
            else:
                yield from self._of_connections(one)

    def _of_requests(self, one: EdgeListener) -> listener_components_pb2.FilterChain:
        proves_clients = one.clients is not None and not one.clients.is_optional
        operation = f"{self.gateway.workload}.{self.gateway.key[0]}:{one.port}/*"
        edge = Edge(proves_clients=proves_clients)
        chain = filter_chains.of_requests(one.routes_name, self.filters, self.reports, operation, edge=edge)
        self._set_tls(chain, one, one.hostname)
        return chain

    def _of_connections(self, one: EdgeListener) -> Iterable[listener_components_pb2.FilterChain]:
        """Yield a chain for each host that has a rule; the name is the listener's, and the host's where they differ."""
        for hostname, rule in sorted(self.rules(one).items()):
            name = one.routes_name if hostname == one.hostname else f"{one.routes_name}|{hostname}"
            proxy = filter_chains.proxy_of(name, rule, self.upstreams(one.port))
            chain = filter_chains.of_connections(proxy, self.filters, self.reports)
            self._set_tls(chain, one, hostname)
            yield chain

    def _set_tls(self, chain: listener_components_pb2.FilterChain, one: EdgeListener, hostname: str) -> None:
        if one.spoken is None or not one.spoken.has_tls:
            return
        if hostname:
            chain.filter_chain_match.server_names.append(hostname)
        if one.spoken.ends_tls:
            chain.transport_socket.CopyFrom(transport.edge_server(self.gateway.key, one))
        elif not hostname:
            chain.filter_chain_match.transport_protocol = "tls"
