"""Pods, services, endpoint slices, namespaces and nodes: the fields that the mesh reads.

Source: Kubernetes API reference, core/v1 and discovery.k8s.io/v1.
"""

from pydantic import Field

from meshapi.resources.base import Model, Object


class ContainerPort(Model):
    """A port that a container names."""

    name: str = ""
    container_port: int
    protocol: str = "TCP"


class Container(Model):
    """A container's ports."""

    name: str = ""
    ports: tuple[ContainerPort, ...] = ()


class PodSpec(Model):
    """Where a pod runs and as whom."""

    node_name: str = ""
    service_account_name: str = "default"
    host_network: bool = False
    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()


class PodIP(Model):
    """One address of a pod."""

    ip: str = ""


class Condition(Model):
    """One condition of a status; ``status`` is ``True``, ``False`` or ``Unknown``."""

    type: str
    status: str


class PodStatus(Model):
    """Addresses and health of a pod."""

    phase: str = ""
    pod_ip: str = Field(default="", alias="podIP")
    pod_ips: tuple[PodIP, ...] = Field(default=(), alias="podIPs")
    conditions: tuple[Condition, ...] = ()


class Pod(Object):
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


class ServicePort(Model):
    """A port of a service; ``target_port`` is a number or the name of a container's port."""

    name: str = ""
    port: int
    protocol: str = "TCP"
    target_port: int | str = 0
    app_protocol: str = ""


class ServiceSpec(Model):
    """What a service is reached by and where it leads."""

    type: str = "ClusterIP"
    selector: dict[str, str] = Field(default_factory=dict)
    ports: tuple[ServicePort, ...] = ()
    cluster_ip: str = Field(default="", alias="clusterIP")
    cluster_ips: tuple[str, ...] = Field(default=(), alias="clusterIPs")
    ip_families: tuple[str, ...] = ()
    internal_traffic_policy: str = ""
    traffic_distribution: str = ""
    publish_not_ready_addresses: bool = False


class Service(Object):
    """A service."""

    spec: ServiceSpec = ServiceSpec()


class ObjectReference(Model):
    """A reference to an object."""

    kind: str = ""
    name: str = ""
    namespace: str = ""


class EndpointConditions(Model):
    """Health of an endpoint; absent means unknown, to be taken as ready."""

    ready: bool = True


class Endpoint(Model):
    """One endpoint; its addresses are interchangeable."""

    addresses: tuple[str, ...] = ()
    conditions: EndpointConditions = EndpointConditions()
    target_ref: ObjectReference | None = None
    node_name: str = ""
    zone: str = ""


class EndpointPort(Model):
    """A port of all endpoints of a slice, under the name that the service gives it."""

    name: str = ""
    port: int = 0
    protocol: str = "TCP"


class EndpointSlice(Object):
    """Some endpoints of one service."""

    address_type: str = ""
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[EndpointPort, ...] = ()


class NamespaceStatus(Model):
    """Life of a namespace."""

    phase: str = ""


class Namespace(Object):
    """A namespace."""

    status: NamespaceStatus = NamespaceStatus()


class Node(Object):
    """A node; its labels give its locality."""
