"""UDP at gateways: a listener, and the pods that its datagrams go to, as one cluster with weights.

Datagrams of a client go to one pod, as long as it sends some. They do not go through the
mesh's tunnels, which carry TCP.
"""

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Final

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import address_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.udp.udp_proxy.v3 import route_pb2, udp_proxy_pb2

from controlplane.envoy import clusters
from controlplane.envoy.packing import ads, duration, number, packed
from controlplane.envoy.placing import Message
from controlplane.gateways.listener import EdgeListener
from controlplane.routing.ir import ConnectionRule, Target

_UDP: Final = address_pb2.SocketAddress.UDP
_SCALE: Final = 10_000
"""Weights of routes are divided among a backend's pods, in whole numbers."""
_CONNECT_TIMEOUT: Final = timedelta(seconds=10)


def listener(one: EdgeListener) -> listener_pb2.Listener:
    """Return the listener of a port."""
    socket = address_pb2.SocketAddress(protocol=_UDP, address="::", port_value=one.port, ipv4_compat=True)
    result = listener_pb2.Listener(name=f"0.0.0.0_{one.port}_udp", address=address_pb2.Address(socket_address=socket))
    result.udp_listener_config.downstream_socket_config.SetInParent()
    proxy = udp_proxy_pb2.UdpProxyConfig(stat_prefix=one.routes_name)
    action = proxy.matcher.on_no_match.action
    action.name = "route"
    action.typed_config.CopyFrom(packed(route_pb2.Route(cluster=one.routes_name)))
    result.listener_filters.add(name="envoy.filters.udp_listener.udp_proxy", typed_config=packed(proxy))
    return result


def upstream(
    one: EdgeListener, rule: ConnectionRule, endpoints: Callable[[Target], Iterable[tuple[str, int]]]
) -> Iterable[Message]:
    """Yield the cluster of a listener, and its endpoints; none where no route leads anywhere: datagrams are lost."""
    cluster = cluster_pb2.Cluster(
        name=one.routes_name, type=cluster_pb2.Cluster.EDS, connect_timeout=duration(_CONNECT_TIMEOUT)
    )
    cluster.eds_cluster_config.service_name = one.routes_name
    cluster.eds_cluster_config.eds_config.CopyFrom(ads())
    clusters.set_no_limits(cluster)
    yield cluster
    assignment = endpoint_pb2.ClusterLoadAssignment(cluster_name=one.routes_name)
    group = assignment.endpoints.add()
    for share in rule.shares:
        found = tuple(endpoints(share.target)) if share.target is not None else ()
        for address, port in found:
            made = group.lb_endpoints.add(load_balancing_weight=number(max(1, share.weight * _SCALE // len(found))))
            socket = address_pb2.SocketAddress(protocol=_UDP, address=address, port_value=port)
            made.endpoint.address.socket_address.CopyFrom(socket)
    yield assignment
