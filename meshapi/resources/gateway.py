"""``gateway.networking.k8s.io``: Gateway and GatewayClass, the fields that the mesh reads.

Source: sigs.k8s.io/gateway-api, apis/v1/gateway_types.go and gatewayclass_types.go. Its own definitions check values at
the API server, so only types are checked here.
"""

from enum import StrEnum
from typing import Final

from pydantic import Field

from meshapi.resources.base import Model, ModelObject
from meshapi.selectors import LabelSelector

GROUP: Final = "gateway.networking.k8s.io"


class FromNamespaces(StrEnum):
    """From which namespaces objects may attach."""

    ALL = "All"
    SAME = "Same"
    SELECTOR = "Selector"
    NONE = "None"


class AddressType(StrEnum):
    """What an address of a Gateway is; further types are domain-prefixed names."""

    IP = "IPAddress"
    HOSTNAME = "Hostname"


class RouteNamespaces(Model):
    """The namespaces from which routes, and with a waypoint services, may attach."""

    from_: FromNamespaces = Field(default=FromNamespaces.SAME, alias="from")
    selector: LabelSelector | None = None


class RouteGroupKind(Model):
    """A kind of routes."""

    kind: str
    group: str = GROUP


class AllowedRoutes(Model):
    """Which routes may attach to a listener; no ``kinds``: those that fit its protocol."""

    namespaces: RouteNamespaces = RouteNamespaces()
    kinds: tuple[RouteGroupKind, ...] = ()


class Listener(Model):
    """One port of a Gateway. ``protocol`` may be a word of the implementation, as Istio's ``HBONE``."""

    name: str
    port: int = 0
    protocol: str = ""
    hostname: str = ""
    allowed_routes: AllowedRoutes = AllowedRoutes()


class Address(Model):
    """An address that a Gateway has or asks for."""

    type: str = AddressType.IP
    value: str = ""


class ParametersReference(Model):
    """An object with parameters of the implementation."""

    group: str
    kind: str
    name: str


class Infrastructure(Model):
    """What is made for a Gateway; absent and empty labels or annotations mean different things to Istio."""

    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    parameters_ref: ParametersReference | None = None


class GatewaySpec(Model):
    """What a Gateway shall be."""

    gateway_class_name: str
    listeners: tuple[Listener, ...] = ()
    addresses: tuple[Address, ...] = ()
    infrastructure: Infrastructure = Infrastructure()


class GatewayStatus(Model):
    """The part of a Gateway's status that waypoints are found by."""

    addresses: tuple[Address, ...] = ()


class Gateway(ModelObject):
    """A proxy that traffic is sent through: a waypoint, or a gateway at the edge of the mesh."""

    spec: GatewaySpec
    status: GatewayStatus = GatewayStatus()


class GatewayClassSpec(Model):
    """Who implements the Gateways of a class."""

    controller_name: str


class GatewayClass(ModelObject):
    """A class of Gateways."""

    spec: GatewayClassSpec
