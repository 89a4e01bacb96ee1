"""Short ways to write Kubernetes objects in tests."""

from typing import Any

Json = dict[str, Any]


def pod(
    name: str,
    namespace: str = "shop",
    *,
    ip: str = "10.0.0.1",
    node: str = "node-1",
    account: str = "default",
    labels: dict[str, str] | None = None,
    captured: bool = False,
    ready: bool = True,
    phase: str = "Running",
    ports: list[Json] | None = None,
    uid: str = "",
    deleting: bool = False,
    host_network: bool = False,
    owner: Json | None = None,
) -> Json:
    metadata: Json = {"name": name, "namespace": namespace, "uid": uid or f"uid-{name}", "labels": labels or {}}
    if captured:
        metadata["annotations"] = {"ambient.istio.io/redirection": "enabled"}
    if deleting:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    if owner:
        metadata["ownerReferences"] = [owner]
    return {
        "metadata": metadata,
        "spec": {
            "nodeName": node,
            "serviceAccountName": account,
            "hostNetwork": host_network,
            "containers": [{"name": "main", "ports": ports or []}],
        },
        "status": {
            "phase": phase,
            "podIP": ip,
            "podIPs": [{"ip": ip}] if ip else None,
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        },
    }


def service(name: str, namespace: str = "shop", **spec: Any) -> Json:
    given = {"clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"], "selector": {"app": name}, "ports": [], **spec}
    return {"metadata": {"name": name, "namespace": namespace}, "spec": given}


def policy(name: str, namespace: str = "shop", *, annotations: dict[str, str] | None = None, **spec: Any) -> Json:
    return {"metadata": {"name": name, "namespace": namespace, "annotations": annotations or {}}, "spec": spec}


def peer(
    name: str,
    namespace: str = "shop",
    *,
    mode: str | None = None,
    selector: dict[str, str] | None = None,
    ports: dict[str, str] | None = None,
    created: str = "2026-01-01T00:00:00Z",
) -> Json:
    spec: Json = {}
    if mode:
        spec["mtls"] = {"mode": mode}
    if selector:
        spec["selector"] = {"matchLabels": selector}
    if ports:
        spec["portLevelMtls"] = {port: {"mode": value} for port, value in ports.items()}
    return {"metadata": {"name": name, "namespace": namespace, "creationTimestamp": created}, "spec": spec}


def service_entry(
    name: str,
    namespace: str = "shop",
    *,
    hosts: list[str],
    selector: dict[str, str] | None = None,
    created: str = "",
    **spec: Any,
) -> Json:
    given = {"hosts": hosts, **spec}
    if selector:
        given["workloadSelector"] = {"labels": selector}
    return {"metadata": {"name": name, "namespace": namespace, "creationTimestamp": created}, "spec": given}


def gateway(
    name: str = "waypoint",
    namespace: str = "shop",
    *,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    addresses: list[Json] | None = None,
    allowed: Json | None = None,
    **spec: Any,
) -> Json:
    """A waypoint as `istioctl waypoint apply` writes it; with `addresses` it is ready."""
    listener: Json = {"name": "mesh", "port": 15008, "protocol": "HBONE"}
    if allowed is not None:
        listener["allowedRoutes"] = {"namespaces": allowed}
    return {
        "metadata": {
            "name": name, "namespace": namespace, "uid": f"uid-{name}", "generation": 1,
            "labels": labels or {}, "annotations": annotations or {},
        },
        "spec": {"gatewayClassName": "istio-waypoint", "listeners": [listener], **spec},
        "status": {"addresses": addresses or []},
    }  # fmt: skip


def hostname_of(name: str = "waypoint", namespace: str = "shop") -> list[Json]:
    """The addresses of a ready waypoint."""
    return [{"type": "Hostname", "value": f"{name}.{namespace}.svc.cluster.local"}]


def namespace(name: str, labels: dict[str, str] | None = None) -> Json:
    return {"metadata": {"name": name, "labels": labels or {}}, "status": {"phase": "Active"}}
