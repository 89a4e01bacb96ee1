"""The three listeners of a waypoint. Facts: Istio's ``pilot/pkg/networking/core/listener_waypoint.go``."""

from collections.abc import Iterable
from typing import Final

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import address_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.extensions.filters.listener.http_inspector.v3 import http_inspector_pb2
from envoy.extensions.filters.listener.original_dst.v3 import original_dst_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2

from controlplane.envoy import http_connections, names, transport
from controlplane.envoy.filter_chains import HTTP_MANAGER, TCP_PROXY
from controlplane.envoy.packing import packed

Listener: Final = listener_pb2.Listener
Chain: Final = listener_components_pb2.FilterChain
_HTTP_INSPECTOR: Final = "envoy.filters.listener.http_inspector"


def connect_terminate(logs: Iterable[accesslog_pb2.AccessLog]) -> listener_pb2.Listener:
    """Return the listener that takes clients' tunnels in, over IPv4 and IPv6, with its access logs."""
    chain = Chain(name="default", transport_socket=transport.mesh_server())
    chain.filters.add(name=HTTP_MANAGER, typed_config=packed(http_connections.of_tunnels(logs)))
    socket = address_pb2.SocketAddress(address="::", port_value=transport.HBONE_PORT, ipv4_compat=True)
    address = address_pb2.Address(socket_address=socket)
    return Listener(name=names.CONNECT_TERMINATE, address=address, filter_chains=[chain])


def main_internal(chains: Iterable[listener_components_pb2.FilterChain]) -> listener_pb2.Listener:
    """Return the listener that routes.

    Envoy refuses a listener with two filter chains for one match. Of two services that claim one address and port, the
    first one in order of host names gets the traffic.
    """
    result = Listener(name=names.MAIN_INTERNAL)
    result.internal_listener.SetInParent()
    result.listener_filters.add(name=names.ORIGINAL_DESTINATION, typed_config=packed(original_dst_pb2.OriginalDst()))
    # Envoy refuses a listener without chains, and whatever no chain is for has nowhere to go.
    nowhere = tcp_proxy_pb2.TcpProxy(stat_prefix=names.BLACK_HOLE, cluster=names.BLACK_HOLE)
    result.default_filter_chain.name = names.BLACK_HOLE
    result.default_filter_chain.filters.add(name=TCP_PROXY, typed_config=packed(nowhere))
    taken: set[tuple[object, ...]] = set()
    for chain in chains:
        match = chain.filter_chain_match
        words = tuple(match.application_protocols)
        places = {(one.address_prefix, match.destination_port.value, words) for one in match.prefix_ranges}
        if not places & taken:
            taken |= places
            result.filter_chains.append(chain)
    if any(chain.filter_chain_match.application_protocols for chain in result.filter_chains):
        inspector = packed(http_inspector_pb2.HttpInspector())
        result.listener_filters.add(name=_HTTP_INSPECTOR, typed_config=inspector)
    return result


def connect_originate(logs: Iterable[accesslog_pb2.AccessLog]) -> listener_pb2.Listener:
    """Return the listener that opens tunnels: to the address that the chosen endpoint's metadata names.

    Args:
        logs: access logs.
    """
    name = names.CONNECT_ORIGINATE
    proxy = tcp_proxy_pb2.TcpProxy(stat_prefix=name, cluster=name, access_log=logs)
    proxy.tunneling_config.hostname = "%DOWNSTREAM_LOCAL_ADDRESS%"
    chain = Chain()
    chain.filters.add(name=TCP_PROXY, typed_config=packed(proxy))
    result = Listener(name=names.CONNECT_ORIGINATE, filter_chains=[chain])
    result.internal_listener.SetInParent()
    result.use_original_dst.value = True
    result.listener_filters.add(name=names.ORIGINAL_DESTINATION, typed_config=packed(original_dst_pb2.OriginalDst()))
    return result
