"""The three listeners of a waypoint. Facts: Istio's ``pilot/pkg/networking/core/listener_waypoint.go``."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from envoy.config.core.v3 import address_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.extensions.filters.listener.http_inspector.v3 import http_inspector_pb2
from envoy.extensions.filters.listener.original_dst.v3 import original_dst_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2

from controlplane.envoy import http_connections, names, transport
from controlplane.envoy.packing import number, packed
from controlplane.routing.services import Port, Protocol, Service

Listener: Final = listener_pb2.Listener
Chain: Final = listener_components_pb2.FilterChain
_HTTP_MANAGER: Final = "envoy.filters.network.http_connection_manager"
_TCP_PROXY: Final = "envoy.filters.network.tcp_proxy"
_HTTP_WORDS: Final = ("http/1.0", "http/1.1", "h2c")
"""What the inspector reports for HTTP."""


@dataclass(frozen=True, slots=True)
class Served:
    """A service that a waypoint is for.

    Attributes:
        service: the service.
        filters: of the policies that count for its requests.
    """

    service: Service
    filters: tuple[http_connection_manager_pb2.HttpFilter, ...] = ()


def connect_terminate() -> listener_pb2.Listener:
    """Return the listener that takes clients' tunnels in."""
    chain = Chain(name="default", transport_socket=transport.mesh_server())
    chain.filters.add(name=_HTTP_MANAGER, typed_config=packed(http_connections.of_tunnels()))
    address = address_pb2.Address(
        socket_address=address_pb2.SocketAddress(address="::", port_value=transport.HBONE_PORT, ipv4_compat=True)
    )
    return Listener(name=names.CONNECT_TERMINATE, address=address, filter_chains=[chain])


def main_internal(served: Iterable[Served]) -> listener_pb2.Listener:
    """Return the listener that routes: a filter chain for each port of each service, chosen by the called address."""
    result = Listener(name=names.MAIN_INTERNAL)
    result.internal_listener.SetInParent()
    result.listener_filters.add(name=names.ORIGINAL_DESTINATION, typed_config=packed(original_dst_pb2.OriginalDst()))
    found = list(served)
    if any(port.protocol is Protocol.UNKNOWN for one in found for port in one.service.ports):
        result.listener_filters.add(
            name="envoy.filters.listener.http_inspector", typed_config=packed(http_inspector_pb2.HttpInspector())
        )
    taken: set[tuple[str, int]] = set()
    for one in found:
        for port in one.service.ports:
            addresses = [address for address in one.service.addresses if (address, port.number) not in taken]
            if addresses:
                taken.update((address, port.number) for address in addresses)
                result.filter_chains.extend(_chains(one, port, addresses))
    return result


def connect_originate() -> listener_pb2.Listener:
    """Return the listener that opens tunnels: to the address that the chosen endpoint's metadata names."""
    proxy = tcp_proxy_pb2.TcpProxy(stat_prefix=names.CONNECT_ORIGINATE, cluster=names.CONNECT_ORIGINATE)
    proxy.tunneling_config.hostname = "%DOWNSTREAM_LOCAL_ADDRESS%"
    chain = Chain()
    chain.filters.add(name=_TCP_PROXY, typed_config=packed(proxy))
    result = Listener(name=names.CONNECT_ORIGINATE, filter_chains=[chain])
    result.internal_listener.SetInParent()
    result.use_original_dst.value = True
    result.listener_filters.add(name=names.ORIGINAL_DESTINATION, typed_config=packed(original_dst_pb2.OriginalDst()))
    return result


def _chains(served: Served, port: Port, addresses: Sequence[str]) -> Iterable[listener_components_pb2.FilterChain]:
    host = served.service.host
    if port.protocol.is_http:
        name = names.inbound_vip(host, port.number, is_http=True)
        chain = _chain(name, port, addresses)
        if port.protocol is Protocol.UNKNOWN:
            chain.filter_chain_match.application_protocols.extend(_HTTP_WORDS)
        manager = http_connections.of_service(name, served.filters)
        chain.filters.add(name=_HTTP_MANAGER, typed_config=packed(manager))
        yield chain
    if not port.protocol.is_http or port.protocol is Protocol.UNKNOWN:
        name = names.inbound_vip(host, port.number, is_http=False)
        chain = _chain(name, port, addresses)
        proxy = tcp_proxy_pb2.TcpProxy(stat_prefix=name, cluster=name)
        chain.filters.add(name=_TCP_PROXY, typed_config=packed(proxy))
        yield chain


def _chain(name: str, port: Port, addresses: Sequence[str]) -> listener_components_pb2.FilterChain:
    chain = Chain(name=name)
    chain.filter_chain_match.destination_port.CopyFrom(number(port.number))
    for address in addresses:
        bits = 128 if ":" in address else 32
        chain.filter_chain_match.prefix_ranges.add(address_prefix=address, prefix_len=number(bits))
    return chain
