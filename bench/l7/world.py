"""What the bench of layer 7 runs: servers, clients, a waypoint, and a plain reverse proxy that is the same Envoy."""

import json
from pathlib import Path
from typing import Any, Final

from bench import kubernetes
from bench.kubernetes import Cluster
from meshlab import images, programs
from meshlab.images import Archive, Image
from meshlab.programs import Say
from tests.support.tokens import ISSUER, TokenIssuer

MESH: Final = "l7"
PLAIN: Final = "l7-plain"
HTTP_PORT, GRPC_PORT = 8080, 8079
MANY: Final = 1000
_IMAGE: Final = f"{images.PREFIX}/fortio:1"
_HERE: Final = Path(__file__).parent
_TARGET: Final = [{"group": "", "kind": "Service", "name": "server"}]


def fortio_image(say: Say) -> Archive:
    """Build the image of server and client, or find it in the cache."""
    return images.build(Image(_IMAGE, _HERE / "Dockerfile", programs.fortio(say)), say)


def deploy(cluster: Cluster, envoy_image: str) -> None:
    """Deploy both worlds and wait for them."""
    ports = {"http": HTTP_PORT, "grpc": GRPC_PORT}
    serve = ["fortio", "server", "-quiet", f"-http-port={HTTP_PORT}", f"-grpc-port={GRPC_PORT}"]
    serve += ["-redirect-port=disabled", "-tcp-port=disabled", "-udp-port=disabled"]
    objects = [
        kubernetes.service("server", ports),
        kubernetes.deployment("server", {"image": _IMAGE, "command": serve}),
        kubernetes.deployment("client", {"image": _IMAGE, "command": ["sleep", "infinity"]}),
    ]
    for namespace in (MESH, PLAIN):
        cluster.namespace(namespace, enrolled=namespace == MESH)
        cluster.apply(namespace, *objects)
    command = ["envoy", "--config-yaml", json.dumps(_reverse_proxy()), "--concurrency", "2", "--log-level", "error"]
    cluster.apply(
        PLAIN,
        kubernetes.service("proxy", ports),
        kubernetes.deployment("proxy", {"image": envoy_image, "command": command}),
    )
    cluster.waypoint(MESH)
    for namespace in (MESH, PLAIN):
        cluster.rolled_out(namespace, "server", "client")
    cluster.rolled_out(PLAIN, "proxy")


def _reverse_proxy() -> dict[str, Any]:
    """Return Envoy's configuration: one listener and one cluster for each port, no filter but the router."""
    ports = {"http": HTTP_PORT, "grpc": GRPC_PORT}
    listeners = [_listener(name, port) for name, port in ports.items()]
    return {"static_resources": {"listeners": listeners, "clusters": [_cluster(n, p) for n, p in ports.items()]}}


def _listener(name: str, port: int) -> dict[str, Any]:
    extensions = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{extensions}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "route_config": {
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": name}}]}
            ]
        },
        "http_filters": [
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{extensions}.http.router.v3.Router"}}
        ],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    address = {"socket_address": {"address": "0.0.0.0", "port_value": port}}
    return {"name": name, "address": address, "filter_chains": [chain]}


def _cluster(name: str, port: int) -> dict[str, Any]:
    # HTTP/2 to the server where the client speaks it, as a waypoint does.
    chosen: dict[str, Any] = {"use_downstream_protocol_config": {"http2_protocol_options": {}}}
    options = {"@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions", **chosen}
    address = {"socket_address": {"address": "server", "port_value": port}}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    return {
        "name": name,
        "type": "STRICT_DNS",
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
    }


def many_routes() -> dict[str, Any]:
    """Return a VirtualService of which the last of many rules is for the bench's requests."""
    route = [{"destination": {"host": "server"}}]
    rules = [{"match": [{"uri": {"prefix": f"/other-{n}/"}}], "route": route} for n in range(MANY - 1)]
    return _istio("networking.istio.io/v1", "VirtualService", hosts=["server"], http=[*rules, {"route": route}])


def many_rules() -> dict[str, Any]:
    """Return an AuthorizationPolicy of which the last of many rules allows the bench's requests."""
    rules = [{"to": [{"operation": {"paths": [f"/other-{n}/*"]}}]} for n in range(MANY - 1)]
    allowed = {"to": [{"operation": {"methods": ["GET"]}}]}
    return _istio("security.istio.io/v1", "AuthorizationPolicy", targetRefs=_TARGET, rules=[*rules, allowed])


def tokens(issuer: TokenIssuer) -> list[dict[str, Any]]:
    """Return what demands a token of every request."""
    jwt_rules = [{"issuer": ISSUER, "jwks": issuer.key_set}]
    allowed = [{"from": [{"source": {"requestPrincipals": ["*"]}}]}]
    return [
        _istio("security.istio.io/v1", "RequestAuthentication", targetRefs=_TARGET, jwtRules=jwt_rules),
        _istio("security.istio.io/v1", "AuthorizationPolicy", targetRefs=_TARGET, rules=allowed),
    ]


def _istio(version: str, kind: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": "bench"}, "spec": spec}
