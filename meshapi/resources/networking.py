"""``networking.istio.io``: ServiceEntry and WorkloadEntry, in full, with Istio's field names.

Source: istio/api, networking/v1/service_entry.proto and workload_entry.proto (v1, v1beta1 and v1alpha3 are the same).
What could never mean anything is refused here, so that translation need not check again.
"""

import ipaddress
import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from meshapi.resources.base import IpBlock, LenientModel, ModelObject
from meshapi.resources.values import PortNumber, port

_LABEL = r"[A-Za-z0-9_]([-A-Za-z0-9_]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*\.?")
_MAX_HOST = 253
_MOST = 500_000
_MOST_OF_ONE = 10_000


def _host(value: str) -> str:
    if len(value) > _MAX_HOST or not _HOST.fullmatch(value):
        raise ValueError("is not a host name; write as api.example.com or *.example.com")
    return value.rstrip(".").lower()


def _target(value: int) -> int:
    return port(value) if value else 0


Host = Annotated[str, AfterValidator(_host)]


class ServicePort(LenientModel):
    """A port of an entry's hosts."""

    number: PortNumber = Field(description="Port that clients connect to.")
    protocol: str = Field(default="", description="HTTP, HTTPS, GRPC, HTTP2, MONGO, TCP or TLS.")
    name: str = Field(default="", description="Name of the port.")
    target_port: Annotated[int, AfterValidator(_target)] = Field(
        default=0, description="Port of the endpoints; the same where it is not given."
    )


class WorkloadEntrySpec(LenientModel):
    """One workload that is no pod."""

    address: str = Field(default="", description="IP address, or host name with resolution DNS.")
    ports: dict[str, int] = Field(default_factory=dict, description="The workload's number for a named port.")
    labels: dict[str, str] = Field(default_factory=dict, description="Labels, for selectors.")
    network: str = Field(default="", description="Network that the address belongs to.")
    locality: str = Field(default="", description="Place, as region/zone/subzone.")
    weight: int = Field(default=0, ge=0, description="Share of the load, relative to other endpoints.")
    service_account: str = Field(default="", description="Service account that the workload runs as.")

    @property
    def ip(self) -> str:
        """The address where it is an IP address, else nothing."""
        try:
            return str(ipaddress.ip_address(self.address))
        except ValueError:
            return ""


class WorkloadSelector(LenientModel):
    """Chooses pods and WorkloadEntries of the namespace by their labels."""

    labels: dict[str, str] = Field(default_factory=dict, description="Labels that they must have, all of them.")


class Location(StrEnum):
    """Whether the hosts are part of the mesh."""

    MESH_EXTERNAL = "MESH_EXTERNAL"
    MESH_INTERNAL = "MESH_INTERNAL"


class Resolution(StrEnum):
    """How endpoints are found."""

    NONE = "NONE"
    STATIC = "STATIC"
    DNS = "DNS"
    DNS_ROUND_ROBIN = "DNS_ROUND_ROBIN"
    DYNAMIC_DNS = "DYNAMIC_DNS"


class ServiceEntrySpec(LenientModel):
    """Hosts outside of Kubernetes that the mesh knows."""

    hosts: tuple[Host, ...] = Field(description="Host names; the first label may be * alone.")
    addresses: tuple[IpBlock, ...] = Field(default=(), description="Virtual addresses or CIDRs of the hosts.")
    ports: tuple[ServicePort, ...] = Field(default=(), description="Ports of the hosts.")
    location: Location = Field(default=Location.MESH_EXTERNAL, description="Whether the hosts are part of the mesh.")
    resolution: Resolution = Field(default=Resolution.NONE, description="How endpoints are found.")
    endpoints: tuple[WorkloadEntrySpec, ...] = Field(default=(), description="Endpoints of the hosts.")
    workload_selector: WorkloadSelector | None = Field(default=None, description="Workloads that are endpoints.")
    export_to: tuple[str, ...] = Field(default=(), description="Namespaces that see the hosts: * (all) or . (own).")
    subject_alt_names: tuple[str, ...] = Field(default=(), description="Identities that endpoints may have.")

    @model_validator(mode="after")
    def _is_consistent(self) -> "ServiceEntrySpec":
        if not self.hosts:
            raise ValueError("hosts is empty; name at least one host")
        if self.workload_selector is not None and self.endpoints:
            raise ValueError("workloadSelector and endpoints exclude each other; keep one of them")
        if self.resolution is Resolution.NONE and self.endpoints:
            raise ValueError("endpoints need a resolution; set resolution to STATIC or DNS")
        for number, endpoint in enumerate(self.endpoints):
            if self.resolution is Resolution.STATIC and not endpoint.ip:
                raise ValueError(
                    f"endpoints[{number}].address {endpoint.address!r} is no IP address; set resolution to DNS"
                )
        for fields, size, most in self._sizes():
            if size > most:
                raise ValueError(f"{fields} make {size:,} combinations, at most {most:,} are taken; divide the entry")
        return self

    def _sizes(self) -> Iterator[tuple[str, int, int]]:
        """What is computed of the entry: everything else is bounded by the size of an object, this is a product.

        Half a million cost the control plane about a second, and proxies some megabytes.
        """
        hosts, ports = len(self.hosts), 1 + len(self.ports)
        yield "hosts, addresses and ports", hosts * (len(self.addresses) + ports), _MOST
        yield "hosts, endpoints and ports", hosts * len(self.endpoints) * ports, _MOST
        if self.workload_selector is not None:
            yield "hosts and ports of each chosen workload", hosts * ports, _MOST_OF_ONE


class AllocatedAddress(LenientModel):
    """A virtual address that the control plane gave to a host."""

    value: str = Field(default="", description="The address.")
    host: str = Field(default="", description="The host.")


class ServiceEntryStatus(LenientModel):
    """Status that the control plane writes to an entry."""

    addresses: tuple[AllocatedAddress, ...] = ()


class ServiceEntry(ModelObject):
    """Hosts outside Kubernetes, or workloads that are no pods."""

    spec: ServiceEntrySpec
    status: ServiceEntryStatus = ServiceEntryStatus()


class WorkloadEntry(ModelObject):
    """One workload that is no pod."""

    spec: WorkloadEntrySpec = WorkloadEntrySpec()
