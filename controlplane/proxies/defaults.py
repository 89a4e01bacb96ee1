"""What all waypoints of an installation have in common."""

import json
from dataclasses import dataclass, field
from typing import Final

from meshkit.kube import Json

POD_FIELDS: Final = frozenset({"affinity", "topologySpreadConstraints", "nodeSelector", "tolerations"})


@dataclass(frozen=True, slots=True)
class ProxyDefaults:
    """Defaults of waypoints' pods.

    Attributes:
        image: of the container.
        pull_policy: of the image.
        pull_secrets: names of secrets in the waypoint's namespace.
        xds_address: of the control plane, as host:port.
        cluster_id: name of the cluster.
        cluster_domain: suffix of service names.
        log_level: of the host.
        log_format: of the host.
        grace_period_s: time from the request to end until the kill.
        resources: of the container.
        pod: further fields of the pod, as ``nodeSelector``.
    """

    image: str
    xds_address: str
    cluster_id: str
    cluster_domain: str
    pull_policy: str = "IfNotPresent"
    pull_secrets: tuple[str, ...] = ()
    log_level: str = "info"
    log_format: str = "text"
    grace_period_s: int = 30
    resources: Json = field(default_factory=dict)
    pod: Json = field(default_factory=dict)


def read_json(text: str) -> Json:
    """Read a setting that is a JSON object; empty text is an empty object.

    Raises:
        ValueError: it is something else.
    """
    found = json.loads(text or "{}")
    if not isinstance(found, dict):
        raise ValueError("must be a JSON object")
    return found
