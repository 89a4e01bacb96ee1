"""From a Kubernetes service to an ``istio.workload.Service``. Facts: Istio's ``ambient/services.go``."""

from typing import Final

from controlplane.ambient import ip
from controlplane.ambient.ports import service_ports
from controlplane.inputs.mesh import MeshContext
from meshapi.proto import workload_pb2
from meshapi.resources.core import Service

_TRAFFIC_DISTRIBUTION_ANNOTATION: Final = "networking.istio.io/traffic-distribution"
_LB: Final = workload_pb2.LoadBalancing
_SAME_ZONE: Final = (_LB.NETWORK, _LB.REGION, _LB.ZONE)
_SAME_NODE: Final = (*_SAME_ZONE, _LB.SUBZONE, _LB.NODE)
_PREFERENCES: Final = {
    "PreferClose": _SAME_ZONE,
    "PreferSameZone": _SAME_ZONE,
    "PreferSameNode": _SAME_NODE,
}
_FAMILIES: Final = {
    frozenset({"IPv4"}): workload_pb2.IPV4_ONLY,
    frozenset({"IPv6"}): workload_pb2.IPV6_ONLY,
    frozenset({"IPv4", "IPv6"}): workload_pb2.DUAL,
}


def translate(
    service: Service,
    mesh: MeshContext,
    *,
    waypoint: workload_pb2.GatewayAddress | None = None,
    ingress_use_waypoint: bool = False,
) -> workload_pb2.Service | None:
    """Return the service as proxies know it; ``None`` for an ``ExternalName``, which is a DNS alias and no more.

    Args:
        service: the service.
        mesh: the mesh.
        waypoint: that connections to it go through.
        ingress_use_waypoint: whether those of gateways do, too.
    """
    if service.spec.type == "ExternalName":
        return None
    return workload_pb2.Service(
        name=service.metadata.name,
        namespace=service.metadata.namespace,
        hostname=mesh.hostname(service),
        addresses=[
            workload_pb2.NetworkAddress(network=mesh.network, address=ip.packed(address))
            for address in virtual_addresses(service)
        ],
        ports=service_ports(service),
        load_balancing=_load_balancing(service),
        ip_families=_FAMILIES.get(frozenset(service.spec.ip_families), workload_pb2.AUTOMATIC),
        canonical=True,
        waypoint=waypoint,
        ingress_use_waypoint=ingress_use_waypoint,
    )


def virtual_addresses(service: Service) -> tuple[str, ...]:
    """Return the cluster addresses; none for a headless service."""
    listed = service.spec.cluster_ips or (service.spec.cluster_ip,)
    return tuple(address for address in listed if address not in {"", "None"})


def distribution(service: Service) -> str:
    """Return which endpoints a service wants to be preferred, as ``PreferSameZone``; empty: none."""
    return service.spec.traffic_distribution or service.metadata.annotations.get(_TRAFFIC_DISTRIBUTION_ANNOTATION, "")


def _load_balancing(service: Service) -> workload_pb2.LoadBalancing | None:
    spec = service.spec
    result = workload_pb2.LoadBalancing()
    wanted = distribution(service)
    if spec.internal_traffic_policy == "Local":
        result.routing_preference.append(_LB.NODE)
        result.mode = _LB.STRICT
    elif wanted in _PREFERENCES:
        result.routing_preference.extend(_PREFERENCES[wanted])
        result.mode = _LB.FAILOVER
    if spec.publish_not_ready_addresses:
        result.health_policy = _LB.ALLOW_ALL
    return result if result.ByteSize() else None
