"""The objects of a waypoint, as they shall be. Pure.

Names, labels, annotations, ports and mounts are the same as in Istio's waypoints, so that overlays, dashboards and
policies that users wrote for Istio fit. Source: istio/istio, ``files/waypoint.yaml`` of the chart ``istio-discovery``.
"""

from dataclasses import dataclass
from typing import Final

from controlplane.inputs.mesh import MeshContext
from controlplane.proxies import pods
from controlplane.proxies.defaults import ProxyDefaults
from controlplane.waypoints.waypoint import service_account
from meshapi import names
from meshapi.resources.gateway import GROUP, Gateway
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


def render(gateway: Gateway, mesh: MeshContext, defaults: ProxyDefaults) -> list[Wanted]:
    """Return the objects of a waypoint, before overlays."""
    name, account = deployment_name(gateway), service_account(gateway)
    labels, annotations = _labels(gateway, mesh), _annotations(gateway)
    template = pods.template(
        gateway, mesh, defaults, name=name, account=account, labels=labels, annotations=annotations
    )
    selector = {"matchLabels": {names.GATEWAY_NAME_LABEL: gateway.metadata.name}}
    traffic = {"networking.istio.io/traffic-distribution": "PreferClose", **annotations}
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
        Wanted(kinds.SERVICE, "service", {"metadata": metadata(notes=traffic), "spec": _service(gateway, selector)}),
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


def deployment_name(gateway: Gateway) -> str:
    """Return the name of a waypoint's Deployment and Service."""
    return gateway.metadata.annotations.get(names.GATEWAY_NAME_ANNOTATION, "") or gateway.metadata.name


def _labels(gateway: Gateway, mesh: MeshContext) -> dict[str, str]:
    found = _infrastructure(gateway.spec.infrastructure.labels, gateway.metadata.labels)
    if mesh.network:
        found.setdefault(names.NETWORK_LABEL, mesh.network)
    return {
        **found,
        names.GATEWAY_NAME_LABEL: gateway.metadata.name,
        names.GATEWAY_CLASS_LABEL: gateway.spec.gateway_class_name,
        names.GATEWAY_MANAGED_LABEL: names.WAYPOINT_MANAGED,
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


def _service(gateway: Gateway, selector: Json) -> Json:
    kind = gateway.metadata.annotations.get(names.GATEWAY_SERVICE_TYPE_ANNOTATION, "ClusterIP")
    return {
        "type": kind,
        "ipFamilyPolicy": "PreferDualStack",
        "ports": _ports(gateway),
        "selector": selector["matchLabels"],
    }


def _ports(gateway: Gateway) -> list[Json]:
    """Return the port of the probes and one for each listener's port, under the listener's name."""
    found = [_port(_STATUS_PORT, names.READINESS_PORT, "tcp")]
    taken = {_STATUS_PORT: names.READINESS_PORT}
    for listener in gateway.spec.listeners:
        if listener.port in taken.values():
            continue
        name = listener.name.replace(".", "-")[:_MOST_OF_NAME]
        if name in taken:
            name = f"{name[: _MOST_OF_NAME - 6]}-{listener.port}"
        taken[name] = listener.port
        found.append(_port(name, listener.port, listener.protocol.lower()))
    return found


def _port(name: str, port: int, protocol: str) -> Json:
    return {"name": name, "port": port, "protocol": "TCP", "appProtocol": protocol}
