"""Endpoints of a cluster. Facts: Istio's ``pilot/pkg/xds/endpoints/endpoint_builder.go``."""

from collections.abc import Iterable

from envoy.config.core.v3 import base_pb2, health_check_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2

from controlplane.envoy import metrics, names, nearness
from controlplane.envoy.packing import internal_address, number, socket_address
from controlplane.routing.localities import Nearness
from controlplane.routing.services import Endpoint, Locality

Labels = frozenset[tuple[str, str]]


def of_cluster(
    cluster: str,
    endpoints: Iterable[Endpoint],
    port: int,
    labels: Labels = frozenset(),
    preference: Nearness | None = None,
) -> endpoint_pb2.ClusterLoadAssignment:
    """Return the endpoints of a cluster by locality.

    Args:
        cluster: its name.
        endpoints: all of the service.
        port: the service's port.
        labels: that endpoints must have, for a subset.
        preference: for near endpoints.
    """
    places: dict[Locality, list[endpoint_components_pb2.LbEndpoint]] = {}
    for endpoint in endpoints:
        target = endpoint.target(port)
        if target and endpoint.is_healthy and labels <= endpoint.labels:
            made = _endpoint(endpoint, target)
            if preference is not None:
                nearness.note_endpoint(made, endpoint, preference)
            places.setdefault(endpoint.locality, []).append(made)
    result = endpoint_pb2.ClusterLoadAssignment(cluster_name=cluster)
    for place in sorted(places, key=lambda one: (one.region, one.zone, one.subzone)):
        found = places[place]
        group = result.endpoints.add(
            lb_endpoints=found,
            load_balancing_weight=number(sum(one.load_balancing_weight.value for one in found)),
        )
        group.locality.CopyFrom(base_pb2.Locality(region=place.region, zone=place.zone, sub_zone=place.subzone))
    if preference is not None:
        nearness.note(result, preference)
    return result


def _endpoint(endpoint: Endpoint, target: int) -> endpoint_components_pb2.LbEndpoint:
    result = endpoint_components_pb2.LbEndpoint(
        load_balancing_weight=number(endpoint.weight), health_status=health_check_pb2.HEALTHY
    )
    metadata = result.metadata.filter_metadata
    metadata[names.ISTIO_METADATA].update({"workload": ";".join(endpoint.workload), "identity": endpoint.identity})
    described = dict(zip(metrics.DESCRIBED, endpoint.workload, strict=False))
    identity = endpoint.identity if endpoint.has_tunnel else metrics.UNKNOWN
    metadata[names.TELEMETRY_METADATA].update({**described, "identity": identity})
    host = f"[{endpoint.address}]" if ":" in endpoint.address else endpoint.address
    if endpoint.has_tunnel:
        address = endpoint.leads_to or f"{host}:{target}"
        through = {names.WAYPOINT_KEY: f"{host}:{target}"} if endpoint.leads_to else {}
        own = f"{address};{host}" if endpoint.leads_to else address
        result.endpoint.address.CopyFrom(internal_address(names.CONNECT_ORIGINATE, own))
        metadata[names.ORIGINAL_DESTINATION].update({"local": address, **through})
        metadata[names.TRANSPORT_SOCKET_MATCH].update({names.TUNNEL_KEY: names.TUNNEL_VALUE})
    else:
        result.endpoint.address.CopyFrom(socket_address(endpoint.address, target))
    return result
