"""The classes of Gateways that the control plane implements. Names are Istio's."""

from dataclasses import dataclass
from typing import Final

from meshapi import names
from meshapi.resources.gateway import Gateway


@dataclass(frozen=True, slots=True)
class ProxyClass:
    """A class.

    Attributes:
        name: of the GatewayClass that the control plane makes; others may name the same controller.
        controller: of classes of this kind.
        description: for users.
        managed: value of the label on what is made for a Gateway; empty: nothing is made.
        node_type: what its proxies call themselves.
        service_type: of the Service, unless an annotation says it.
    """

    name: str
    controller: str
    description: str
    managed: str = ""
    node_type: str = ""
    service_type: str = "ClusterIP"


WAYPOINT: Final = ProxyClass(
    names.WAYPOINT_CLASS,
    names.WAYPOINT_CONTROLLER,
    "Waypoints of Culvert",
    managed=names.WAYPOINT_MANAGED,
    node_type=names.WAYPOINT_NODE,
)
EDGE: Final = ProxyClass(
    names.GATEWAY_CLASS,
    names.GATEWAY_CONTROLLER,
    "Gateways of Culvert",
    managed=names.GATEWAY_MANAGED,
    node_type=names.GATEWAY_NODE,
    service_type="LoadBalancer",
)
REMOTE: Final = ProxyClass(
    names.REMOTE_GATEWAY_CLASS,
    names.REMOTE_GATEWAY_CONTROLLER,
    "Gateways that others run, by their addresses",
)
CLASSES: Final = (WAYPOINT, EDGE, REMOTE)


def by_controller(controller: str) -> ProxyClass | None:
    """Return the class of a controller; ``None``: it is not ours."""
    return next((one for one in CLASSES if one.controller == controller), None)


def by_name(gateway: Gateway) -> ProxyClass | None:
    """Return the class of a Gateway by the class's name alone, for as long as the GatewayClass is not there."""
    return next((one for one in CLASSES if one.name == gateway.spec.gateway_class_name), None)
