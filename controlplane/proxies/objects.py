"""The objects of a waypoint or a gateway, as they shall be. Pure.

Names, labels, annotations, ports and mounts are the same as Istio's, so that overlays, dashboards and policies that
users wrote for Istio fit. Source: istio/istio, ``files/waypoint.yaml`` and ``files/kube-gateway.yaml`` of the chart
``istio-discovery``.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from controlplane.gateways import reading
from controlplane.gateways.classes import EDGE, WAYPOINT, ProxyClass
from controlplane.inputs.mesh import MeshContext
from controlplane.proxies import pods
from controlplane.proxies.defaults import ProxyDefaults
from controlplane.waypoints.waypoint import service_account
from meshapi import names
from meshapi.resources.gateway import GROUP, AddressType, Gateway
from meshkit.kube import Json, Kind, kinds

_STATUS_PORT: Final = "status-port"
_MOST_OF_NAME: Final = 63
_NOT_COPIED: Final = frozenset(
    {
        "kubectl.kubernetes.io/last-applied-configuration",
        names.GATEWAY_NAME_ANNOTATION,
        names.GATEWAY_SERVICE_ACCOUNT_ANNOTATION,
        names.GATEWAY_CONTROLLER_VERSION_ANNOTATION,
    }
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """One object.

    Attributes:
        kind: its kind.
        overlay: key by which a config map patches it.
        body: metadata and spec; the kind is not repeated.
        is_optional: whether it exists only where an overlay is written for it.
    """

    kind: Kind
    overlay: str
    body: Json
    is_optional: bool = False

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.body["metadata"]["name"])


@dataclass(frozen=True, slots=True)
class ServicePort:
    """A port of a proxy's Service.

    Attributes:
        name: of the listener.
        number: of the Service and of the pods.
        protocol: of the listener.
    """

    name: str
    number: int
    protocol: str


def render(
    gateway: Gateway, kind: ProxyClass, mesh: MeshContext, defaults: ProxyDefaults, ports: Iterable[ServicePort]
) -> list[Wanted]:
    """Return the objects of a waypoint or a gateway, before overlays."""
    name, account = deployment_name(gateway, kind), account_name(gateway, kind)
    labels, annotations = _labels(gateway, kind, mesh), _annotations(gateway)
    template = pods.template(
        gateway, kind, mesh, defaults, name=name, account=account, labels=labels, annotations=annotations
    )
    selector = {"matchLabels": {names.GATEWAY_NAME_LABEL: gateway.metadata.name}}
    near = {"networking.istio.io/traffic-distribution": "PreferClose"} if kind is WAYPOINT else {}
    scaled = {"apiVersion": kinds.DEPLOYMENT.api_version, "kind": kinds.DEPLOYMENT.name, "name": name}

    def metadata(of: str = name, notes: dict[str, str] = annotations) -> Json:
        return {
            "name": of,
            "namespace": gateway.metadata.namespace,
            "labels": labels,
            "annotations": notes,
            "ownerReferences": [_owner(gateway)],
        }

    return [
        Wanted(kinds.SERVICE_ACCOUNT, "serviceAccount", {"metadata": metadata(account)}),
        Wanted(
            kinds.DEPLOYMENT,
            "deployment",
            {"metadata": metadata(), "spec": {"selector": selector, "template": template, "strategy": _STRATEGY}},
        ),
        Wanted(
            kinds.SERVICE,
            "service",
            {"metadata": metadata(notes={**near, **annotations}), "spec": _service(gateway, kind, selector, ports)},
        ),
        Wanted(
            kinds.HORIZONTAL_POD_AUTOSCALER,
            "horizontalPodAutoscaler",
            {"metadata": metadata(), "spec": {"scaleTargetRef": scaled, "maxReplicas": 1}},
            is_optional=True,
        ),
        Wanted(
            kinds.POD_DISRUPTION_BUDGET,
            "podDisruptionBudget",
            {"metadata": metadata(), "spec": {"selector": selector}},
            is_optional=True,
        ),
    ]


_STRATEGY: Final[Json] = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0}}
"""A new pod first: a rollout never takes capacity away."""


def deployment_name(gateway: Gateway, kind: ProxyClass) -> str:
    """Return the name of the Deployment and Service."""
    if kind is EDGE:
        return reading.object_name(gateway)
    return gateway.metadata.annotations.get(names.GATEWAY_NAME_ANNOTATION, "") or gateway.metadata.name


def account_name(gateway: Gateway, kind: ProxyClass) -> str:
    """Return the name of the service account."""
    return reading.service_account(gateway) if kind is EDGE else service_account(gateway)


def ports_of(gateway: Gateway) -> tuple[ServicePort, ...]:
    """Return the ports of a Gateway's own listeners."""
    return tuple(ServicePort(one.name, one.port, one.protocol) for one in gateway.spec.listeners)


