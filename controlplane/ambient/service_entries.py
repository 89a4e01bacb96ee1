"""From ServiceEntry and WorkloadEntry to services and workloads.

Facts: Istio's ``ambient/services.go`` and ``ambient/workloads.go``.

A host with resolution NONE is only known by name: connections go where the client aims. With DNS and no endpoints the
host is its own endpoint, resolved by the proxy.
"""

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from google.protobuf import wrappers_pb2

from controlplane.ambient import ip
from controlplane.ambient.ports import protocol_of
from controlplane.inputs.mesh import MeshContext
from meshapi import names
from meshapi.analysis import canonical
from meshapi.mesh_config.model import Visibility
from meshapi.proto import workload_pb2
from meshapi.resources.core import Service
from meshapi.resources.networking import Resolution, ServiceEntry, ServicePort, WorkloadEntry, WorkloadEntrySpec

_LB: Final = workload_pb2.LoadBalancing
_ENTRY: Final = "networking.istio.io/ServiceEntry"
_WORKLOAD: Final = "networking.istio.io/WorkloadEntry"
_UDP: Final = frozenset({"UDP"})

Services = Mapping[str, workload_pb2.PortList]
"""By resource name of a service (``namespace/host``): the ports by which it reaches a workload."""


def service_name(entry: ServiceEntry, host: str) -> str:
    """Return the resource name of one of an entry's hosts."""
    return f"{entry.metadata.namespace}/{host}"


def translate_hosts(
    entry: ServiceEntry,
    hosts: Iterable[str],
    mesh: MeshContext,
    *,
    canonical: frozenset[str],
    visibility: Visibility = Visibility.PUBLIC,
    waypoint: workload_pb2.GatewayAddress | None = None,
    ingress_use_waypoint: bool = False,
) -> list[workload_pb2.Service]:
    """Return a service for each host.

    Args:
        entry: the entry.
        hosts: those of its hosts that are not another object's.
        mesh: the mesh.
        canonical: hosts for which the entry is the one that other namespaces see.
        visibility: who sees the hosts.
        waypoint: that connections to them go through.
        ingress_use_waypoint: whether those of gateways do, too.
    """
    passes = entry.spec.resolution is Resolution.NONE
    balancing = _LB(mode=_LB.PASSTHROUGH, health_policy=_LB.ALLOW_ALL) if passes else None
    own = visibility is Visibility.NAMESPACE
    # What is the same for all hosts is made once: there may be many of each. A host's addresses are the entry's own,
    # else those that were allocated.
    ports = [_port(port, target=port.target_port or port.number) for port in _tcp_ports(entry)]
    given = [_network_address(address, mesh) for address in entry.spec.addresses]
    allocated: dict[str, list[str]] = {}
    for item in entry.status.addresses:
        allocated.setdefault(item.host, []).append(item.value)
    return [
        workload_pb2.Service(
            name=entry.metadata.name,
            namespace=entry.metadata.namespace,
            hostname=host,
            addresses=given or [_network_address(address, mesh) for address in allocated.get(host, ())],
            ports=ports,
            subject_alt_names=entry.spec.subject_alt_names,
            load_balancing=balancing,
            canonical=host in canonical,
            visibility=workload_pb2.Service.NAMESPACE if own else workload_pb2.Service.PUBLIC,
            waypoint=waypoint,
            ingress_use_waypoint=ingress_use_waypoint,
        )
        for host in hosts
    ]


def wants_addresses(entry: ServiceEntry) -> list[str]:
    """Return the hosts that need a virtual address (Istio, "ServiceEntry address auto-allocation").

    A wildcard has one for all names below it, where a waypoint then goes by the name that the client sends.
    """
    opted_out = entry.metadata.labels.get(names.AUTO_ALLOCATE_LABEL, "").lower() == "false"
    if opted_out or entry.spec.addresses or entry.spec.resolution is Resolution.NONE:
        return []
    by_name = entry.spec.resolution is Resolution.DYNAMIC_DNS
    return [host for host in entry.spec.hosts if by_name or not host.startswith("*")]


