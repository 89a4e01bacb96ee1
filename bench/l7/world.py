"""What the bench of layer 7 runs: servers, clients, a waypoint, and a plain reverse proxy that is the same Envoy."""

import json
from typing import Any, Final

from tests.support import manifests
from tests.support.mesh import Mesh
from tests.support.program_images import FORTIO
from tests.support.tokens import ISSUER, TokenIssuer

MESH: Final = "l7"
PLAIN: Final = "l7-plain"
HTTP_PORT, GRPC_PORT = 8080, 8079
MANY: Final = 1000
NAME: Final = "bench"
"""Of all objects that are applied for single kinds of requests."""
Item = tuple[str, str]
"""Kind and text of such an object."""
_TARGET: Final = [{"group": "", "kind": "Service", "name": "server"}]


def deploy(mesh: Mesh, envoy_image: str) -> None:
    """Deploy both worlds and wait for them."""
    ports = {"http": HTTP_PORT, "grpc": GRPC_PORT}
    serve = ["fortio", "server", "-quiet", f"-http-port={HTTP_PORT}", f"-grpc-port={GRPC_PORT}"]
    serve += ["-redirect-port=disabled", "-tcp-port=disabled", "-udp-port=disabled"]
    objects = [
        manifests.service("server", ports),
        manifests.deployment("server", {"image": FORTIO, "command": serve}),
        manifests.deployment("client", {"image": FORTIO, "command": ["sleep", "infinity"]}),
    ]
    for namespace in (MESH, PLAIN):
        mesh.namespace(namespace, enrolled=namespace == MESH)
        mesh.lab.apply(*objects, namespace=namespace)
    command = ["envoy", "--config-yaml", json.dumps(_reverse_proxy()), "--concurrency", "2", "--log-level", "error"]
    proxy = manifests.deployment("proxy", {"image": envoy_image, "command": command})
    mesh.lab.apply(manifests.service("proxy", ports), proxy, namespace=PLAIN)
    mesh.waypoint(MESH)
    mesh.lab.rolled_out("server", "client", namespace=MESH)
    mesh.lab.rolled_out("server", "client", "proxy", namespace=PLAIN)


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


def many_routes() -> Item:
    """Return a VirtualService of which the last of many rules is for the bench's requests."""
    route = [{"destination": {"host": "server"}}]
    rules = [{"match": [{"uri": {"prefix": f"/other-{n}/"}}], "route": route} for n in range(MANY - 1)]
    return _item("VirtualService", "networking.istio.io/v1", hosts=["server"], http=[*rules, {"route": route}])


def many_rules() -> Item:
    """Return an AuthorizationPolicy of which the last of many rules allows the bench's requests."""
    rules = [{"to": [{"operation": {"paths": [f"/other-{n}/*"]}}]} for n in range(MANY - 1)]
    allowed = {"to": [{"operation": {"methods": ["GET"]}}]}
    return _item("AuthorizationPolicy", "security.istio.io/v1", targetRefs=_TARGET, rules=[*rules, allowed])


def tokens(issuer: TokenIssuer) -> list[Item]:
    """Return what demands a token of every request."""
    jwt_rules = [{"issuer": ISSUER, "jwks": issuer.key_set}]
    allowed = [{"from": [{"source": {"requestPrincipals": ["*"]}}]}]
    return [
        _item("RequestAuthentication", "security.istio.io/v1", targetRefs=_TARGET, jwtRules=jwt_rules),
        _item("AuthorizationPolicy", "security.istio.io/v1", targetRefs=_TARGET, rules=allowed),
    ]


def _item(kind: str, version: str, **spec: Any) -> Item:
    return kind, manifests.item(kind, version, NAME, **spec)
