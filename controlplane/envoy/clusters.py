"""Clusters. Facts: Istio's ``pilot/pkg/networking/core/cluster_traffic_policy.go`` and ``cluster_waypoint.go``."""

from datetime import timedelta
from typing import Final

from envoy.config.cluster.v3 import circuit_breaker_pb2, cluster_pb2, outlier_detection_pb2
from envoy.config.core.v3 import protocol_pb2 as core_protocol_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from google.protobuf import struct_pb2

from controlplane.envoy import balancing, by_name, names, transport
from controlplane.envoy.packing import ads, duration, number, packed
from controlplane.routing import localities
from controlplane.routing.destinations import Policy
from controlplane.routing.services import Discovery, Port, Service
from meshapi.resources.destination_rule import (
    ClientTLSSettings,
    ConnectionPool,
    HTTPSettings,
    OutlierDetection,
    RetryBudget,
    TCPSettings,
)

Cluster: Final = cluster_pb2.Cluster
_TYPES: Final = {
    Discovery.LISTED: Cluster.EDS,
    Discovery.DNS: Cluster.STRICT_DNS,
    Discovery.DNS_ROUND_ROBIN: Cluster.LOGICAL_DNS,
    Discovery.CALLED: Cluster.ORIGINAL_DST,
}
_NO_LIMIT: Final = 2**32 - 1
_CONNECT_TIMEOUT: Final = timedelta(seconds=10)
_RETRY_BUDGET_PERCENT: Final = 20.0
_BUDGET_INTERVAL: Final = bytes([3 << 3 | 2])
"""Tag of a message in field 3; its length follows, which for a duration is less than 128."""
PROTOCOL_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def of_service(
    name: str, service: Service, port: Port, subset: str, policy: Policy, *, is_edge: bool = False
) -> cluster_pb2.Cluster:
    """Return the cluster of a service's port.

    Args:
        name: of the cluster, and of its endpoints.
        service: the service.
        port: one of its ports.
        subset: some of its endpoints; empty: all.
        policy: how the endpoints are chosen and called.
        is_edge: whether it is of a gateway, whose clients do not know what endpoints speak.
    """
    pool = policy.connection_pool or ConnectionPool()
    http2 = _is_http2(port, pool.http or HTTPSettings())
    tls = policy.tls if policy.backend_tls is None else None
    result = Cluster(
        name=name,
        type=_TYPES.get(service.discovery),
        connect_timeout=duration(_connect_timeout(pool)),
        transport_socket_matches=transport.socket_matches(tls, policy.backend_tls, http2=http2),
    )
    if service.discovery is Discovery.LISTED:
        result.eds_cluster_config.service_name = name
        result.eds_cluster_config.eds_config.CopyFrom(ads())
    _set_limits(result, pool, policy)
    _set_keepalive(result, pool.tcp)
    keeps_protocol = not is_edge or (pool.http is not None and pool.http.use_client_protocol)
    options = protocols(pool, tls, http2=http2, keeps_protocol=keeps_protocol)
    if service.discovery is Discovery.NAMED:
        # TLS has to be for the name that was resolved; Envoy takes no such cluster otherwise.
        options.upstream_http_protocol_options.auto_sni = True
        options.upstream_http_protocol_options.auto_san_validation = True
    result.typed_extension_protocol_options[PROTOCOL_OPTIONS].CopyFrom(packed(options))
    detection = policy.outlier_detection
    result.common_lb_config.healthy_panic_threshold.value = detection.min_health_percent if detection else 0
    if detection is not None:
        result.outlier_detection.CopyFrom(_outlier_detection(detection))
    preference = localities.of(policy, service.distribution)
    if preference is not None and preference.distribute:
        result.common_lb_config.locality_weighted_lb_config.SetInParent()
    if service.discovery is Discovery.NAMED:
        by_name.set_cluster(result, service)
    elif service.discovery is Discovery.CALLED:
        result.lb_policy = Cluster.CLUSTER_PROVIDED
    else:
        balancing.apply(result, policy)
    result.metadata.filter_metadata[names.ISTIO_METADATA].CopyFrom(_metadata(service, subset))
    described = {"host": service.host, "name": service.key[1], "namespace": service.namespace}
    result.metadata.filter_metadata[names.TELEMETRY_METADATA].update(described)
    return result