def translate_endpoints(
    entry: ServiceEntry, hosts: Sequence[str], mesh: MeshContext, waypoint: workload_pb2.GatewayAddress | None = None
) -> list[workload_pb2.Workload]:
    """Return workloads for the endpoints that the entry lists, or for hosts that are their own endpoints.

    ``waypoint`` is what connections to their own addresses go through.
    """
    name = entry.metadata.name
    by_dns = entry.spec.resolution not in {Resolution.NONE, Resolution.STATIC}
    found = {}
    for endpoint in entry.spec.endpoints:
        services = dict.fromkeys((service_name(entry, host) for host in hosts), entry_ports(entry, endpoint.ports))
        workload = _workload(entry.metadata.namespace, name, endpoint, services, mesh)
        found[endpoint.address] = workload
    if by_dns and not entry.spec.endpoints and entry.spec.workload_selector is None:
        for host in hosts:
            if not host.startswith("*"):
                services = {service_name(entry, host): entry_ports(entry, {})}
                itself = WorkloadEntrySpec(address=host)
                found[host] = _workload(entry.metadata.namespace, name, itself, services, mesh)
    for address, workload in found.items():
        workload.uid = f"{mesh.cluster_id}/{_ENTRY}/{entry.metadata.namespace}/{name}/{address}"
        if waypoint is not None:
            workload.waypoint.CopyFrom(waypoint)
    return list(found.values())


def translate_workload(
    entry: WorkloadEntry,
    mesh: MeshContext,
    *,
    services: Services,
    policies: Sequence[str],
    waypoint: workload_pb2.GatewayAddress | None = None,
) -> workload_pb2.Workload | None:
    """Return the workload of a WorkloadEntry; ``None`` for one without an address.

    Args:
        entry: the entry.
        mesh: the mesh.
        services: those that select it.
        policies: names of the policies that select it.
        waypoint: that connections to its own address go through.
    """
    if not entry.spec.address:
        return None
    namespace, name = entry.key
    workload = _workload(namespace, name, entry.spec, services, mesh)
    workload.uid = f"{mesh.cluster_id}/{_WORKLOAD}/{namespace}/{name}"
    workload.authorization_policies.extend(policies)
    if waypoint is not None:
        workload.waypoint.CopyFrom(waypoint)
    return workload


def entry_ports(entry: ServiceEntry, given: Mapping[str, int]) -> workload_pb2.PortList:
    """Return the ports by which an entry reaches a workload; ``given`` are the workload's own, by name."""
    return workload_pb2.PortList(
        ports=[_port(port, given.get(port.name) or port.target_port or port.number) for port in _tcp_ports(entry)]
    )


def kubernetes_ports(service: Service, entry: WorkloadEntry) -> workload_pb2.PortList:
    """Return the ports by which a Kubernetes service reaches a WorkloadEntry; a name that it lacks is left out."""
    result = workload_pb2.PortList()
    for port in service.spec.ports:
        target = port.target_port or port.port
        if isinstance(target, str):
            target = int(target) if target.isdecimal() else entry.spec.ports.get(target, 0)
        number = entry.spec.ports.get(port.name) or target
        if port.protocol == "TCP" and number:
            protocol = protocol_of(port.name, port.app_protocol)
            result.ports.add(service_port=port.port, target_port=number, app_protocol=protocol)
    return result


def _workload(
    namespace: str, name: str, spec: WorkloadEntrySpec, services: Services, mesh: MeshContext
) -> workload_pb2.Workload:
    labels = spec.labels
    tunnelled = labels.get(names.TUNNEL_LABEL) == names.TUNNEL_LABEL_HTTP
    region, zone, subzone = (*spec.locality.split("/"), "", "", "")[:3]
    return workload_pb2.Workload(
        name=name,
        namespace=namespace,
        addresses=[ip.packed(spec.ip)] if spec.ip else [],
        hostname="" if spec.ip else spec.address,
        network=spec.network or labels.get(names.NETWORK_LABEL, mesh.network),
        tunnel_protocol=workload_pb2.HBONE if tunnelled else workload_pb2.NONE,
        native_tunnel=tunnelled,
        trust_domain=mesh.wire_trust_domain,
        service_account=spec.service_account,
        canonical_name=canonical.name(labels, name),
        canonical_revision=canonical.revision(labels),
        workload_type=workload_pb2.POD,
        workload_name=name,
        services=services,
        status=workload_pb2.HEALTHY,
        cluster_id=mesh.cluster_id,
        locality=workload_pb2.Locality(region=region, zone=zone, subzone=subzone) if region else None,
        capacity=wrappers_pb2.UInt32Value(value=spec.weight) if spec.weight else None,
    )


def _tcp_ports(entry: ServiceEntry) -> list[ServicePort]:
    return [port for port in entry.spec.ports if port.protocol.upper() not in _UDP]


def _port(port: ServicePort, target: int) -> workload_pb2.Port:
    protocol = protocol_of(port.protocol.lower(), "")
    return workload_pb2.Port(service_port=port.number, target_port=target, app_protocol=protocol)


def _network_address(address: str, mesh: MeshContext) -> workload_pb2.NetworkAddress:
    network = ipaddress.ip_network(address, strict=False)
    result = workload_pb2.NetworkAddress(network=mesh.network, address=network.network_address.packed)
    if network.prefixlen < network.max_prefixlen:
        result.length = network.prefixlen
    return result
