"""Listeners of gateways: one for each port. Facts: Istio's ``pilot/pkg/networking/core/gateway.go``."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from envoy.config.core.v3 import address_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.extensions.filters.listener.proxy_protocol.v3 import proxy_protocol_pb2
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2

from controlplane.envoy import filter_chains, peer, routes, transport
from controlplane.envoy.edge import datagrams
from controlplane.envoy.filter_chains import Filters
from controlplane.envoy.http_connections import Edge
from controlplane.envoy.packing import packed
from controlplane.envoy.telemetry.reporting import Reports
from controlplane.gateways.listener import Demand, EdgeGateway, EdgeListener, Spoken
from controlplane.routing.ir import ConnectionRule
from meshapi.mesh_config.model import GatewayTopology

_OF_MESH_TLS: Final = ("istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2")
"""What the mesh's proxies offer as protocols (ALPN) in TLS with each other; other clients' TLS is not passed on."""
_PROXY_PROTOCOL: Final = "envoy.filters.listener.proxy_protocol"
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
        topology: what is in front of the gateway.
    """

    gateway: EdgeGateway
    filters: Filters
    reports: Reports
    rules: Callable[[EdgeListener], Mapping[str, ConnectionRule]]
    upstreams: Callable[[int], routes.Upstreams]
    topology: GatewayTopology

    def listeners(self) -> Iterable[listener_pb2.Listener]:
        """Yield the listeners, one for each port."""
        by_socket: dict[tuple[int, str], list[EdgeListener]] = {}
        for one in self.gateway.served:
            if one.spoken is not Spoken.UDP:
                by_socket.setdefault(one.socket, []).append(one)
        for (port, bind), found in sorted(by_socket.items()):
            yield self._of_socket(port, bind, found)
        yield from (datagrams.listener(one) for one in self.gateway.served if one.spoken is Spoken.UDP)

    def _of_socket(self, port: int, bind: str, found: Sequence[EdgeListener]) -> listener_pb2.Listener:
        socket = address_pb2.SocketAddress(address=bind or "::", port_value=port, ipv4_compat=bind in {"", "::"})
        result = listener_pb2.Listener(
            name=f"{bind or '0.0.0.0'}_{port}",  # noqa: S104  (the name that Istio's tools know)
            address=address_pb2.Address(socket_address=socket),
            filter_chains=self._chains(found),
        )
        if self.topology.proxy_protocol is not None:  # its header is in front of everything else
            result.listener_filters.add(name=_PROXY_PROTOCOL, typed_config=packed(proxy_protocol_pb2.ProxyProtocol()))
        if any(one.spoken is not None and one.spoken.has_tls for one in found):
            result.listener_filters.add(name=_TLS_INSPECTOR, typed_config=packed(tls_inspector_pb2.TlsInspector()))
        return result

    def _chains(self, found: Iterable[EdgeListener]) -> Iterable[listener_components_pb2.FilterChain]:
        by_routes: dict[str, list[EdgeListener]] = {}
        for one in found:
            by_routes.setdefault(one.routes_name, []).append(one)
        named: set[str] = set()
        for together in by_routes.values():
            # Plain listeners of a port share one chain: the host of a request tells them apart. So do the hosts of
            # one server of Istio's Gateway.
            if together[0].spoken is not None and together[0].spoken.is_http:
                yield self._of_requests(together)
            else:
                yield from self._of_connections(together, named)

    def _of_requests(self, together: Sequence[EdgeListener]) -> listener_components_pb2.FilterChain:
        one = together[0]
        proves_clients = one.clients is not None and one.clients.demand is not Demand.ANYTHING
        operation = f"{self.gateway.workload}.{self.gateway.key[0]}:{one.port}/*"
        edge = Edge(self.topology, proves_clients)
        # Only certificates of the mesh prove an identity of the mesh; policies are asked after it is known.
        is_mesh = one.clients is not None and one.clients.is_mesh
        filters = replace(self.filters, http=(peer.identity(), *self.filters.http)) if is_mesh else self.filters
        chain = filter_chains.of_requests(one.routes_name, filters, self.reports, operation, edge=edge)
        self._set_tls(chain, one, [each.hostname for each in together])
        return chain

    def _of_connections(
        self, together: Sequence[EdgeListener], named: set[str]
    ) -> Iterable[listener_components_pb2.FilterChain]:
        """Yield a chain for each host that has a rule; the name is the listener's, and the host's where they differ.

        Services that clients name themselves have one chain, whichever server admits them: ``named`` are those that
        have one.
        """
        by_host: dict[str, tuple[EdgeListener, ConnectionRule]] = {}
        for each in together:
            by_host = {host: (each, rule) for host, rule in self.rules(each).items()} | by_host
        for hostname, (one, rule) in sorted(by_host.items()):
            is_named = one.spoken is Spoken.AUTO_PASSTHROUGH and hostname != one.hostname
            if is_named and hostname in named:
                continue
            name = one.routes_name if hostname in {"", one.hostname} else f"{one.routes_name}|{hostname}"
            proxy = filter_chains.proxy_of(name, rule, self.upstreams(one.port))
            chain = filter_chains.of_connections(proxy, self.filters, self.reports)
            self._set_tls(chain, one, [hostname])
            if is_named:
                named.add(hostname)
                chain.filter_chain_match.application_protocols.extend(_OF_MESH_TLS)
            yield chain

    def _set_tls(self, chain: listener_components_pb2.FilterChain, one: EdgeListener, hostnames: Sequence[str]) -> None:
        if one.spoken is None or not one.spoken.has_tls:
            return
        if all(hostnames):
            chain.filter_chain_match.server_names.extend(dict.fromkeys(hostnames))
        if one.spoken.ends_tls:
            chain.transport_socket.CopyFrom(transport.edge_server(self.gateway.key, one))
        elif not all(hostnames):
            chain.filter_chain_match.transport_protocol = "tls"
