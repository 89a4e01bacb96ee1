"""``networking.istio.io``: Sidecar and WorkloadGroup, in full, with Istio's field names.

Source: istio/api, networking/v1alpha3/sidecar.proto and workload_group.proto (v1 and v1beta1 are the same). They are
for proxies in pods and on virtual machines, which this mesh does not have; their status says so.
"""

import re
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field, model_validator

from meshapi.resources import networking
from meshapi.resources.base import LenientModel, ModelObject
from meshapi.resources.destination_rule import ConnectionPool
from meshapi.resources.values import PortNumber, exactly_one

_EGRESS_HOST: Final = re.compile(r"(\*|\.|~|[a-z0-9]([-a-z0-9]*[a-z0-9])?)/(\*|(\*\.)?[A-Za-z0-9_]([-A-Za-z0-9_.]*))")
_ENDPOINT: Final = re.compile(r"((127\.0\.0\.1|0\.0\.0\.0|\[::1\]|\[::\]):\d{1,5}|unix:///?.+)?")


def _egress_host(value: str) -> str:
    if not _EGRESS_HOST.fullmatch(value):
        raise ValueError("is not a host of a namespace; write as ./*, istio-system/* or */api.example.com")
    return value


def _endpoint(value: str) -> str:
    if not _ENDPOINT.fullmatch(value):
        raise ValueError("is not an endpoint of the pod; write as 127.0.0.1:8080 or unix:///path/to/socket")
    return value


class CaptureMode(StrEnum):
    """How traffic reaches a listener."""

    DEFAULT = "DEFAULT"
    IPTABLES = "IPTABLES"
    NONE = "NONE"


class SidecarPort(LenientModel):
    """A port of a listener."""

    number: PortNumber = Field(description="Number.")
    protocol: str = Field(default="", description="HTTP, HTTPS, GRPC, HTTP2, MONGO, TCP or TLS.")
    name: str = Field(default="", description="Name.")
    target_port: int = Field(default=0, description="Deprecated; without effect.")


class IngressListener(LenientModel):
    """A listener for traffic to a pod."""

    port: SidecarPort = Field(description="Its port.")
    bind: str = Field(default="", description="Its address.")
    capture_mode: CaptureMode = Field(default=CaptureMode.DEFAULT, description="How traffic reaches it.")
    default_endpoint: Annotated[str, AfterValidator(_endpoint)] = Field(
        default="", description="Where the traffic goes."
    )
    tls: dict[str, Any] | None = Field(default=None, description="TLS of clients outside of the mesh.")
    connection_pool: ConnectionPool | None = Field(default=None, description="Limits.")


class EgressListener(LenientModel):
    """A listener for traffic of a pod."""

    port: SidecarPort | None = Field(default=None, description="Its port; those of the hosts if not given.")
    bind: str = Field(default="", description="Its address, or a Unix socket.")
    capture_mode: CaptureMode = Field(default=CaptureMode.DEFAULT, description="How traffic reaches it.")
    hosts: tuple[Annotated[str, AfterValidator(_egress_host)], ...] = Field(
        min_length=1, description="Hosts that can be called, as namespace/host."
    )


class OutboundTrafficPolicy(LenientModel):
    """Whether hosts that are not known can be called."""

    mode: str = Field(default="REGISTRY_ONLY", description="REGISTRY_ONLY or ALLOW_ANY.")
    egress_proxy: dict[str, Any] | None = Field(default=None, description="Where such traffic goes.")


class SidecarSpec(LenientModel):
    """What the proxies of a namespace's pods know and take."""

    workload_selector: networking.WorkloadSelector | None = Field(default=None, description="Pods; all if not given.")
    ingress: tuple[IngressListener, ...] = Field(default=(), description="Listeners for traffic to pods.")
    egress: tuple[EgressListener, ...] = Field(default=(), description="Listeners for traffic of pods.")
    inbound_connection_pool: ConnectionPool | None = Field(default=None, description="Limits of traffic to pods.")
    outbound_traffic_policy: OutboundTrafficPolicy | None = Field(default=None, description="Hosts not known.")

    @model_validator(mode="after")
    def _is_consistent(self) -> "SidecarSpec":
        numbers = [listener.port.number for listener in self.ingress]
        if len(set(numbers)) < len(numbers):
            raise ValueError("ingress has two listeners with one port; keep one of them")
        open_ones = [index for index, one in enumerate(self.egress) if one.port is None and not one.bind]
        if open_ones and open_ones != [len(self.egress) - 1]:
            raise ValueError("only the last listener of egress may have neither port nor bind")
        return self


class Sidecar(ModelObject):
    """What the proxies of a namespace's pods know and take."""

    spec: SidecarSpec = SidecarSpec()


class GroupMetadata(LenientModel):
    """Metadata of the WorkloadEntries of a group."""

    labels: dict[str, str] = Field(default_factory=dict, description="Labels.")
    annotations: dict[str, str] = Field(default_factory=dict, description="Annotations.")


class ReadinessProbe(LenientModel):
    """How the health of a group's workloads is checked."""

    initial_delay_seconds: int = Field(default=0, ge=0, description="Before the first check.")
    timeout_seconds: int = Field(default=0, ge=0, description="Of a check.")
    period_seconds: int = Field(default=0, ge=0, description="Between two checks.")
    success_threshold: int = Field(default=0, ge=0, description="Successes until a workload is ready.")
    failure_threshold: int = Field(default=0, ge=0, description="Failures until it is not.")
    http_get: dict[str, Any] | None = Field(default=None, description="A request that must succeed.")
    tcp_socket: dict[str, Any] | None = Field(default=None, description="A connection that must be established.")
    exec: dict[str, Any] | None = Field(default=None, description="A command that must succeed.")
    grpc: dict[str, Any] | None = Field(default=None, description="A call of gRPC's health service.")

    @model_validator(mode="after")
    def _has_one_way(self) -> "ReadinessProbe":
        ways = {"httpGet": self.http_get, "tcpSocket": self.tcp_socket, "exec": self.exec, "grpc": self.grpc}
        exactly_one({name: way is not None for name, way in ways.items()})
        return self


class WorkloadGroupSpec(LenientModel):
    """What WorkloadEntries are made from when workloads register themselves."""

    metadata: GroupMetadata | None = Field(default=None, description="Metadata of the entries.")
    template: networking.WorkloadEntrySpec = Field(description="Content of the entries.")
    probe: ReadinessProbe | None = Field(default=None, description="How their health is checked.")


class WorkloadGroup(ModelObject):
    """What WorkloadEntries are made from when workloads register themselves."""

    spec: WorkloadGroupSpec
