"""What a ztunnel has for one of its pods, in the shape of Envoy's pages, so that the same tables show it. Pure."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from meshapi import names
from meshctl.proxy_config.dump import Dump, Item
from meshkit.kube import Json


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod that a ztunnel serves."""

    namespace: str
    service_account: str


def read(document: Item, pod: Pod) -> Dump:
    """Return clusters, endpoints and certificates of a pod out of its ztunnel's ``/config_dump``."""
    services = [one for one in document.get("services") or () if _is_visible(one, pod)]
    workloads = {one["uid"]: one for one in document.get("workloads") or ()}
    ports = [(one, port) for one in services for port in one.get("ports") or {}]
    return Dump(
        clusters=[{"name": _name(one, port), "type": "EDS"} for one, port in ports],
        endpoints=[
            {"name": _name(one, port), "host_statuses": list(_hosts(one, port, workloads))} for one, port in ports
        ],
        secrets=_secrets(document, pod),
        document=document,
        is_envoy=False,
    )


def _is_visible(service: Item, pod: Pod) -> bool:
    return service.get("visibility") != "Namespace" or service.get("namespace") == pod.namespace


def _name(service: Item, port: str) -> str:
    return f"outbound|{port}||{service.get('hostname', '')}"


def _hosts(service: Item, port: str, workloads: dict[str, Item]) -> Iterator[Json]:
    for endpoint in (service.get("endpoints") or {}).values():
        served = endpoint.get("port") or {}
        if port not in served:
            continue
        target = served[port] or service["ports"][port]
        workload = workloads.get(endpoint.get("workloadUid", ""), {})
        status: Json = {"eds_health_status": endpoint.get("status", "Healthy").upper()}
        if endpoint.get("ejected"):
            status["failed_outlier_check"] = True
        for address in workload.get("workloadIps") or ():
            where = {"socket_address": {"address": address, "port_value": target}}
            yield {"address": where, "health_status": status, "weight": workload.get("capacity", 1)}


def _secrets(document: Item, pod: Pod) -> Json:
    own = f"/ns/{pod.namespace}/sa/{pod.service_account}"
    active: list[Json] = []
    warming: list[Json] = []
    for one in document.get("certificates") or ():
        if not str(one.get("identity", "")).endswith(own):
            continue
        if one.get("state") != "Available":
            warming.append({"name": "default", "secret": {"name": "default"}})
            continue
        chain = {"certificate_chain": {"inline_bytes": _joined(one.get("certChain"))}}
        roots = {"trusted_ca": {"inline_bytes": _joined(one.get("rootCerts"))}}
        active += [
            {"name": "default", "secret": {"name": "default", "tls_certificate": chain}},
            {
                "name": names.ROOT_SECRET_NAME,
                "secret": {"name": names.ROOT_SECRET_NAME, "validation_context": roots},
            },
        ]
    return {"dynamic_active_secrets": active, "dynamic_warming_secrets": warming}


def _joined(certificates: Sequence[Item] | None) -> str:
    return base64.b64encode(b"".join(base64.b64decode(one.get("pem", "")) for one in certificates or ())).decode()
