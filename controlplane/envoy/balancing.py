"""How an endpoint is chosen. Facts: Istio's ``cluster_traffic_policy.go`` and ``route.go`` (``hashPolicy``)."""

from typing import Final, TypeAlias

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.route.v3 import route_components_pb2
from google.protobuf import wrappers_pb2

from controlplane.envoy.packing import duration
from controlplane.routing.destinations import Policy
from meshapi.resources.destination_rule import ConsistentHashLB, HTTPCookie, LoadBalancer, SimpleLB

Cluster: Final = cluster_pb2.Cluster
HashPolicy: TypeAlias = route_components_pb2.RouteAction.HashPolicy
_SIMPLE: Final = {
    SimpleLB.UNSPECIFIED: Cluster.LEAST_REQUEST,
    SimpleLB.LEAST_CONN: Cluster.LEAST_REQUEST,
    SimpleLB.LEAST_REQUEST: Cluster.LEAST_REQUEST,
    SimpleLB.RANDOM: Cluster.RANDOM,
    SimpleLB.ROUND_ROBIN: Cluster.ROUND_ROBIN,
    SimpleLB.PASSTHROUGH: Cluster.LEAST_REQUEST,
}
_RING_SIZE: Final = 1024


def apply(cluster: cluster_pb2.Cluster, policy: Policy) -> None:
    """Set how an endpoint of a cluster is chosen."""
    balancer = policy.load_balancer or LoadBalancer()
    if balancer.consistent_hash is not None:
        _hash(cluster, balancer.consistent_hash)
    else:
        cluster.lb_policy = _SIMPLE[balancer.simple or SimpleLB.UNSPECIFIED]
        _warm_up(cluster, balancer)


def hash_policies(policy: Policy) -> tuple[HashPolicy, ...]:
    """Return which part of a request chooses the endpoint; none where it is not chosen by a key."""
    consistent = policy.load_balancer.consistent_hash if policy.load_balancer is not None else None
    if consistent is None:
        return ()
    if consistent.http_header_name:
        return (HashPolicy(header=HashPolicy.Header(header_name=consistent.http_header_name)),)
    if consistent.http_cookie is not None:
        return (HashPolicy(cookie=_cookie(consistent.http_cookie)),)
    if consistent.http_query_parameter_name:
        return (HashPolicy(query_parameter=HashPolicy.QueryParameter(name=consistent.http_query_parameter_name)),)
    return (HashPolicy(connection_properties=HashPolicy.ConnectionProperties(source_ip=True)),)


def _cookie(cookie: HTTPCookie) -> route_components_pb2.RouteAction.HashPolicy.Cookie:
    """Return the cookie; one without ``ttl`` is not made, only read."""
    result = HashPolicy.Cookie(name=cookie.name, path=cookie.path)
    if cookie.ttl is not None:
        result.ttl.CopyFrom(duration(cookie.ttl))
        result.ttl.SetInParent()
    for attribute in cookie.attributes:
        result.attributes.add(name=attribute.name, value=attribute.value)
    return result


def _hash(cluster: cluster_pb2.Cluster, consistent: ConsistentHashLB) -> None:
    if consistent.maglev is not None:
        cluster.lb_policy = Cluster.MAGLEV
        if consistent.maglev.table_size:
            cluster.maglev_lb_config.table_size.value = consistent.maglev.table_size
        return
    cluster.lb_policy = Cluster.RING_HASH
    size = consistent.ring_hash.minimum_ring_size if consistent.ring_hash is not None else consistent.minimum_ring_size
    cluster.ring_hash_lb_config.minimum_ring_size.CopyFrom(wrappers_pb2.UInt64Value(value=size or _RING_SIZE))


def _warm_up(cluster: cluster_pb2.Cluster, balancer: LoadBalancer) -> None:
    """New endpoints of these two policies can get their share step by step; Envoy knows it for no other."""
    window = balancer.warmup.duration if balancer.warmup is not None else balancer.warmup_duration_secs
    if window is None:
        return
    if cluster.lb_policy == Cluster.LEAST_REQUEST:
        slow_start = cluster.least_request_lb_config.slow_start_config
    elif cluster.lb_policy == Cluster.ROUND_ROBIN:
        slow_start = cluster.round_robin_lb_config.slow_start_config
    else:
        return
    slow_start.slow_start_window.CopyFrom(duration(window))
    if balancer.warmup is not None and balancer.warmup.minimum_percent is not None:
        slow_start.min_weight_percent.value = balancer.warmup.minimum_percent
    if balancer.warmup is not None and balancer.warmup.aggression is not None:
        slow_start.aggression.default_value = balancer.warmup.aggression
        slow_start.aggression.runtime_key = "culvert.warmup.aggression"
