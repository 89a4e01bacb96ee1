"""What is known of a service or a pod, as one document. Pure: from the proxies' dumps and the policies."""

from collections.abc import Iterable
from typing import Any

from meshctl.description import policies
from meshctl.proxy_config import routes
from meshctl.proxy_config.dump import Dump, Item, origin
from meshkit.kube import Json


def find(items: Iterable[Item], namespace: str, name: str) -> Item | None:
    """Return the workload or service of a ztunnel's dump with a name."""
    return next((one for one in items if (one.get("namespace"), one.get("name")) == (namespace, name)), None)


def waypoint_of(item: Item) -> tuple[str, str] | None:
    """Return namespace and name of the Service of a waypoint that a ztunnel sends to; ``None``: there is none."""
    namespace, _, host = str((item.get("waypoint") or {}).get("destination", "")).partition("/")
    return (namespace, host.partition(".")[0]) if host else None


def of_pod(document: Item, workload: Item) -> Json:
    """Return what applies to a pod."""
    namespace, account = workload.get("namespace", ""), workload.get("serviceAccount", "")
    return {
        "kind": "Pod",
        "name": f"{namespace}/{workload.get('name', '')}",
        "node": workload.get("node", ""),
        "protocol": workload.get("protocol", ""),
        "identity": f"spiffe://{workload.get('trustDomain', '')}/ns/{namespace}/sa/{account}",
        "mutualTLS": policies.mutual_tls(workload),
        "waypoint": _joined(waypoint_of(workload)),
        "services": list(workload.get("services") or ()),
        "policies": policies.at_ztunnel(document, workload),
    }


def of_service(document: Item, service: Item) -> Json:
    """Return what applies to a service, without its waypoint's part."""
    by_uid = {one["uid"]: one for one in document.get("workloads") or ()}
    endpoints = (service.get("endpoints") or {}).values()
    workloads = [found for one in endpoints if (found := by_uid.get(one.get("workloadUid", ""))) is not None]
    unique = {str(entry): entry for workload in workloads for entry in policies.at_ztunnel(document, workload)}
    return {
        "kind": "Service",
        "name": f"{service.get('namespace', '')}/{service.get('name', '')}",
        "hostname": service.get("hostname", ""),
        "ports": {str(port): target for port, target in (service.get("ports") or {}).items()},
        "endpoints": {
            "healthy": sum(one.get("status", "Healthy") == "Healthy" for one in endpoints),
            "all": len(endpoints),
        },
        "mutualTLS": ", ".join(sorted({policies.mutual_tls(one) for one in workloads})) or "no endpoints",
        "waypoint": _joined(waypoint_of(service)),
        "policies": policies.in_order(unique.values()),
    }


def routes_of(dump: Dump, host: str) -> list[Json]:
    """Return the routes that a waypoint has for a service, in the order in which they are tried."""
    found = []
    for one in routes.Filter().chosen(dump):
        parts = str(one.get("name", "")).split("|")
        if len(parts) != 4 or parts[3] != host:
            continue
        found += [
            {"port": parts[1], "match": routes.described(route.get("match") or {}), **_origin(route), "to": _to(route)}
            for virtual_host in one.get("virtual_hosts") or ()
            for route in virtual_host.get("routes") or ()
        ]
    return sorted(found, key=lambda one: int(one["port"]))


def _origin(route: Item) -> Json:
    metadata = ((route.get("metadata") or {}).get("filter_metadata") or {}).get("istio") or {}
    return {"from": origin(route), "rule": str(metadata.get("rule", ""))}


def _to(route: Item) -> str:
    """Return where a route leads, in a few words."""
    if "redirect" in route:
        return "redirect"
    if "direct_response" in route:
        return f"status {route['direct_response'].get('status', 200)}"
    action: Any = route.get("route") or {}
    weighted = (action.get("weighted_clusters") or {}).get("clusters") or ()
    if weighted:
        return ", ".join(f"{one['name']} ({one.get('weight', 0)})" for one in weighted)
    return str(action.get("cluster", ""))


def _joined(key: tuple[str, str] | None) -> str:
    return "/".join(key) if key else ""
