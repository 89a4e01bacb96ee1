"""Pods as the node agent reads them from the Kubernetes API. Pure."""

from typing import Any

from nodeagent.discovery.enrolment import PodInfo

_TERMINAL = frozenset({"Succeeded", "Failed"})


def parse_pod(item: dict[str, Any]) -> PodInfo:
    """Read a pod object."""
    metadata, spec, status = item["metadata"], item.get("spec") or {}, item.get("status") or {}
    listed = tuple(entry["ip"] for entry in status.get("podIPs") or () if entry.get("ip"))
    return PodInfo(
        uid=metadata["uid"],
        namespace=metadata["namespace"],
        name=metadata["name"],
        service_account=spec.get("serviceAccountName") or "default",
        labels=metadata.get("labels") or {},
        annotations=metadata.get("annotations") or {},
        addresses=listed or ((status["podIP"],) if status.get("podIP") else ()),
        host_network=bool(spec.get("hostNetwork")),
        terminating="deletionTimestamp" in metadata,
        terminal=status.get("phase") in _TERMINAL,
    )


def parse_namespace(item: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """Read a namespace object: its name and labels."""
    metadata = item["metadata"]
    return metadata["name"], metadata.get("labels") or {}
