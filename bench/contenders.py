"""Who is measured: nothing at all, two of our tunnels, two Envoys. Each has two pods of its own on the same bridge.

Both meshes capture with the node agent's rules, use certificates of the same authority, TLS 1.3 on both hops, HTTP/2
CONNECT with the same flow-control windows, two threads a proxy, and write no access log.
"""

import base64
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from bench import pods
from meshapi import names
from meshapi.proto import authorization_pb2, engine_pb2, workload_pb2
from tests.support import envoy, envoy_config
from tests.support.authority import TestAuthority

PORT = 8080
THREADS = 2
Resource = tuple[str, str, str]
"""Type, name, and the message in base64."""
RELAY = "relay"
"""Name of :func:`relays`."""
START_S = 15.0
START_UNDER_S = 120.0


@dataclass
class Contender:
    """Two pods, and the proxies between them: the client's, the server's."""

    name: str
    client: pods.Pod
    server: pods.Pod
    proxies: list[int] = field(default_factory=list)


async def bare(stack: AsyncExitStack, bridge: pods.Bridge, load: Path) -> Contender:
    """No mesh."""
    contender = Contender("bare TCP", bridge.pod("bare-client"), bridge.pod("bare-server"))
    await serve(stack, contender.server, load)
    return contender


async def relays(stack: AsyncExitStack, bridge: pods.Bridge, load: Path, relay: Path) -> Contender:
    """Two programs that only wait, read and write: what this machine's kernel allows a proxy in these places."""
    contender = Contender(RELAY, bridge.pod("relay-client"), bridge.pod("relay-server"))
    client, server = contender.client, contender.server
    await serve(stack, server, load)
    between = str(names.HBONE_PORT)
    for pod, words in ((client, ("out", between)), (server, ("in", between, server.ip, str(PORT)))):
        process = await pod.run(stack, str(relay), *words)
        await pods.ready(process)
        pod.capture()
        contender.proxies.append(process.pid)
    return contender


async def culvert(
    stack: AsyncExitStack,
    bridge: pods.Bridge,
    load: Path,
    folder: Path,
    *,
    access_log: str | None = None,
    under: Sequence[str] = (),
) -> Contender:
    """Two engines, a process each, as on two nodes; their lines or records go to ``/dev/null`` through the host.

    ``under``: a program that runs them.
    """
    kind = "log" if access_log else "our"
    name = "Culvert, logging" if access_log else "Culvert"
    contender = Contender(name, bridge.pod(f"{kind}-client"), bridge.pod(f"{kind}-server"))
    await serve(stack, contender.server, load)
    authority = TestAuthority()
    both = (contender.client, contender.server)
    for pod in both:
        made = await engine(stack, folder, authority, [pod], both, access_log=access_log, under=under)
        contender.proxies.append(made)
    return contender


async def engine(
    stack: AsyncExitStack,
    folder: Path,
    authority: TestAuthority,
    served: Sequence[pods.Pod],
    mesh: Sequence[pods.Pod],
    *,
    access_log: str | None = None,
    bandwidth: int = 0,
    under: Sequence[str] = (),
    capture: Callable[[pods.Pod], None] = pods.Pod.capture,
    direct: Path | None = None,
    crowd: Sequence[Resource] = (),
) -> int:
    """Start one node's tunnel for the pods ``served``, capture them, and return its process id.

    ``bandwidth``: bytes a second that each pod may carry; 0 is no bound. ``under``: a program that runs it. ``direct``:
    pins of the capture by BPF, where connections may be direct. ``crowd``: what the mesh has besides.
    """
    spec = {
        "config": {
            "node": f"node-{served[0].name}",
            "worker_threads": THREADS,
            "access_log": engine_pb2.TEXT if access_log == "text" else engine_pb2.OFF,
            "access_log_records": access_log == "otlp",
            "max_bandwidth_per_workload": bandwidth,
            "direct_connections": direct is not None,
        },
        "direct": str(direct or ""),
        "pods": [_served(pod, authority) for pod in served],
        "resources": [*(_workload(pod) for pod in mesh), *crowd],
    }
    file = folder / f"{served[0].name}.json"
    file.write_text(json.dumps(spec))
    host = await pods.start(stack, *under, sys.executable, "-m", "bench.engine_host", str(file))
    await pods.ready(host, START_UNDER_S if under else START_S)
    for pod in served:
        capture(pod)
    return host.pid


