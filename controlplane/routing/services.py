"""Services and their endpoints, as routing sees them, whichever kind of object they come from."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from controlplane.ambient import services as ambient_services
from controlplane.ambient.ports import pod_ports, protocol_of, slice_ports
from controlplane.ambient.workloads import locality_of, tunnels, workload_name
from controlplane.inputs.mesh import MeshContext
from meshapi import names
from meshapi.analysis import canonical
from meshapi.identity import SpiffeId
from meshapi.proto import workload_pb2
from meshapi.resources import core
from meshkit.kube import Key


class Protocol(Enum):
    """What is spoken on a port."""

    HTTP = "HTTP"
    HTTP2 = "HTTP2"
    GRPC = "GRPC"
    TLS = "TLS"
    TCP = "TCP"
    UNKNOWN = "unknown"
    """Nothing is declared: the first bytes tell HTTP from the rest."""

    @property
    def is_http(self) -> bool:
        """Whether rules for HTTP count."""
        return self not in {Protocol.TCP, Protocol.TLS}

    @property
    def is_http2(self) -> bool:
        """Whether endpoints are spoken to in HTTP/2 in any case."""
        return self in {Protocol.HTTP2, Protocol.GRPC}

    @property
    def is_tcp(self) -> bool:
        """Whether connections may be carried as they are."""
        return self in {Protocol.TCP, Protocol.TLS, Protocol.UNKNOWN}


_PROTOCOLS: Final = {
    workload_pb2.HTTP11: Protocol.HTTP,
    workload_pb2.HTTP2: Protocol.HTTP2,
    workload_pb2.GRPC: Protocol.GRPC,
    workload_pb2.TLS: Protocol.TLS,
    workload_pb2.TCP: Protocol.TCP,
}


class Discovery(Enum):
    """Where the endpoints of a service come from."""

    LISTED = "listed"
    """They are known by address."""
    DNS = "DNS"
    """The proxy resolves their names: all addresses are endpoints."""
    DNS_ROUND_ROBIN = "DNS round robin"
    """The proxy resolves the name for each new connection and takes the first address."""
    CALLED = "called"
    """The address that the client has called."""
    NAMED = "named"
    """The proxy resolves the name that the client sends: the host of a request, or the server name of TLS."""

    @property
    def is_by_dns(self) -> bool:
        """Whether the proxy resolves the names of endpoints."""
        return self in {Discovery.DNS, Discovery.DNS_ROUND_ROBIN}


@dataclass(frozen=True, slots=True)
class Port:
    """A port of a service.

    Attributes:
        number: that clients call.
        name: of the port.
        protocol: what is spoken.
        target: the port that is called where the client sends the name of the endpoint.
    """

    number: int
    name: str = ""
    protocol: Protocol = Protocol.UNKNOWN
    target: int = 0


@dataclass(frozen=True, slots=True)
class Service:
    """A service.

    Attributes:
        kind: of the object that it comes from.
        key: that object.
        host: complete name.
        addresses: virtual ones.
        ports: TCP ports.
        discovery: where its endpoints come from.
        distribution: which endpoints it wants to be preferred, as ``PreferSameZone``.
        is_private: whether only objects of its own namespace may lead to it.
        datagrams: numbers of UDP ports.
        is_external: whether it is outside of the mesh.
    """

    kind: str
    key: Key
    host: str
    addresses: tuple[str, ...] = ()
    ports: tuple[Port, ...] = ()
    discovery: Discovery = Discovery.LISTED
    distribution: str = ""
    is_private: bool = False
    datagrams: tuple[int, ...] = ()
    is_external: bool = False

    @property
    def namespace(self) -> str:
        """Where it is."""
        return self.key[0]

    def is_seen_from(self, namespace: str) -> bool:
        """Return whether objects of a namespace may lead to it."""
        return not self.is_private or namespace == self.namespace

    def port(self, number: int) -> Port | None:
        """Return a port by its number; 0: the only one."""
        if not number:
            return self.ports[0] if len(self.ports) == 1 else None
        return next((port for port in self.ports if port.number == number), None)

    def serves(self, number: int) -> bool:
        """Return whether it has a port; 0: any."""
        return not number or self.port(number) is not None


@dataclass(frozen=True, slots=True)
class Locality:
    """A place."""

    region: str = ""
    zone: str = ""
    subzone: str = ""


Targets = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint of a service.

    Attributes:
        address: IP address, or with discovery by DNS a name.
        targets: by number of the service's port, the endpoint's.
        labels: as pairs.
        has_tunnel: whether it is reached over HBONE.
        is_healthy: whether it may get requests.
        weight: relative to the others'.
        locality: where it is.
        node: name of its node.
        workload: what telemetry says of it: name, namespace, canonical name, canonical revision, cluster.
        identity: SPIFFE ID, where it has one.
        leads_to: address and port that its tunnels lead to, where it is a pod of a waypoint; empty: its own.
    """

    address: str
    targets: Targets
    labels: frozenset[tuple[str, str]] = frozenset()
    has_tunnel: bool = False
    is_healthy: bool = True
    weight: int = 1
    locality: Locality = Locality()
    node: str = ""
    workload: tuple[str, ...] = ()
    identity: str = ""
    leads_to: str = ""

    def target(self, port: int) -> int:
        """Return the endpoint's number of a service's port; 0: it does not serve it."""
        return next((target for number, target in self.targets if number == port), 0)


