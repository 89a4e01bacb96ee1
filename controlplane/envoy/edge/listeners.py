"""Listeners of gateways: one for each port. Facts: Istio's ``pilot/pkg/networking/core/gateway.go``."""

from collections.abc import Iterable, Sequence
from typing import Final

from envoy.config.core.v3 import address_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2

from controlplane.envoy import filter_chains, transport
from controlplane.envoy.filter_chains import Filters
from controlplane.envoy.http_connections import Edge
from controlplane.envoy.packing import packed
from controlplane.envoy.telemetry.reporting import Reports
from controlplane.gateways.listener import EdgeGateway, EdgeListener, Spoken

Chain: Final = listener_components_pb2.FilterChain
_TLS_INSPECTOR: Final = "envoy.filters.listener.tls_inspector"


def of_gateway(gateway: EdgeGateway, filters: Filters, reports: Reports) -> Iterable[listener_pb2.Listener]:
    """Yield the listeners of a gateway.

    Args:
        gateway: the gateway.
        filters: of policies.
        reports: what is reported of the traffic.
    """
    by_port: dict[int, list[EdgeListener]] = {}
    for one in gateway.served:
        by_port.setdefault(one.port, []).append(one)
    for port, found in sorted(by_port.items()):
        yield _of_port(gateway, port, found, filters, reports)


def _of_port(
    gateway: EdgeGateway, port: int, found: Sequence[EdgeListener], filters: Filters, reports: Reports
) -> listener_pb2.Listener:
    socket = address_pb2.SocketAddress(address="::", port_value=port, ipv4_compat=True)
    result = listener_pb2.Listener(
        name=f"0.0.0.0_{port}",
        address=address_pb2.Address(socket_address=socket),
        filter_chains=_chains(gateway, found, filters, reports),
    )
    if any(one.spoken is not None and one.spoken.has_tls for one in found):
        result.listener_filters.add(name=_TLS_INSPECTOR, typed_config=packed(tls_inspector_pb2.TlsInspector()))
    return result


def _chains(
    gateway: EdgeGateway, found: Iterable[EdgeListener], filters: Filters, reports: Reports
) -> Iterable[listener_components_pb2.FilterChain]:
    names = set()
    for one in found:
        # Plain listeners of a port share one chain: the host of a request tells them apart.
        if one.spoken is not None and one.spoken.is_http and one.routes_name not in names:
            names.add(one.routes_name)
            yield _of_requests(gateway, one, filters, reports)


def _of_requests(
    gateway: EdgeGateway, one: EdgeListener, filters: Filters, reports: Reports
) -> listener_components_pb2.FilterChain:
    proves_clients = one.clients is not None and not one.clients.is_optional
    chain = filter_chains.of_requests(
        one.routes_name,
        filters,
        reports,
        f"{gateway.workload}.{gateway.key[0]}:{one.port}/*",
        edge=Edge(proves_clients=proves_clients),
    )
    if one.spoken is Spoken.HTTPS:
        chain.filter_chain_match.server_names.extend(filter(None, (one.hostname,)))
        chain.transport_socket.CopyFrom(transport.edge_server(gateway.key, one))
    return chain
