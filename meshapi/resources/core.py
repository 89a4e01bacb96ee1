"""Pods, services, endpoint slices, namespaces and nodes: the fields that the mesh reads.

Source: Kubernetes API reference, core/v1 and discovery.k8s.io/v1.
"""

import msgspec

from meshapi.resources.base import BulkObject, Part


class ContainerPort(Part, frozen=True):
    """A port that a container names."""

    container_port: int
    name: str = ""
    protocol: str = "TCP"


class Container(Part, frozen=True):
    """A container's ports."""

    name: str = ""
    ports: tuple[ContainerPort, ...] = ()


class PodSpec(Part, frozen=True):
    """Where a pod runs and as whom."""

    node_name: str = ""
    service_account_name: str = "default"
    host_network: bool = False
    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()


class PodIP(Part, frozen=True):
    """One address of a pod."""

    ip: str = ""


class Condition(Part, frozen=True):
    """One condition of a status; ``status`` is ``True``, ``False`` or ``Unknown``."""

    type: str
    status: str


class PodStatus(Part, frozen=True):
    """Addresses and health of a pod."""

    phase: str = ""
    pod_ip: str = msgspec.field(default="", name="podIP")
    pod_ips: tuple[PodIP, ...] = msgspec.field(default=(), name="podIPs")
    conditions: tuple[Condition, ...] = ()


class Pod(BulkObject, frozen=True):
    """A pod."""

    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def is_terminal(self) -> bool:
        """Whether all its containers have ended for good; its address may already be another's."""
        return self.status.phase in {"Succeeded", "Failed"}

    @property
    def is_ready(self) -> bool:
        """Whether it may get traffic: ready and not being deleted."""
        ready = any(item.type == "Ready" and item.status == "True" for item in self.status.conditions)
        return ready and not self.metadata.deletion_timestamp

    @property
    def addresses(self) -> tuple[str, ...]:
        """Its IP addresses, the primary one first; none before it has a network."""
        listed = tuple(item.ip for item in self.status.pod_ips if item.ip)
        return listed or ((self.status.pod_ip,) if self.status.pod_ip else ())


class ServicePort(Part, frozen=True):
    """A port of a service; ``target_port`` is a number or the name of a container's port."""

    port: int
    name: str = ""
    protocol: str = "TCP"
    target_port: int | str = 0
    app_protocol: str = ""


class ServiceSpec(Part, frozen=True):
    """What a service is reached by and where it leads."""

    type: str = "ClusterIP"
    selector: dict[str, str] = msgspec.field(default_factory=dict)
    ports: tuple[ServicePort, ...] = ()
    cluster_ip: str = msgspec.field(default="", name="clusterIP")
    cluster_ips: tuple[str, ...] = msgspec.field(default=(), name="clusterIPs")
    ip_families: tuple[str, ...] = ()
    internal_traffic_policy: str = ""
    traffic_distribution: str = ""
    publish_not_ready_addresses: bool = False


class LoadBalancerIngress(Part, frozen=True):
    """An address that a load balancer has given: one of both."""

    ip: str = ""
    hostname: str = ""


class LoadBalancerStatus(Part, frozen=True):
    """What a load balancer has given."""

    ingress: tuple[LoadBalancerIngress, ...] = ()


class ServiceStatus(Part, frozen=True):
    """What has been given to a service."""

    load_balancer: LoadBalancerStatus = LoadBalancerStatus()


class Service(BulkObject, frozen=True):
    """A service."""

    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()


class ObjectReference(Part, frozen=True):
    """A reference to an object."""

    kind: str = ""
    name: str = ""
    namespace: str = ""


class EndpointConditions(Part, frozen=True):
    """Health of an endpoint; absent means unknown, to be taken as ready."""

    ready: bool = True


class Endpoint(Part, frozen=True):
    """One endpoint; its addresses are interchangeable."""

    addresses: tuple[str, ...] = ()
    conditions: EndpointConditions = EndpointConditions()
    target_ref: ObjectReference | None = None
    node_name: str = ""
    zone: str = ""


class EndpointPort(Part, frozen=True):
    """A port of all endpoints of a slice, under the name that the service gives it."""

    name: str = ""
    port: int = 0
    protocol: str = "TCP"


class EndpointSlice(BulkObject, frozen=True):
    """Some endpoints of one service."""

    address_type: str = ""
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[EndpointPort, ...] = ()


class NamespaceStatus(Part, frozen=True):
    """Life of a namespace."""

    phase: str = ""


class Namespace(BulkObject, frozen=True):
    """A namespace."""

    status: NamespaceStatus = NamespaceStatus()


class Node(BulkObject, frozen=True):
    """A node; its labels give its locality."""