def of_kubernetes(service: core.Service, mesh: MeshContext) -> Service | None:
    """Return a Kubernetes service; ``None`` for an ``ExternalName``, which is an alias and no more."""
    if service.spec.type == "ExternalName":
        return None
    ports = tuple(Port(port.port, port.name, _protocol(port)) for port in service.spec.ports if port.protocol == "TCP")
    return Service(
        "Service",
        service.key,
        mesh.hostname(service),
        ambient_services.virtual_addresses(service),
        ports,
        distribution=ambient_services.distribution(service),
        datagrams=tuple(port.port for port in service.spec.ports if port.protocol == "UDP"),
    )


def of_pod(service: core.Service, pod: core.Pod, node: core.Node | None, mesh: MeshContext) -> Endpoint | None:
    """Return a pod as an endpoint of a service that selects it; ``None`` while it has no address, or has ended."""
    if pod.is_terminal or not pod.addresses:
        return None
    targets = tuple((port.service_port, port.target_port) for port in pod_ports(service, pod).ports)
    found = of_selected(pod, node, targets, mesh)
    serves_unready = service.spec.publish_not_ready_addresses and not pod.metadata.deletion_timestamp
    return replace(found, is_healthy=True) if serves_unready else found


def of_selected(pod: core.Pod, node: core.Node | None, targets: Targets, mesh: MeshContext) -> Endpoint:
    """Return a pod that has an address as an endpoint of whatever selects it; it may get requests while it is ready."""
    namespace, labels = pod.metadata.namespace, pod.metadata.labels
    place = locality_of(node)
    return Endpoint(
        address=pod.addresses[0],
        targets=targets,
        labels=frozenset(labels.items()),
        has_tunnel=tunnels(pod),
        is_healthy=pod.is_ready,
        locality=Locality() if place is None else Locality(place.region, place.zone, place.subzone),
        node=pod.spec.node_name,
        workload=described(workload_name(pod), namespace, labels, mesh),
        identity=str(SpiffeId(mesh.trust_domain, namespace, pod.spec.service_account_name)),
    )


def beside_pods(endpoints: core.EndpointSlice, _: object) -> core.EndpointSlice | None:
    """Return a slice that lists more than the pods that a service selects: one of users, or of other controllers."""
    if endpoints.address_type not in {"IPv4", "IPv6"}:
        return None
    is_written_by_others = endpoints.metadata.labels.get(names.SLICE_MANAGER_LABEL) != names.SLICE_MANAGER
    return endpoints if is_written_by_others or any(_is_no_pod(one) for one in endpoints.endpoints) else None


def of_slice(
    service: core.Service,
    endpoints: core.EndpointSlice,
    mesh: MeshContext,
    pod: Callable[[str], tuple[core.Pod, core.Node | None] | None],
) -> Iterator[Endpoint]:
    """Yield the endpoints of a service's slice that are no pods; of a service without selector, those that are, too.

    Args:
        service: the service.
        endpoints: the slice.
        mesh: the mesh.
        pod: returns a pod of the service's namespace, and its node.
    """
    targets = tuple((port.service_port, port.target_port) for port in slice_ports(service, endpoints).ports)
    workload = described(service.metadata.name, service.metadata.namespace, {}, mesh)
    for one in endpoints.endpoints:
        listed = None if one.target_ref is None or _is_no_pod(one) else pod(one.target_ref.name)
        if listed is not None and not service.spec.selector:
            made = of_selected(*listed, targets, mesh)
        elif _is_no_pod(one):
            made = Endpoint("", targets, workload=workload)
        else:
            continue
        yield from (replace(made, address=address, is_healthy=one.conditions.ready) for address in one.addresses)


def _is_no_pod(endpoint: core.Endpoint) -> bool:
    return endpoint.target_ref is None or endpoint.target_ref.kind != "Pod"


def described(name: str, namespace: str, labels: Mapping[str, str], mesh: MeshContext) -> tuple[str, ...]:
    """Return what telemetry says of a workload."""
    return (name, namespace, canonical.name(labels, name), canonical.revision(labels), mesh.cluster_id)


def protocol(name: str, declared: str) -> Protocol:
    """Return what is spoken on a port, by what is declared, else by its name."""
    return _PROTOCOLS.get(protocol_of(name, declared), Protocol.UNKNOWN)


def _protocol(port: core.ServicePort) -> Protocol:
    found = protocol(port.name, port.app_protocol)
    is_undeclared = found is Protocol.UNKNOWN and not port.app_protocol
    return Protocol.TCP if is_undeclared and port.port in _NEVER_HTTP else found


_NEVER_HTTP: Final = frozenset({25, 53, 3306, 27017})
"""Ports of protocols in which the server speaks first; these are not detected (Istio, "Protocol selection")."""