def protocols(
    pool: ConnectionPool, tls: ClientTLSSettings | None, *, http2: bool, keeps_protocol: bool = True
) -> http_protocol_options_pb2.HttpProtocolOptions:
    """Return what is spoken to endpoints: HTTP/2 alone, what the client speaks (``keeps_protocol``), or HTTP/1.1."""
    settings, tcp = pool.http or HTTPSettings(), pool.tcp
    result = http_protocol_options_pb2.HttpProtocolOptions()
    if transport.is_named_by_request(tls):
        result.upstream_http_protocol_options.auto_sni = True
        result.upstream_http_protocol_options.auto_san_validation = transport.is_checked_by_request(tls)
    if http2:
        options = result.explicit_http_config.http2_protocol_options
        result.explicit_http_config.SetInParent()
        options.SetInParent()
    elif not keeps_protocol:
        result.explicit_http_config.http_protocol_options.SetInParent()
        options = core_protocol_pb2.Http2ProtocolOptions()  # of nothing
    else:
        result.use_downstream_protocol_config.http_protocol_options.SetInParent()
        options = result.use_downstream_protocol_config.http2_protocol_options
        options.SetInParent()
    if settings.max_concurrent_streams:
        options.max_concurrent_streams.CopyFrom(number(settings.max_concurrent_streams))
    common = result.common_http_protocol_options
    if settings.max_requests_per_connection:
        common.max_requests_per_connection.CopyFrom(number(settings.max_requests_per_connection))
    idle = settings.idle_timeout if settings.idle_timeout is not None else (tcp.idle_timeout if tcp else None)
    if idle is not None:
        common.idle_timeout.CopyFrom(duration(idle))
    if tcp is not None and tcp.max_connection_duration is not None:
        common.max_connection_duration.CopyFrom(duration(tcp.max_connection_duration))
    return result


def _is_http2(port: Port, settings: HTTPSettings) -> bool:
    """Return whether endpoints are spoken to in HTTP/2 alone."""
    return port.protocol.is_http2 or (settings.h2_upgrade_policy == "UPGRADE" and not settings.use_client_protocol)


def _connect_timeout(pool: ConnectionPool) -> timedelta:
    given = pool.tcp.connect_timeout if pool.tcp is not None else None
    return given or _CONNECT_TIMEOUT


def _set_limits(cluster: cluster_pb2.Cluster, pool: ConnectionPool, policy: Policy) -> None:
    """Limits that are not given are none: Envoy's own defaults (1024) surprise users."""
    http, tcp = pool.http or HTTPSettings(), pool.tcp or TCPSettings()
    limits = cluster.circuit_breakers.thresholds.add(
        max_connections=number(tcp.max_connections or _NO_LIMIT),
        max_pending_requests=number(http.http1_max_pending_requests or _NO_LIMIT),
        max_requests=number(http.http2_max_requests or _NO_LIMIT),
        max_retries=number(http.max_retries or _NO_LIMIT),
        track_remaining=True,
    )
    if policy.retry_budget is not None:
        limits.ClearField("max_retries")
        _set_retry_budget(limits.retry_budget, policy.retry_budget)


def _set_retry_budget(to: circuit_breaker_pb2.CircuitBreakers.Thresholds.RetryBudget, budget: RetryBudget) -> None:
    to.budget_percent.value = budget.percent.value if budget.percent else _RETRY_BUDGET_PERCENT
    to.min_retry_concurrency.value = budget.min_retry_concurrency
    if budget.budget_interval is not None:
        # The proxy knows a field that the messages here do not have yet: budget_interval, number 3 (Envoy 1.40).
        interval = duration(budget.budget_interval).SerializeToString(deterministic=True)
        to.MergeFromString(_BUDGET_INTERVAL + bytes([len(interval)]) + interval)


def _set_keepalive(cluster: cluster_pb2.Cluster, tcp: TCPSettings | None) -> None:
    keepalive = None if tcp is None else tcp.tcp_keepalive
    if keepalive is None:
        return
    to = cluster.upstream_connection_options.tcp_keepalive
    to.SetInParent()
    if keepalive.probes:
        to.keepalive_probes.CopyFrom(number(keepalive.probes))
    for value, field in ((keepalive.time, to.keepalive_time), (keepalive.interval, to.keepalive_interval)):
        if value is not None:
            field.CopyFrom(number(max(1, int(value.total_seconds()))))


