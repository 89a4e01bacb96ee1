"""Envoy in place of one of our ztunnels: a server in a pod, a client in a pod."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from meshapi.proto import workload_pb2
from tests.support import envoy, namespaced
from tests.support import envoy_config as config

MESH_IDENTITY: config.Json = {"prefix": "spiffe://cluster.local/"}
FIRST_PORT = 20_000

_SERVER_LOG = {
    "authority": "%REQ(:AUTHORITY)%",
    "status": "%RESPONSE_CODE%",
    "baggage": "%REQ(BAGGAGE)%",
    "forwarded": "%REQ(FORWARDED)%",
    "traceparent": "%REQ(TRACEPARENT)%",
    "peer": "%DOWNSTREAM_PEER_URI_SAN%",
    "sni": "%REQUESTED_SERVER_NAME%",
    "tls": "%DOWNSTREAM_TLS_VERSION%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "received": "%BYTES_RECEIVED%",
    "sent": "%BYTES_SENT%",
}
_CLIENT_LOG = {
    "answer": "%FILTER_STATE(envoy.tcp_proxy.propagate_response_headers:TYPED)%",
    "flags": "%RESPONSE_FLAGS%",
    "failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "peer": "%UPSTREAM_PEER_URI_SAN%",
}


@dataclass
class Client:
    """Envoy as a client: a local port for each authority."""

    envoy: envoy.Envoy
    pod: namespaced.Pod
    authorities: list[str]

    async def request(self, authority: str, message: bytes = b"hello", within_s: float = 3) -> bytes:
        return await self.pod.request("127.0.0.1", self.port(authority), message, within_s)

    def port(self, authority: str) -> int:
        return FIRST_PORT + self.authorities.index(authority)


def certificate(mesh: namespaced.Mesh, identity: str) -> config.Inline:
    return config.Inline(*mesh.authority.issue(identity), mesh.authority.roots)


@asynccontextmanager
async def server(
    mesh: namespaced.Mesh,
    folder: Path,
    own: config.Inline | config.FromSds | None = None,
    clients: config.Json = MESH_IDENTITY,
    statuses: dict[str, int] | None = None,
) -> AsyncIterator[tuple[envoy.Envoy, namespaced.Pod]]:
    """A pod whose HBONE listener is Envoy's; it is announced to every node with HBONE."""
    pod = await mesh.pod("server", node=1, captured=False)
    mesh.announce(pod, tunnel_protocol=workload_pb2.HBONE)
    log = folder / "access.log"
    refused = [config.status_route(f"{pod.ip}:{port}", status) for port, status in (statuses or {}).items()]
    routes = [*refused, config.connect_route("authority")]
    own = own or certificate(mesh, pod.identity)
    clusters = [config.addressed_cluster("authority")]
    if isinstance(own, config.FromSds):
        clusters.append(own.cluster())
    listener = config.connect_listener(pod.ip, own, clients, routes, config.json_log(log, **_SERVER_LOG))
    settings = config.bootstrap(folder / "admin.sock", [listener], clusters)
    async with envoy.running(folder, pod.netns, settings, log=log) as running:
        yield running, pod


@asynccontextmanager
async def client(
    mesh: namespaced.Mesh,
    folder: Path,
    server: namespaced.Pod,
    authorities: list[str],
    own: config.Inline | None = None,
    expected: str | None = None,
    headers: dict[str, str] | None = None,
) -> AsyncIterator[Client]:
    """A pod whose applications reach ``server`` through Envoy on local ports, one for each authority."""
    pod = await mesh.pod("client", captured=False)
    log = folder / "access.log"
    own = own or certificate(mesh, pod.identity)
    cluster = config.tunnel_cluster("tunnel", server.ip, own, {"exact": expected or server.identity})
    listeners = [
        config.tunnel_listener(
            f"to-{number}", "127.0.0.1", FIRST_PORT + number, "tunnel", authority,
            config.json_log(log, **_CLIENT_LOG), headers,
        )
        for number, authority in enumerate(authorities)
    ]  # fmt: skip
    settings = config.bootstrap(folder / "admin.sock", listeners, [cluster])
    async with envoy.running(folder, pod.netns, settings, log=log) as running:
        yield Client(running, pod, authorities)
