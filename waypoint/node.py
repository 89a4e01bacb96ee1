"""How a proxy names itself to the control plane: the node of Envoy's bootstrap. Pure.

Source: istio/istio, ``pkg/bootstrap/config.go`` and ``pkg/model/proxy.go`` (node metadata).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

from waypoint.settings import WaypointSettings

_META: Final = "ISTIO_META_"
_META_JSON: Final = "ISTIO_METAJSON_"
_TEMPLATE_HASH: Final = "pod-template-hash"


@dataclass(frozen=True, slots=True)
class Node:
    """Envoy's node.

    Attributes:
        id: ``<type>~<ip>~<pod>.<namespace>~<namespace>.svc.<domain>``.
        cluster: ``<service account>.<namespace>``.
        metadata: what the control plane chooses the configuration by.
    """

    id: str
    cluster: str
    metadata: Mapping[str, Any]


def of(
    settings: WaypointSettings,
    environment: Mapping[str, str],
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
) -> Node:
    """Return the node.

    Args:
        settings: of this process.
        environment: variables of this process.
        labels: of its pod.
        annotations: of its pod.
    """
    pod, namespace = settings.pod_name, settings.pod_namespace
    addresses = settings.instance_ip.split(",")
    metadata: dict[str, Any] = {
        **_extra(environment),
        "NAME": pod,
        "NAMESPACE": namespace,
        "INSTANCE_IPS": settings.instance_ip,
        "SERVICE_ACCOUNT": settings.service_account,
        "CLUSTER_ID": settings.cluster_id,
        "LABELS": {name: value for name, value in labels.items() if name != _TEMPLATE_HASH},
        "ANNOTATIONS": dict(annotations),
        "ENVOY_PROMETHEUS_PORT": settings.prometheus_port,
        "ENVOY_STATUS_PORT": settings.readiness_port,
        "ISTIO_VERSION": version("culvert"),
    }
    return Node(
        id=f"{settings.node_type}~{addresses[0]}~{pod}.{namespace}~{namespace}.svc.{settings.cluster_domain}",
        cluster=f"{settings.service_account}.{namespace}",
        metadata=metadata,
    )


def projected(text: str) -> dict[str, str]:
    """Read labels or annotations as Kubernetes projects them into a file: ``key="value"`` lines, quoted as in Go."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {key: _unquoted(value) for key, value in pairs}


def _unquoted(value: str) -> str:
    try:
        return str(json.loads(value))
    except ValueError:
        return value.strip('"')  # an escape that only Go has


def _extra(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the metadata that variables add."""
    found: dict[str, Any] = {
        name.removeprefix(_META): value for name, value in environment.items() if name.startswith(_META)
    }
    for name, value in environment.items():
        if not name.startswith(_META_JSON):
            continue
        try:
            given = json.loads(value)
        except ValueError:
            continue
        if isinstance(given, dict):
            found |= given
    return found
