"""The HTTP connection manager of requests, and of the tunnels."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import extension_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.http.cors.v3 import cors_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.http.stateful_session.v3 import stateful_session_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2

from controlplane.envoy import names, peer
from controlplane.envoy.packing import ads, duration, flag, http_filter, number, overwritten, packed
from meshapi.mesh_config.model import ForwardClientCertDetails, GatewayTopology

Manager: Final = http_connection_manager_pb2.HttpConnectionManager
Filter: Final = http_connection_manager_pb2.HttpFilter
_SERVER: Final = "istio-envoy"
_FORWARDING: Final = {
    ForwardClientCertDetails.UNDEFINED: Manager.SANITIZE_SET,
    ForwardClientCertDetails.SANITIZE: Manager.SANITIZE,
    ForwardClientCertDetails.FORWARD_ONLY: Manager.FORWARD_ONLY,
    ForwardClientCertDetails.APPEND_FORWARD: Manager.APPEND_FORWARD,
    ForwardClientCertDetails.SANITIZE_SET: Manager.SANITIZE_SET,
    ForwardClientCertDetails.ALWAYS_FORWARD_ONLY: Manager.ALWAYS_FORWARD_ONLY,
}


@dataclass(frozen=True, slots=True)
class Edge:
    """The clients of a gateway, of whom nothing is believed that they write of themselves.

    Attributes:
        topology: what is in front of the gateway, and is believed.
        proves_clients: whether certificates that they show are checked.
    """

    topology: GatewayTopology
    proves_clients: bool = False


def of_requests(
    route_name: str,
    filters: Iterable[http_connection_manager_pb2.HttpFilter],
    logs: Iterable[accesslog_pb2.AccessLog],
    *,
    early: Iterable[extension_pb2.TypedExtensionConfig] = (),
    edge: Edge | None = None,
) -> http_connection_manager_pb2.HttpConnectionManager:
    """Return the connection manager of a service's port, of workloads, or of a gateway.

    Args:
        route_name: of its routes, which come by RDS: a change of them drains nothing.
        filters: of policy, in front of the others.
        logs: access logs.
        early: changes of a request before its route is chosen.
        edge: set where clients are outside of the mesh.
    """
    result = Manager(
        stat_prefix=route_name,
        server_name=_SERVER,
        normalize_path=flag(True),
        use_remote_address=flag(edge is not None),
        forward_client_cert_details=Manager.SANITIZE,
        http_filters=[
            *([_client_identity()] if edge is None else []),
            *filters,
            http_filter(names.FAULT_FILTER, fault_pb2.HTTPFault()),
            http_filter(names.CORS_FILTER, cors_pb2.Cors()),
            # Routes with sessions turn it on: a listener that changed with them would close connections.
            Filter(
                name=names.SESSION_FILTER, typed_config=packed(stateful_session_pb2.StatefulSession()), disabled=True
            ),
            router(),
        ],
        access_log=logs,
        early_header_mutation_extensions=early,
        stream_idle_timeout=duration(timedelta(0)),
        delayed_close_timeout=duration(timedelta(seconds=1)),
    )
    result.rds.route_config_name = route_name
    result.rds.config_source.CopyFrom(ads())
    result.upgrade_configs.add(upgrade_type="websocket")
    result.http_protocol_options.SetInParent()
    if edge is not None:
        _set_edge(result, edge)
    return result


def _set_edge(to: http_connection_manager_pb2.HttpConnectionManager, edge: Edge) -> None:
    """Have every client taken for one from outside, whatever its address: Envoy's own headers are not believed."""
    # Without any range, Envoy takes private addresses for internal ones; this is the address of no client.
    to.internal_address_config.cidr_ranges.add(address_prefix="0.0.0.0", prefix_len=number(32))  # noqa: S104
    # The client is who has called the first of the trusted proxies.
    to.xff_num_trusted_hops = edge.topology.num_trusted_proxies
    wanted = edge.topology.forward_client_cert_details
    # Envoy takes any certificate for a proof; one that is not checked proves nothing.
    if edge.proves_clients or wanted is ForwardClientCertDetails.ALWAYS_FORWARD_ONLY:
        to.forward_client_cert_details = _FORWARDING[wanted]
    if to.forward_client_cert_details in {Manager.APPEND_FORWARD, Manager.SANITIZE_SET}:
        said = to.set_current_client_cert_details
        said.subject.value, said.uri, said.dns = True, True, True


def of_tunnels(logs: Iterable[accesslog_pb2.AccessLog]) -> http_connection_manager_pb2.HttpConnectionManager:
    """Return the connection manager of clients' tunnels: each CONNECT becomes a connection to ``main_internal``.

    What the request and the client's certificate say goes along: the address that was called, the client's address,
    its identity, and its workload.

    Args:
        logs: access logs.
    """
    route = route_components_pb2.Route(name="default", match=route_components_pb2.RouteMatch())
    route.match.connect_matcher.SetInParent()
    route.route.cluster = names.MAIN_INTERNAL
    route.route.timeout.SetInParent()
    connect = route.route.upgrade_configs.add(upgrade_type="CONNECT")
    connect.connect_config.SetInParent()
    host = route_components_pb2.VirtualHost(name="default", domains=["*"], routes=[route])
    result = Manager(
        stat_prefix=names.CONNECT_TERMINATE,
        server_name=_SERVER,
        route_config=route_pb2.RouteConfiguration(name="default", virtual_hosts=[host], validate_clusters=flag(False)),
        http_filters=[*peer.filters(), router()],
        use_remote_address=flag(False),
        skip_xff_append=True,
        access_log=logs,
        stream_idle_timeout=duration(timedelta(0)),
    )
    result.upgrade_configs.add(upgrade_type="CONNECT")
    result.http2_protocol_options.allow_connect = True
    return result


def router() -> http_connection_manager_pb2.HttpFilter:
    """Return the last filter."""
    return http_filter(names.ROUTER_FILTER, router_pb2.Router())


def _client_identity() -> http_connection_manager_pb2.HttpFilter:
    """Return the filter that says who called, to external authorizers and to the service.

    What a client has written there is removed before.
    """
    value = f"URI=%FILTER_STATE({names.SOURCE_PRINCIPAL_STATE}:PLAIN)%"
    config = header_mutation_pb2.HeaderMutation()
    config.mutations.request_mutations.add(append=overwritten("x-forwarded-client-cert", value))
    return http_filter("envoy.filters.http.header_mutation", config)
