"""Names of listeners, clusters, filters and filter state, as Istio's: ``istioctl`` and EnvoyFilters know them."""

import re
from typing import Final

CONNECT_TERMINATE: Final = "connect_terminate"
"""Listener that takes tunnels in."""
MAIN_INTERNAL: Final = "main_internal"
"""Internal listener that routes what the tunnels carry."""
CONNECT_ORIGINATE: Final = "connect_originate"
"""Internal listener, and cluster, that opens tunnels to endpoints."""
ENCAP: Final = "encap"
"""Clusters of workloads that are called by their own addresses begin with it, and count as it in statistics."""
DIRECT_HTTP: Final = "direct-http"
"""Filter chain, and routes, of requests to workloads' own addresses."""
DIRECT_TCP: Final = "direct-tcp"
"""Filter chain of other connections to workloads' own addresses."""

ORIGINAL_DESTINATION: Final = "envoy.filters.listener.original_dst"
WAYPOINT_KEY: Final = "waypoint"
"""In that metadata: where tunnels go, if it is not where they lead to."""
LOCAL_ADDRESS_STATE: Final = f"{ORIGINAL_DESTINATION}.local_ip"
REMOTE_ADDRESS_STATE: Final = f"{ORIGINAL_DESTINATION}.remote_ip"
SOURCE_PRINCIPAL_STATE: Final = "io.istio.peer_principal"
"""Filter state: SPIFFE ID of the client, from its certificate."""
TCP_CLUSTER_STATE: Final = "envoy.tcp_proxy.cluster"
"""Filter state: the cluster that a connection goes to."""
WORKLOAD_HEADER: Final = "x-culvert-workload"
"""Header that has the cluster of the workload that a request goes to; it does not leave the proxy."""
STRING_STATE: Final = "envoy.string"
"""Factory of filter state that is a text."""
JWT_FILTER: Final = "envoy.filters.http.jwt_authn"
JWT_PAYLOAD: Final = "payload"
CORS_FILTER: Final = "envoy.filters.http.cors"
FAULT_FILTER: Final = "envoy.filters.http.fault"
SESSION_FILTER: Final = "envoy.filters.http.stateful_session"
ROUTER_FILTER: Final = "envoy.filters.http.router"
TRANSPORT_SOCKET_MATCH: Final = "envoy.transport_socket_match"
TUNNEL_KEY: Final = "tunnel"
TUNNEL_VALUE: Final = "h2"
ISTIO_METADATA: Final = "istio"
TELEMETRY_METADATA: Final = "culvert.telemetry"
"""Metadata of clusters and endpoints: what metrics say of them."""
BLACK_HOLE: Final = "BlackHoleCluster"
_OF_GATEWAY: Final = re.compile(r"(?:https?|tls|tcp)\.([0-9]+)(?:\.|$)")
"""The beginning of names of a gateway's routes and filter chains."""
_SEALED: Final = "outbound_."
_PARTS: Final = 4
"""Of a name that has to do with a service: kind, port, subset, host."""


def inbound_vip(host: str, port: int, *, is_http: bool, subset: str = "") -> str:
    """Return the cluster, filter chain or routes of a service that the waypoint is for."""
    kind = "http" if is_http else "tcp"
    return f"inbound-vip|{port}|{kind}{'/' if subset else ''}{subset}|{host}"


def workload(address: str) -> str:
    """Return the cluster of a workload that is called by its own address."""
    return f"{ENCAP}|{address}"


def outbound(host: str, port: int, subset: str = "") -> str:
    """Return the cluster of any other service."""
    return f"outbound|{port}|{subset}|{host}"


def sealed(host: str, port: int, subset: str = "") -> str:
    """Return the cluster of a service that clients name in TLS, which goes on as it is; it is that server name, too."""
    return f"outbound_.{port}_.{subset}_.{host}"


def principals_of(namespace: str) -> str:
    """Return an expression for the identities of a namespace."""
    return rf"spiffe://[^/]+/ns/{re.escape(namespace)}/sa/[^/]+"


def is_outbound(name: str) -> bool:
    """Return whether a cluster is of a service that is not the waypoint's."""
    return name.startswith(("outbound|", _SEALED))


def port_of(name: str) -> int:
    """Return the service's port, or a gateway's, in a name of a cluster, filter chain or routes; 0: there is none."""
    if found := _OF_GATEWAY.match(name):
        return int(found[1])
    parts = _parts(name)
    return int(parts[1]) if len(parts) == _PARTS and parts[1].isdecimal() else 0


def subset_of(name: str) -> str:
    """Return the subset in a cluster's name; empty: there is none."""
    parts = _parts(name)
    if len(parts) != _PARTS:
        return ""
    return parts[2] if is_outbound(name) else parts[2].partition("/")[2]


def host_of(name: str) -> str:
    """Return the service's host in a cluster's name; empty: there is none."""
    parts = _parts(name)
    return parts[3] if len(parts) == _PARTS else ""


def _parts(name: str) -> list[str]:
    return name.split("_.", _PARTS - 1) if name.startswith(_SEALED) else name.split("|")
