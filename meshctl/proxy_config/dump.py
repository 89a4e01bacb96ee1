"""Envoy's pages ``/config_dump`` and ``/clusters`` by section. Pure.

Envoy's documentation, ``envoy/admin/v3/config_dump_shared.proto`` and ``clusters.proto``. A section that a proxy does
not have is empty.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from meshkit.kube import Json

Item = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Dump:
    """What a proxy has.

    Attributes:
        clusters: of type ``envoy.config.cluster.v3.Cluster``.
        listeners: of type ``envoy.config.listener.v3.Listener``.
        routes: of type ``envoy.config.route.v3.RouteConfiguration``.
        secrets: the section of secrets as it is.
        bootstrap: of type ``envoy.config.bootstrap.v3.Bootstrap``.
        endpoints: of type ``envoy.admin.v3.ClusterStatus``.
        document: the whole page.
        is_envoy: whether the document is Envoy's, with names of fields as there.
    """

    clusters: Sequence[Item] = ()
    listeners: Sequence[Item] = ()
    routes: Sequence[Item] = ()
    secrets: Item = field(default_factory=dict)
    bootstrap: Item = field(default_factory=dict)
    endpoints: Sequence[Item] = ()
    document: Item = field(default_factory=dict)
    is_envoy: bool = True


def read(config: Json, clusters: Json | None = None) -> Dump:
    """Return the sections of a proxy.

    Args:
        config: the page ``/config_dump``; with endpoints (``?include_eds``) where ``clusters`` is not given.
        clusters: the page ``/clusters?format=json``.

    Raises:
        ValueError: it is neither page.
    """
    if clusters is None and "cluster_statuses" in config:
        config, clusters = {"configs": []}, config
    if not isinstance(config.get("configs"), list):
        raise ValueError("this is no configuration dump of Envoy")
    sections = {str(one.get("@type", "")).rpartition(".")[2]: one for one in config["configs"]}
    assignments = _of(
        sections, "EndpointsConfigDump", "endpoint_config", "dynamic_endpoint_configs", "static_endpoint_configs"
    )
    return Dump(
        clusters=_of(sections, "ClustersConfigDump", "cluster", "dynamic_active_clusters", "static_clusters"),
        listeners=_listeners(sections.get("ListenersConfigDump", {})),
        routes=_of(sections, "RoutesConfigDump", "route_config", "dynamic_route_configs", "static_route_configs"),
        secrets=sections.get("SecretsConfigDump", {}),
        bootstrap=sections.get("BootstrapConfigDump", {}).get("bootstrap", {}),
        endpoints=clusters["cluster_statuses"] if clusters is not None else [_status(one) for one in assignments],
        document=config,
    )


def socket(address: Item) -> tuple[str, int]:
    """Return the text and port of an ``envoy.config.core.v3.Address``; port 0 where it has none."""
    if found := address.get("socket_address"):
        return str(found.get("address", "")), int(found.get("port_value", 0))
    if found := address.get("pipe"):
        return f"unix://{found.get('path', '')}", 0
    if found := address.get("envoy_internal_address"):
        return f"envoy://{found.get('server_listener_name', '')}/{found.get('endpoint_id', '')}", 0
    return "unknown", 0


def origin(item: Item) -> str:
    """Return the object that a cluster or route was made from, as ``name.namespace``; empty where none is named.

    The kind is in front where it is not the one that ``istioctl`` has a column for.
    """
    metadata = (item.get("metadata") or {}).get("filter_metadata") or {}
    parts = str((metadata.get("istio") or {}).get("config", "")).split("/")
    if len(parts) != 8:  # /apis/GROUP/VERSION/namespaces/NAMESPACE/KIND/NAME
        return ""
    *_, namespace, kind, name = parts
    plain = f"{name}.{namespace}"
    return plain if kind in {"virtual-service", "destination-rule"} else f"{kind}/{plain}"


def _of(sections: Mapping[str, Item], section: str, key: str, *lists: str) -> list[Item]:
    found = sections.get(section, {})
    return [one[key] for name in lists for one in found.get(name) or () if key in one]


def _listeners(section: Item) -> list[Item]:
    def found() -> Iterator[Item]:
        for one in section.get("dynamic_listeners") or ():
            if "listener" in one.get("active_state", {}):
                yield one["active_state"]["listener"]
        yield from (one["listener"] for one in section.get("static_listeners") or ())

    return list(found())


def _status(assignment: Item) -> Json:
    hosts = [
        {
            "address": one["endpoint"]["address"],
            "health_status": {"eds_health_status": one.get("health_status", "UNKNOWN")},
            "weight": one.get("load_balancing_weight", 1),
            "locality": locality.get("locality", {}),
        }
        for locality in assignment.get("endpoints") or ()
        for one in locality.get("lb_endpoints") or ()
    ]
    return {"name": assignment.get("cluster_name", ""), "host_statuses": hosts}
