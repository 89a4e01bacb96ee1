"""Debug pages of the node agent: the state of every pod of the node, as JSON."""

import json
from collections.abc import Callable, Iterable
from typing import Final

from meshapi import names
from meshapi.analysis.enrolment import Enrolment
from nodeagent.capture.annotations import PlanResult
from nodeagent.discovery.enrolment import PodInfo
from nodeagent.enrolment.state import PodRecord, State

_WITH_RULES: Final = frozenset(
    {State.CAPTURING, State.CAPTURED, State.ANNOUNCED, State.UNENROLLING, State.DRAINING},
)
"""States in which a pod has rules of a backend, or is getting them."""


def pods_page(
    pods: Iterable[PodInfo],
    observe: Callable[[str], PodRecord],
    enrolment: Callable[[PodInfo], Enrolment],
    *,
    backend: str,
    held: Callable[[str], PlanResult | None] = lambda _: None,
) -> str:
    """Return ``/debug/pods``.

    Args:
        pods: the pods of the node.
        observe: returns a pod's record, by UID.
        enrolment: returns whether a pod's labels enrol it, or why not.
        backend: name of the capture backend.
        held: returns the plan of a pod that may reach only what the registry knows, by UID; ``None`` for another.
    """
    items = [
        _item(pod, observe(pod.uid), enrolment(pod), backend) | _egress(held(pod.uid))
        for pod in sorted(pods, key=lambda pod: (pod.namespace, pod.name, pod.uid))
    ]
    return json.dumps(items, indent=2) + "\n"


def _item(pod: PodInfo, record: PodRecord, found: Enrolment, backend: str) -> dict[str, object]:
    return {
        "namespace": pod.namespace,
        "name": pod.name,
        "uid": pod.uid,
        "addresses": list(pod.addresses),
        "state": record.state,
        "since": record.since.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "backend": backend if record.state in _WITH_RULES else None,
        "reason": _reason(pod, record, found),
    }


def _egress(held: PlanResult | None) -> dict[str, object]:
    if held is None:
        return {"egress": None, "overruled": []}
    return {"egress": names.EGRESS_REGISTRY_ONLY, "overruled": list(held.overruled)}


def _reason(pod: PodInfo, record: PodRecord, found: Enrolment) -> str:
    """Return why the pod is not captured, or what goes wrong; empty for a captured pod."""
    if record.failure:
        return record.failure
    if found is not Enrolment.ENROLLED:
        return found.value
    match record.state:
        case State.WAITING if not pod.addresses:
            return "its sandbox has no address yet; the CNI plugin will request its capture"
        case State.NEW | State.NOT_ENROLLED | State.WAITING:
            return "the node agent has not reconciled it yet"
        case _:
            return ""