def _outlier_detection(detection: OutlierDetection) -> outlier_detection_pb2.OutlierDetection:
    """Set what is given; success rates are not looked at, and a count of 0 turns its check off."""
    result = outlier_detection_pb2.OutlierDetection(enforcing_success_rate=number(0))
    if detection.consecutive5xx_errors is not None:
        result.consecutive_5xx.CopyFrom(number(detection.consecutive5xx_errors))
        result.enforcing_consecutive_5xx.CopyFrom(number(100 if detection.consecutive5xx_errors else 0))
    gateway = detection.consecutive_gateway_errors
    gateway = detection.consecutive_errors if gateway is None else gateway
    if gateway is not None:
        result.consecutive_gateway_failure.CopyFrom(number(gateway))
        result.enforcing_consecutive_gateway_failure.CopyFrom(number(100 if gateway else 0))
    if detection.interval is not None:
        result.interval.CopyFrom(duration(detection.interval))
    if detection.base_ejection_time is not None:
        result.base_ejection_time.CopyFrom(duration(detection.base_ejection_time))
    if detection.max_ejection_percent:
        result.max_ejection_percent.CopyFrom(number(detection.max_ejection_percent))
    if detection.split_external_local_origin_errors:
        result.split_external_local_origin_errors = True
        if detection.consecutive_local_origin_failures is not None:
            result.consecutive_local_origin_failure.CopyFrom(number(detection.consecutive_local_origin_failures))
            enforced = 100 if detection.consecutive_local_origin_failures else 0
            result.enforcing_consecutive_local_origin_failure.CopyFrom(number(enforced))
        result.enforcing_local_origin_success_rate.CopyFrom(number(0))
    return result


def _metadata(service: Service, subset: str) -> struct_pb2.Struct:
    namespace, name = service.key
    result = struct_pb2.Struct()
    one = {"host": service.host, "name": name, "namespace": namespace}
    result.update({"services": [one], **({"subset": subset} if subset else {})})
    return result


def main_internal() -> cluster_pb2.Cluster:
    """Return the cluster that leads from the tunnels to what routes."""
    result = Cluster(name=names.MAIN_INTERNAL, type=Cluster.STATIC)
    result.load_assignment.cluster_name = names.MAIN_INTERNAL
    endpoint = result.load_assignment.endpoints.add().lb_endpoints.add().endpoint
    endpoint.address.envoy_internal_address.server_listener_name = names.MAIN_INTERNAL
    result.transport_socket.CopyFrom(transport.internal(transport.raw()))
    return result


def connect_originate() -> cluster_pb2.Cluster:
    """Return the cluster that opens tunnels to endpoints, or to the waypoints that their metadata names."""
    result = Cluster(
        name=names.CONNECT_ORIGINATE,
        type=Cluster.ORIGINAL_DST,
        lb_policy=Cluster.CLUSTER_PROVIDED,
        connect_timeout=duration(_CONNECT_TIMEOUT),
        cleanup_interval=duration(timedelta(seconds=60)),
        transport_socket=transport.mesh_client(),
    )
    result.original_dst_lb_config.upstream_port_override.value = transport.HBONE_PORT
    key = result.original_dst_lb_config.metadata_key
    key.key = names.ORIGINAL_DESTINATION
    key.path.add(key=names.WAYPOINT_KEY)
    options = http_protocol_options_pb2.HttpProtocolOptions()
    options.explicit_http_config.http2_protocol_options.SetInParent()
    result.typed_extension_protocol_options[PROTOCOL_OPTIONS].CopyFrom(packed(options))
    set_no_limits(result)
    return result


def set_no_limits(cluster: cluster_pb2.Cluster) -> None:
    """Lift Envoy's own limits, which no user has asked for."""
    limits = number(_NO_LIMIT)
    cluster.circuit_breakers.thresholds.add(
        max_connections=limits, max_pending_requests=limits, max_requests=limits, max_retries=limits
    )