def _served(pod: pods.Pod, authority: TestAuthority) -> dict[str, object]:
    chain, key = authority.issue(pod.identity)
    return {
        "workload": {"uid": pod.name, "name": pod.name, "namespace": "bench", "service_account": pod.name},
        "netns": str(pod.netns_path),
        "identity": pod.identity,
        "certificate": [chain.decode(), key.decode(), authority.roots.decode()],
    }


def crowd(workloads: int, rules: int, *, namespace: str = "bench") -> list[Resource]:
    """Workloads of other nodes, and ALLOW policies of a rule each for the server's namespace; the last admits all."""
    made = [
        _of(f"w{number}", f"10.{64 + (number >> 16)}.{number >> 8 & 255}.{number & 255}") for number in range(workloads)
    ]
    for number in range(rules):
        principal = authorization_pb2.StringMatch(exact=f"spiffe://cluster.local/ns/other/sa/w{number}")
        is_last = number == rules - 1
        match = authorization_pb2.Match(**({"not_destination_ports": [1]} if is_last else {"principals": [principal]}))
        rule = authorization_pb2.Rule(clauses=[authorization_pb2.Clause(matches=[match])])
        policy = authorization_pb2.Authorization(
            name=f"p{number}", namespace=namespace, scope=authorization_pb2.NAMESPACE, rules=[rule],
            action=authorization_pb2.ALLOW,
        )  # fmt: skip
        made.append(
            (names.AUTHORIZATION_TYPE, f"{namespace}/p{number}", base64.b64encode(policy.SerializeToString()).decode())
        )
    return made


def unpacked(body: str) -> bytes:
    """Return the message of a resource."""
    return base64.b64decode(body)


def _workload(pod: pods.Pod) -> Resource:
    return _of(pod.name, pod.ip)


def _of(name: str, ip: str) -> Resource:
    uid = f"Kubernetes//Pod/bench/{name}"
    workload = workload_pb2.Workload(
        uid=uid,
        name=name,
        namespace="bench",
        addresses=[ip_address(ip).packed],
        tunnel_protocol=workload_pb2.HBONE,
        service_account=name,
        node=f"node-{name}",
        workload_name=name,
        canonical_name=name,
        canonical_revision="v1",
        workload_type=workload_pb2.POD,
    )
    body = workload_pb2.Address(workload=workload).SerializeToString()
    return names.ADDRESS_TYPE, uid, base64.b64encode(body).decode()


async def envoys(stack: AsyncExitStack, bridge: pods.Bridge, load: Path, folder: Path) -> Contender:
    """Two Envoys: TCP tunnelling over mTLS HTTP/2 CONNECT, and its termination."""
    contender = Contender("Envoy", bridge.pod("envoy-client"), bridge.pod("envoy-server"))
    await serve(stack, contender.server, load)
    authority = TestAuthority()
    client, server = contender.client, contender.server

    def own(pod: pods.Pod) -> envoy_config.Inline:
        return envoy_config.Inline(*authority.issue(pod.identity), authority.roots)

    tunnel = envoy_config.tunnel_cluster("tunnel", server.ip, own(client), {"exact": server.identity})
    outbound = envoy_config.tunnel_listener(
        "outbound", "0.0.0.0", names.OUTBOUND_PORT, "tunnel", "%DOWNSTREAM_LOCAL_ADDRESS%", [],
        listener_filters=[envoy_config.original_destination_filter()],
    )  # fmt: skip
    endpoint = {"endpoint": {"address": envoy_config.socket_address(server.ip, PORT)}}
    routes = [envoy_config.connect_route("application")]
    inbound = envoy_config.connect_listener(
        server.ip, own(server), {"prefix": "spiffe://cluster.local/"}, routes, log=[]
    )
    plans = {client: ([outbound], [tunnel]), server: ([inbound], [envoy_config.cluster("application", endpoint)])}
    for pod, (listeners, clusters) in plans.items():
        place = folder / pod.name
        place.mkdir()
        settings = envoy_config.bootstrap(place / "admin.sock", listeners, clusters)
        running = envoy.running(place, pod.netns, settings, concurrency=THREADS)
        contender.proxies.append((await stack.enter_async_context(running)).pid)
        pod.capture()
    return contender


async def serve(stack: AsyncExitStack, pod: pods.Pod, load: Path, how: str = "serve") -> None:
    """Start a server of the load generator in ``pod``."""
    server = await pod.run(stack, str(load), how, pod.ip, str(PORT))
    await pods.ready(server)