def _labels(gateway: Gateway, kind: ProxyClass, mesh: MeshContext) -> dict[str, str]:
    found = _infrastructure(gateway.spec.infrastructure.labels, gateway.metadata.labels)
    if mesh.network:
        found.setdefault(names.NETWORK_LABEL, mesh.network)
    older = {names.ISTIO_GATEWAY_NAME_LABEL: gateway.metadata.name} if kind is EDGE else {}
    return {
        **found,
        **older,
        names.GATEWAY_NAME_LABEL: gateway.metadata.name,
        names.GATEWAY_CLASS_LABEL: gateway.spec.gateway_class_name,
        names.GATEWAY_MANAGED_LABEL: kind.managed,
    }


def _annotations(gateway: Gateway) -> dict[str, str]:
    found = _infrastructure(gateway.spec.infrastructure.annotations, gateway.metadata.annotations)
    return {name: value for name, value in found.items() if name not in _NOT_COPIED}


def _infrastructure(given: dict[str, str] | None, own: dict[str, str]) -> dict[str, str]:
    """Return what ``spec.infrastructure`` gives, without names of the API itself; else the Gateway's own."""
    if given is None:
        return dict(own)
    return {name: value for name, value in given.items() if not name.startswith(f"{GROUP}/")}


def _owner(gateway: Gateway) -> Json:
    return {
        "apiVersion": kinds.GATEWAY.api_version,
        "kind": kinds.GATEWAY.name,
        "name": gateway.metadata.name,
        "uid": gateway.metadata.uid,
    }


def _service(gateway: Gateway, kind: ProxyClass, selector: Json, ports: Iterable[ServicePort]) -> Json:
    chosen = gateway.metadata.annotations.get(names.GATEWAY_SERVICE_TYPE_ANNOTATION, "") or kind.service_type
    wanted = [one.value for one in gateway.spec.addresses if one.type == AddressType.IP and one.value]
    return {
        "type": chosen,
        "ipFamilyPolicy": "PreferDualStack",
        "ports": _ports(ports),
        "selector": selector["matchLabels"],
        **({"loadBalancerIP": wanted[0]} if wanted and kind is EDGE else {}),
    }


def _ports(ports: Iterable[ServicePort]) -> list[Json]:
    """Return the port of the probes and one for each listener's port, under the listener's name."""
    found = [_port(_STATUS_PORT, names.READINESS_PORT, "tcp")]
    taken = {_STATUS_PORT}
    numbers = {(names.READINESS_PORT, "TCP")}
    for one in ports:
        transport = "UDP" if one.protocol == "UDP" else "TCP"
        if (one.number, transport) in numbers:
            continue
        name = one.name.replace(".", "-")[:_MOST_OF_NAME]
        if name in taken:
            name = f"{name[: _MOST_OF_NAME - 6]}-{one.number}"
        taken.add(name)
        numbers.add((one.number, transport))
        found.append(_port(name, one.number, one.protocol.lower(), transport))
    return found


def _port(name: str, port: int, protocol: str, transport: str = "TCP") -> Json:
    return {"name": name, "port": port, "protocol": transport, "appProtocol": protocol}
