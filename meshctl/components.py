"""Culvert's parts in a cluster and how ready they are. Pure: from Kubernetes objects to facts."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from meshapi import names
from meshkit.kube import Json, Kind, kinds


class Part(Enum):
    """A part of an installation: its kind and name, the ``app`` label of its pods, and what people call it."""

    CONTROL_PLANE = (kinds.DEPLOYMENT, names.CONTROL_PLANE_SERVICE, "control plane")
    NODE_AGENT = (kinds.DAEMON_SET, names.NODE_AGENT_DAEMON_SET, "node agent")
    ZTUNNEL = (kinds.DAEMON_SET, names.ZTUNNEL_SERVICE_ACCOUNT, "ztunnel")

    def __init__(self, kind: Kind, object_name: str, title: str) -> None:
        self.kind = kind
        self.object_name = object_name
        self.title = title


_APPS: Final = {part.object_name: part for part in Part} | {names.ZTUNNEL_DRAINING: Part.ZTUNNEL}
"""Parts by the ``app`` label of their pods."""


def pod_selector(*parts: Part) -> str:
    """Return the label selector of the pods of these parts (default: all), draining ztunnels included."""
    return f"app in ({','.join(app for app, part in _APPS.items() if part in (parts or Part))})"


@dataclass(frozen=True, slots=True)
class Readiness:
    """How much of a part is ready.

    Attributes:
        desired: desired number of pods.
        ready: pods of the present version that are available.
    """

    part: Part
    desired: int
    ready: int
    settled: bool

    @property
    def complete(self) -> bool:
        """Whether all pods are ready and of the present version."""
        return self.settled and self.ready >= self.desired and self.desired > 0


def readiness(part: Part, item: Json) -> Readiness:
    """Return how much of a part is ready, from its Deployment or DaemonSet."""
    status = item.get("status") or {}
    seen = status.get("observedGeneration", 0) >= item["metadata"].get("generation", 0)
    if part.kind is kinds.DEPLOYMENT:
        desired = item["spec"].get("replicas", 1)
        updated, available = status.get("updatedReplicas", 0), status.get("availableReplicas", 0)
        settled = seen and status.get("replicas", 0) == updated
    else:
        desired = status.get("desiredNumberScheduled", 0)
        updated, available = status.get("updatedNumberScheduled", 0), status.get("numberAvailable", 0)
        settled = seen
    return Readiness(part, desired, min(available, updated, desired), settled)


def part_of(pod: Json) -> Part | None:
    """Return the part that a pod belongs to."""
    return _APPS.get((pod["metadata"].get("labels") or {}).get(names.APP_LABEL, ""))


def is_gateway(pod: Json) -> bool:
    """Return whether a pod is a gateway at the edge that its user runs: its proxy says so of itself."""
    containers = pod["spec"].get("containers") or ()
    return any(
        (one.get("name"), one.get("value")) == ("NODE_TYPE", names.GATEWAY_NODE)
        for container in containers
        for one in container.get("env") or ()
    )


def is_ready(pod: Json) -> bool:
    """Return whether a pod is ready and not terminating."""
    if pod["metadata"].get("deletionTimestamp"):
        return False
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def reason(pod: Json) -> str:
    """Return in a few words why a pod is not ready, as far as Kubernetes knows."""
    status = pod.get("status") or {}
    if pod["metadata"].get("deletionTimestamp"):
        return "terminating"
    for container in status.get("containerStatuses") or ():
        waiting = (container.get("state") or {}).get("waiting")
        if waiting:
            return _words(waiting.get("reason", "waiting"), waiting.get("message", ""))
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] != "True":
            return _words("not scheduled", condition.get("message", ""))
    return "not ready yet" if status.get("phase") == "Running" else str(status.get("phase", "unknown")).lower()


def captured(pods: Iterable[Json]) -> list[Json]:
    """Return the pods that are in the mesh now."""
    return [pod for pod in pods if _annotation(pod) == names.REDIRECTION_ENABLED]


def _annotation(pod: Json) -> str | None:
    annotations = pod["metadata"].get("annotations") or {}
    value: str | None = annotations.get(names.REDIRECTION_ANNOTATION)
    return value


def _words(short: str, message: str) -> str:
    return f"{short}: {' '.join(message.split())[:160]}" if message else short
