"""A large cluster as the Kubernetes API would list it, and its churn. Objects only; another module serves them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from meshapi import names

Json = dict[str, Any]

NAMESPACES = 100
_ENVIRONMENT = [{"name": f"SETTING_{number}", "value": "x" * 40} for number in range(12)]
_MOUNTS = [{"name": "kube-api-access", "mountPath": names.SERVICE_ACCOUNT_DIR, "readOnly": True}]


@dataclass(frozen=True)
class Size:
    """How large."""

    pods: int
    services: int
    nodes: int

    def namespace_of(self, number: int) -> str:
        """Return the namespace of a pod or a service."""
        return f"team-{number % NAMESPACES}"

    def service_of(self, pod: int) -> int:
        """Return the service that a pod belongs to: one of its own namespace."""
        return pod % self.services


def address(number: int) -> str:
    """Return an address of its own for each number below 16 million."""
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def pod(size: Size, number: int, name: str | None = None) -> Json:
    """Return a running, captured pod of some two and a half kilobytes."""
    service = size.service_of(number)
    return {
        "metadata": {
            "name": name or f"app-{service}-7d4b9c6f5d-{number}",
            "namespace": size.namespace_of(number),
            "uid": f"00000000-0000-4000-8000-{number:012d}",
            "labels": {"app": f"app-{service}", "version": "v1", "pod-template-hash": "7d4b9c6f5d"},
            "annotations": {names.REDIRECTION_ANNOTATION: names.REDIRECTION_ENABLED},
            "ownerReferences": [{"kind": "ReplicaSet", "name": f"app-{service}-7d4b9c6f5d", "controller": True}],
        },
        "spec": {
            "nodeName": f"node-{number % size.nodes}",
            "serviceAccountName": f"app-{service}",
            "containers": [
                {
                    "name": "main",
                    "image": f"images.example/team/app-{service}:1.2.3",
                    "ports": [{"name": "http", "containerPort": 8080}],
                    "env": _ENVIRONMENT,
                    "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
                    "volumeMounts": _MOUNTS,
                }
            ],
            "volumes": [{"name": "kube-api-access", "projected": {"defaultMode": 420, "sources": []}}],
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}],
        },
        "status": {
            "phase": "Running",
            "podIP": address(number),
            "podIPs": [{"ip": address(number)}],
            "conditions": [
                {"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
                for kind in ("Initialized", "Ready", "ContainersReady", "PodScheduled")
            ],
        },
    }


def service(size: Size, number: int) -> Json:
    """Return a service with one port."""
    ip = f"172.{16 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"
    return {
        "metadata": {"name": f"app-{number}", "namespace": size.namespace_of(number)},
        "spec": {
            "clusterIP": ip,
            "clusterIPs": [ip],
            "ipFamilies": ["IPv4"],
            "selector": {"app": f"app-{number}"},
            "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
        },
    }


def nodes(size: Size) -> Iterator[Json]:
    """Return nodes in two regions of three zones."""
    for number in range(size.nodes):
        labels = {
            names.REGION_LABEL: f"region-{number % 2}",
            names.ZONE_LABEL: f"zone-{number % 6}",
        }
        yield {"metadata": {"name": f"node-{number}", "labels": labels}}
