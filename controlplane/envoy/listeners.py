"""The three listeners of a waypoint. Facts: Istio's ``pilot/pkg/networking/core/listener_waypoint.go``."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Final

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import address_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.extensions.filters.listener.http_inspector.v3 import http_inspector_pb2
from envoy.extensions.filters.listener.original_dst.v3 import original_dst_pb2
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from google.protobuf.message import Message

from controlplane.envoy import dispatch, http_connections, names, transport
from controlplane.envoy.filter_chains import HTTP_MANAGER, TCP_PROXY, Opening
from controlplane.envoy.packing import duration, packed

Listener: Final = listener_pb2.Listener
Chain: Final = listener_components_pb2.FilterChain
_HTTP_INSPECTOR: Final = "envoy.filters.listener.http_inspector"
_TLS_INSPECTOR: Final = "envoy.filters.listener.tls_inspector"
_SERVER_FIRST: Final = (21, 22, 25, 53, 110, 143, 587, 873, 3306, 4222, 5900, 27017)
"""Ports of protocols in which the server speaks first, or that are no HTTP in any case: FTP, SSH, SMTP, DNS, POP3,
IMAP, rsync, MySQL, NATS, VNC, MongoDB. Envoy does not wait there for the client's first bytes.

The list is the same for all waypoints: a change of it is a new listener, which closes every connection of the old one.
"""
_DETECTION: Final = timedelta(seconds=1)
"""How long Envoy waits for a client's first bytes; a connection that stays silent is taken for no HTTP.

Ports with a declared protocol need no such wait, but Envoy inspects either all connections of a listener or none.
"""


def connect_terminate(logs: Iterable[accesslog_pb2.AccessLog]) -> listener_pb2.Listener:
    """Return the listener that takes clients' tunnels in, over IPv4 and IPv6, with its access logs."""
    chain = Chain(name="default", transport_socket=transport.mesh_server())
    chain.filters.add(name=HTTP_MANAGER, typed_config=packed(http_connections.of_tunnels(logs)))
    socket = address_pb2.SocketAddress(address="::", port_value=transport.HBONE_PORT, ipv4_compat=True)
    address = address_pb2.Address(socket_address=socket)
    return Listener(name=names.CONNECT_TERMINATE, address=address, filter_chains=[chain])


def main_internal(openings: Iterable[Opening], direct: Opening | None = None) -> listener_pb2.Listener:
    """Return the listener that routes.

    Of two services that claim one address and port, the first one in order of host names gets the traffic.

    Args:
        openings: of services, in this order.
        direct: of workloads, whatever address and port is called; ``None``: the waypoint is not for workloads.
    """
    result = Listener(name=names.MAIN_INTERNAL)
    result.internal_listener.SetInParent()
    result.listener_filters.add(name=names.ORIGINAL_DESTINATION, typed_config=packed(original_dst_pb2.OriginalDst()))
    # Envoy refuses a listener without chains, and whatever no chain is for has nowhere to go.
    nowhere = tcp_proxy_pb2.TcpProxy(stat_prefix=names.BLACK_HOLE, cluster=names.BLACK_HOLE)
    result.default_filter_chain.name = names.BLACK_HOLE
    result.default_filter_chain.filters.add(name=TCP_PROXY, typed_config=packed(nowhere))
    places = dispatch.places(openings)
    used = {id(one): one for ports in places.values() for one in ports.values()}
    served = [*used.values(), *([] if direct is None else [direct])]
    result.filter_chains.extend(chain for one in served for chain in one.chains)
    tree = dispatch.tree(places, direct)
    if tree is not None:
        result.filter_chain_matcher.CopyFrom(tree)
    inspectors = [
        *([_inspector(_TLS_INSPECTOR, tls_inspector_pb2.TlsInspector())] if _looks_for_names(served) else []),
        *([_inspector(_HTTP_INSPECTOR, http_inspector_pb2.HttpInspector())] if _looks_for_http(served) else []),
    ]
    if inspectors:
        result.listener_filters.extend(inspectors)
        result.listener_filters_timeout.CopyFrom(duration(_DETECTION))
        result.continue_on_listener_filters_timeout = True
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


def _looks_for_names(served: Iterable[Opening]) -> bool:
    return any(named.server_names for one in served for named in one.named)


def _looks_for_http(served: Iterable[Opening]) -> bool:
    return any(one.http is not None and one.tcp is not None for one in served)


def _inspector(name: str, config: Message) -> listener_components_pb2.ListenerFilter:
    """Return a filter that looks into the first bytes, to tell HTTP from the rest or to read the name in TLS."""
    result = listener_components_pb2.ListenerFilter(name=name, typed_config=packed(config))
    for port in _SERVER_FIRST:
        one = result.filter_disabled.or_match.rules.add()
        one.destination_port_range.start, one.destination_port_range.end = port, port + 1
    return result
