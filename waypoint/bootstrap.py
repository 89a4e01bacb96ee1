"""Envoy's bootstrap. Pure: the same node and ports, the same document.

Names of clusters, files and secrets are those of Istio's agent, so that what users and the control plane refer to is
there. Source: istio/istio, ``tools/packaging/common/envoy_bootstrap.json``.
"""

from typing import Any, Final

from meshapi import names
from waypoint.node import Node
from waypoint.settings import WaypointSettings

Json = dict[str, Any]

_TYPE: Final = "type.googleapis.com/"
_EXTENSIONS: Final = f"{_TYPE}envoy.extensions."
_LOCALHOST: Final = "127.0.0.1"
_PROMETHEUS: Final = "prometheus_stats"
_MANY: Final = 100_000
_RECONNECT: Final = {"base_interval": "0.1s", "max_interval": "5s"}


def render(node: Node, settings: WaypointSettings) -> Json:
    """Return the document."""
    return {
        "node": {"id": node.id, "cluster": node.cluster, "metadata": dict(node.metadata)},
        "admin": {"address": _address(_LOCALHOST, settings.admin_port)},
        # The internal listeners of a waypoint hand a stream on with the metadata of its connection.
        "bootstrap_extensions": [
            {
                "name": "envoy.bootstrap.internal_listener",
                "typed_config": {
                    "@type": f"{_EXTENSIONS}bootstrap.internal_listener.v3.InternalListener",
                    "buffer_size_kb": 64,
                },
            }
        ],
        "dynamic_resources": _discovery(),
        "static_resources": {
            "clusters": [
                _cluster(_PROMETHEUS, _address(_LOCALHOST, settings.admin_port)),
                _grpc_cluster(names.SDS_CLUSTER, names.WORKLOAD_SDS_SOCKET),
                _grpc_cluster(names.XDS_CLUSTER, names.ENVOY_XDS_SOCKET) | _UNLIMITED,
            ],
            "listeners": [_prometheus(settings.prometheus_port)],
        },
        "overload_manager": {"resource_monitors": [_CONNECTIONS]},
        "layered_runtime": {"layers": [_LIMITS, {"name": "admin", "admin_layer": {}}]},
        # Statistics of what is configured and unused cost most of the memory.
        "deferred_stat_options": {"enable_deferred_creation_stats": True},
        "cluster_manager": {"enable_deferred_cluster_creation": True},
    }


_LIMITS: Final[Json] = {
    "name": "limits",
    "static_layer": {"re2.max_program_size.error_level": 32_768},
}
"""Envoy takes regular expressions of 100 steps by default, fewer than users write; the number is Istio's."""
_CONNECTIONS: Final[Json] = {
    "name": "envoy.resource_monitors.global_downstream_max_connections",
    "typed_config": {
        "@type": f"{_EXTENSIONS}resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        "max_active_downstream_connections": 2**31 - 1,
    },
}
"""No limit but the container's: Envoy warns where none is written."""
_UNLIMITED: Final[Json] = {
    "circuit_breakers": {
        "thresholds": [
            {"priority": priority, "max_connections": _MANY, "max_pending_requests": _MANY, "max_requests": _MANY}
            for priority in ("DEFAULT", "HIGH")
        ]
    },
}


def _discovery() -> Json:
    # No timeout: a listener or cluster waits for what it names instead of serving without it.
    source = {"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"}
    service = {"cluster_name": names.XDS_CLUSTER, "retry_policy": {"retry_back_off": _RECONNECT}}
    return {
        "lds_config": source,
        "cds_config": source,
        "ads_config": {
            "api_type": "DELTA_GRPC",
            "set_node_on_first_message_only": True,
            "transport_api_version": "V3",
            "grpc_services": [{"envoy_grpc": service}],
        },
    }


def _grpc_cluster(name: str, path: str) -> Json:
    options = f"{_EXTENSIONS}upstreams.http.v3.HttpProtocolOptions"
    http2 = {"@type": options, "explicit_http_config": {"http2_protocol_options": {}}}
    return _cluster(name, {"pipe": {"path": path}}) | {
        "typed_extension_protocol_options": {options.removeprefix(_TYPE): http2}
    }


def _cluster(name: str, address: Json) -> Json:
    endpoint = {"endpoint": {"address": address}}
    return {
        "name": name,
        "alt_stat_name": f"{name};",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _prometheus(port: int) -> Json:
    route = {"match": {"prefix": "/stats/prometheus"}, "route": {"cluster": _PROMETHEUS}}
    manager = {
        "@type": f"{_EXTENSIONS}filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "stats",
        "route_config": {"virtual_hosts": [{"name": "backend", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_EXTENSIONS}filters.http.router.v3.Router"},
            }
        ],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    return {
        "name": f"0.0.0.0_{port}",
        "address": _address("0.0.0.0", port),  # noqa: S104  (scraped by Prometheus)
        "ignore_global_conn_limit": True,
        "bypass_overload_manager": True,
        "filter_chains": [chain],
    }


def _address(host: str, port: int) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}
