"""``gateway.networking.k8s.io``: Gateway, ListenerSet and GatewayClass, the fields that the mesh reads.

Source: sigs.k8s.io/gateway-api, apis/v1/gateway_types.go, listenerset_types.go and gatewayclass_types.go. Its own
definitions check values at the API server, so only types are checked here.
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


class ObjectReference(Model):
    """An object, by default of the namespace of what refers to it."""

    group: str = ""
    kind: str = ""
    name: str
    namespace: str = ""


class SecretReference(ObjectReference):
    """A Secret."""

    kind: str = "Secret"


class TlsMode(StrEnum):
    """What a listener does with TLS."""

    TERMINATE = "Terminate"
    PASSTHROUGH = "Passthrough"


class ListenerTls(Model):
    """TLS of a listener."""

    mode: TlsMode = TlsMode.TERMINATE
    certificate_refs: tuple[SecretReference, ...] = ()
    options: dict[str, str] = Field(default_factory=dict)


class Listener(Model):
    """One port of a Gateway. ``protocol`` may be a word of the implementation, as Istio's ``HBONE``."""

    name: str
    port: int = 0
    protocol: str = ""
    hostname: str = ""
    tls: ListenerTls | None = None
    allowed_routes: AllowedRoutes = AllowedRoutes()


class FrontendMode(StrEnum):
    """What becomes of clients without a valid certificate."""

    VALID_ONLY = "AllowValidOnly"
    INSECURE_FALLBACK = "AllowInsecureFallback"


class FrontendValidation(Model):
    """How clients' certificates are checked."""

    ca_certificate_refs: tuple[ObjectReference, ...] = ()
    mode: FrontendMode = FrontendMode.VALID_ONLY


class FrontendTls(Model):
    """TLS towards clients."""

    validation: FrontendValidation | None = None


class PortTls(Model):
    """TLS towards the clients of a port."""

    port: int
    tls: FrontendTls


class Frontend(Model):
    """TLS towards clients: of all ports, and of single ones instead."""

    default: FrontendTls = FrontendTls()
    per_port: tuple[PortTls, ...] = ()

    def validation(self, port: int) -> FrontendValidation | None:
        """Return how certificates of a port's clients are checked; ``None``: clients need none."""
        return next((one.tls for one in self.per_port if one.port == port), self.default).validation


class BackendTls(Model):
    """TLS towards backends."""

    client_certificate_ref: SecretReference | None = None


class GatewayTls(Model):
    """TLS of a whole Gateway."""

    frontend: Frontend = Frontend()
    backend: BackendTls = BackendTls()


class AllowedListeners(Model):
    """From where ListenerSets may add listeners."""

    namespaces: RouteNamespaces = RouteNamespaces.model_validate({"from": FromNamespaces.NONE})


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
    tls: GatewayTls = GatewayTls()
    allowed_listeners: AllowedListeners = AllowedListeners()


class GatewayStatus(Model):
    """The part of a Gateway's status that waypoints are found by."""

    addresses: tuple[Address, ...] = ()


class Gateway(ModelObject):
    """A proxy that traffic is sent through: a waypoint, or a gateway at the edge of the mesh."""

    spec: GatewaySpec
    status: GatewayStatus = GatewayStatus()


class ListenerSetParent(Model):
    """The Gateway that gets the listeners."""

    group: str = GROUP
    kind: str = "Gateway"
    name: str
    namespace: str = ""


class ListenerSetSpec(Model):
    """Further listeners of a Gateway."""

    parent_ref: ListenerSetParent
    listeners: tuple[Listener, ...] = ()


class ListenerSet(ModelObject):
    """Further listeners of a Gateway, perhaps in another namespace."""

    spec: ListenerSetSpec


class GatewayClassSpec(Model):
    """Who implements the Gateways of a class."""

    controller_name: str


class GatewayClass(ModelObject):
    """A class of Gateways."""

    spec: GatewayClassSpec
