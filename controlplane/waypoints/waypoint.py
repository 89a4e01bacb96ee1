"""From a Gateway to the waypoint that it is."""

import ipaddress
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from meshapi import names
from meshapi.resources.gateway import AddressType, Gateway, GatewayClass, RouteNamespaces
from meshkit.kube import Key

_HBONE: Final = "HBONE"


class Handles(StrEnum):
    """Traffic to what goes through a waypoint: ``istio.io/waypoint-for``."""

    SERVICE = "service"
    WORKLOAD = "workload"
    ALL = "all"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Waypoint:
    """A waypoint that traffic can be sent to.

    Attributes:
        key: of its Gateway.
        class_name: of its Gateway.
        handles: traffic to what goes through it.
        hostname: of its service; empty where its Gateway has only an IP address.
        address: its IP address; used without a hostname.
        allowed: the namespaces from which objects may use it.
        service_account: that its pods run as, in the namespace of its Gateway.
    """

    key: Key
    class_name: str
    handles: Handles
    hostname: str
    address: str
    allowed: RouteNamespaces
    service_account: str

    @property
    def name(self) -> str:
        """Its name as messages have it: ``namespace/name``."""
        return "/".join(self.key)

    def handles_any(self, *wanted: Handles) -> bool:
        """Return whether traffic of one of these kinds goes through it."""
        return self.handles in {Handles.ALL, *wanted}


def of_gateway(gateway: Gateway, gateway_class: GatewayClass | None) -> Waypoint | None:
    """Return the waypoint that a Gateway is; ``None`` while its status has no address: it is not ready.

    Args:
        gateway: the Gateway.
        gateway_class: its class, which may say what waypoints of the class handle.
    """
    waypoint = known(gateway, gateway_class)
    return waypoint if waypoint.hostname or _is_ip(waypoint.address) else None


def known(gateway: Gateway, gateway_class: GatewayClass | None) -> Waypoint:
    """Return the waypoint that a Gateway is or will be; it has no address until a pod of it is ready."""
    return Waypoint(
        key=gateway.key,
        class_name=gateway.spec.gateway_class_name,
        handles=_handles(gateway, gateway_class),
        hostname=_first(gateway, AddressType.HOSTNAME),
        address=_first(gateway, AddressType.IP),
        allowed=_allowed(gateway),
        service_account=service_account(gateway),
    )


def service_account(gateway: Gateway) -> str:
    """Return the service account of a waypoint's pods."""
    return gateway.metadata.annotations.get(names.GATEWAY_SERVICE_ACCOUNT_ANNOTATION, "") or gateway.metadata.name


def _handles(gateway: Gateway, gateway_class: GatewayClass | None) -> Handles:
    """Return what the Gateway's label says, else its class's; an unknown word is no traffic at all."""
    of_class = gateway_class.metadata.labels if gateway_class is not None else {}
    given = gateway.metadata.labels.get(names.WAYPOINT_FOR_LABEL) or of_class.get(names.WAYPOINT_FOR_LABEL)
    try:
        return Handles(given or Handles.SERVICE)
    except ValueError:
        return Handles.NONE


def _allowed(gateway: Gateway) -> RouteNamespaces:
    for listener in gateway.spec.listeners:
        if listener.protocol == _HBONE and listener.port == names.HBONE_PORT:
            return listener.allowed_routes.namespaces
    return RouteNamespaces()


def _first(gateway: Gateway, wanted: AddressType) -> str:
    return next((item.value for item in gateway.status.addresses if item.type == wanted and item.value), "")


def _is_ip(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True
