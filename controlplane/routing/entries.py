"""Hosts of ServiceEntries as services, and their endpoints. Pure. Facts: Istio's ``serviceentry/conversion.go``."""

from collections.abc import Iterable, Iterator
from typing import Final

from controlplane.ambient.service_entries import entry_ports, kubernetes_ports
from controlplane.inputs.mesh import MeshContext
from controlplane.routing.services import (
    Discovery,
    Endpoint,
    Locality,
    Port,
    Protocol,
    Service,
    Targets,
    described,
    of_selected,
    protocol,
)
from meshapi.resources import core
from meshapi.resources.networking import (
    Location,
    Resolution,
    ServiceEntry,
    ServicePort,
    WorkloadEntry,
    WorkloadEntrySpec,
)

KIND: Final = "ServiceEntry"
_DISCOVERY: Final = {
    Resolution.NONE: Discovery.CALLED,
    Resolution.STATIC: Discovery.LISTED,
    Resolution.DNS: Discovery.DNS,
    Resolution.DNS_ROUND_ROBIN: Discovery.DNS_ROUND_ROBIN,
    Resolution.DYNAMIC_DNS: Discovery.NAMED,
}


def of_entry(entry: ServiceEntry, *, is_private: bool = False) -> tuple[Service, ...]:
    """Return a service for each host. A wildcard is one service: it has the addresses of all names below it."""
    ports = tuple(_port(port) for port in entry.spec.ports if port.protocol.upper() != "UDP")
    allocated: dict[str, list[str]] = {}
    for item in entry.status.addresses:
        allocated.setdefault(item.host, []).append(item.value)
    discovery = _DISCOVERY[entry.spec.resolution]
    return tuple(
        Service(
            KIND,
            entry.key,
            host,
            entry.spec.addresses or tuple(allocated.get(host, ())),
            ports,
            discovery,
            is_private=is_private,
            is_external=entry.spec.location is Location.MESH_EXTERNAL,
        )
        for host in entry.spec.hosts
    )


def problems(entry: ServiceEntry) -> Iterator[str]:
    """Yield what of an entry no waypoint can do."""
    if entry.spec.resolution is not Resolution.DYNAMIC_DNS:
        return
    for index, port in enumerate(entry.spec.ports):
        found = _port(port).protocol
        if not (found.is_http or found is Protocol.TLS):
            why = "with DYNAMIC_DNS only TLS with a server name is served; declare HTTP or TLS"
            yield f"spec.ports[{index}] {port.number} ({found.value}): {why}"
    if entry.spec.endpoints or entry.spec.workload_selector is not None:
        yield "spec.endpoints and spec.workloadSelector have no effect with DYNAMIC_DNS; use STATIC or DNS"


def listed(entry: ServiceEntry, host: str, mesh: MeshContext) -> Iterator[Endpoint]:
    """Yield the endpoints that an entry lists; by DNS and without any, the host is its own."""
    for endpoint in entry.spec.endpoints:
        yield _of_spec(entry, endpoint, entry.metadata.name, mesh)
    by_dns = entry.spec.resolution in {Resolution.DNS, Resolution.DNS_ROUND_ROBIN} and not host.startswith("*")
    if by_dns and not entry.spec.endpoints and entry.spec.workload_selector is None:
        yield Endpoint(host, _targets(entry, {}), workload=_unknown(mesh))


def selected(
    entry: ServiceEntry,
    pods: Iterable[tuple[core.Pod, core.Node | None]],
    entries: Iterable[WorkloadEntry],
    mesh: MeshContext,
) -> Iterator[Endpoint]:
    """Yield the endpoints that an entry selects."""
    for pod, node in pods:
        if pod.is_terminal or not pod.addresses:
            continue
        yield of_selected(pod, node, _targets(entry, {}), mesh)
    for item in entries:
        if item.spec.address:
            yield _of_spec(entry, item.spec, item.metadata.name, mesh)


def of_service(service: core.Service, item: WorkloadEntry, mesh: MeshContext) -> Endpoint | None:
    """Return a WorkloadEntry as an endpoint of a Kubernetes service that selects it; ``None`` for one without an IP."""
    if not item.spec.ip:
        return None
    targets = tuple((port.service_port, port.target_port) for port in kubernetes_ports(service, item).ports)
    return _endpoint(item.spec, targets, item.metadata.name, item.metadata.namespace, mesh)


def _of_spec(entry: ServiceEntry, spec: WorkloadEntrySpec, name: str, mesh: MeshContext) -> Endpoint:
    return _endpoint(spec, _targets(entry, spec.ports), name, entry.metadata.namespace, mesh)


def _endpoint(spec: WorkloadEntrySpec, targets: Targets, name: str, namespace: str, mesh: MeshContext) -> Endpoint:
    place = (*spec.locality.split("/"), "", "", "")[:3]
    return Endpoint(
        address=spec.ip or spec.address,
        targets=targets,
        labels=frozenset(spec.labels.items()),
        weight=spec.weight or 1,
        locality=Locality(*place),
        workload=described(name, namespace, spec.labels, mesh),
    )


def _targets(entry: ServiceEntry, given: dict[str, int]) -> Targets:
    return tuple((port.service_port, port.target_port) for port in entry_ports(entry, given).ports)


def _unknown(mesh: MeshContext) -> tuple[str, ...]:
    return ("unknown", "unknown", "unknown", "unknown", mesh.cluster_id)


def _port(port: ServicePort) -> Port:
    """Return a port: its protocol is declared, else its name says it."""
    word = port.protocol.lower()
    found = protocol("", word) if word else protocol(port.name, "")
    return Port(
        port.number, port.name, Protocol.TCP if word in _AS_TCP else found, target=port.target_port or port.number
    )


_AS_TCP: Final = frozenset({"mongo", "redis", "mysql"})
