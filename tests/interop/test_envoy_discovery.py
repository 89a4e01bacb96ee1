"""A real Envoy and a tunnel on one discovery server: each sees its own world, in the order in which it needs it."""

import asyncio
import contextlib
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import address_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2

from meshapi import names
from meshkit.xds import client, serving
from meshkit.xds.ads import AggregatedDiscovery
from meshkit.xds.peer import Peer, SilentObserver
from meshkit.xds.source import ResourceSource
from tests.support.discovery_world import World
from tests.support.envoy import program
from tests.support.ports import free_port
from tests.support.running_control_plane import Recorder
from tests.support.waiting import until

CLUSTER, LISTENER = "web", "in"


class Seen(SilentObserver):
    """Notes who has connected, and what was refused."""

    def __init__(self) -> None:
        self.peers: list[Peer] = []
        self.reasons: list[str] = []

    def connected(self, peer: Peer) -> None:
        self.peers.append(peer)

    def refused(self, peer: Peer, type_url: str, resources: list[str], reason: str) -> None:
        self.reasons.append(f"{type_url}: {reason}")


def cluster(timeout_s: int) -> cluster_pb2.Cluster:
    made = cluster_pb2.Cluster(name=CLUSTER, type=cluster_pb2.Cluster.EDS)
    made.eds_cluster_config.eds_config.ads.SetInParent()
    made.eds_cluster_config.eds_config.resource_api_version = 2
    made.connect_timeout.seconds = timeout_s
    return made


def endpoints(port: int) -> endpoint_pb2.ClusterLoadAssignment:
    address = address_pb2.Address(socket_address=address_pb2.SocketAddress(address="127.0.0.1", port_value=port))
    one = endpoint_components_pb2.LbEndpoint(endpoint=endpoint_components_pb2.Endpoint(address=address))
    group = endpoint_components_pb2.LocalityLbEndpoints(lb_endpoints=[one])
    return endpoint_pb2.ClusterLoadAssignment(cluster_name=CLUSTER, endpoints=[group])


def listener(port: int) -> listener_pb2.Listener:
    proxy = listener_components_pb2.Filter(name="tcp")
    proxy.typed_config.Pack(tcp_proxy_pb2.TcpProxy(stat_prefix="in", cluster=CLUSTER))
    return listener_pb2.Listener(
        name=LISTENER,
        address=address_pb2.Address(socket_address=address_pb2.SocketAddress(address="127.0.0.1", port_value=port)),
        filter_chains=[listener_components_pb2.FilterChain(filters=[proxy])],
    )


def bootstrap(socket: Path, admin_port: int, *, variant: str) -> dict[str, object]:
    source = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "5s"}
    return {
        "node": {"id": "waypoint~10.0.0.7~waypoint-1.shop~shop.svc.cluster.local", "cluster": "waypoint"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin_port}}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": variant,
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
            },
            "cds_config": source,
            "lds_config": source,
        },
        "static_resources": {
            "clusters": [
                {
                    "name": "xds",
                    "connect_timeout": "1s",
                    "typed_extension_protocol_options": {
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                            "explicit_http_config": {"http2_protocol_options": {}},
                        }
                    },
                    "load_assignment": {
                        "cluster_name": "xds",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": str(socket)}}}}]}],
                    },
                }
            ]
        },
    }


@contextlib.asynccontextmanager
async def envoy(folder: Path, socket: Path, admin_port: int, *, variant: str) -> AsyncIterator[None]:
    config = folder / "envoy.json"
    config.write_text(json.dumps(bootstrap(socket, admin_port, variant=variant)))
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            program(), "-c", str(config), "--use-dynamic-base-id", "--concurrency", "1", "-l", "warn",
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


async def served(port: int) -> bytes:
    """Return what is read from a port until it closes; nothing where nobody listens."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return b""
    try:
        return await reader.read(100)
    finally:
        writer.close()


async def served_is(port: int, wanted: bytes) -> None:
    async with asyncio.timeout(20):
        while await served(port) != wanted:
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def application(says: bytes) -> AsyncIterator[int]:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(says)
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def anyone(_: object) -> str:
    return "shop/waypoint"


@pytest.mark.parametrize("variant", ["GRPC", "DELTA_GRPC"])
async def test_envoy_and_a_tunnel_on_one_server_see_different_worlds(variant: str) -> None:
    for_tunnel = World(names.ADDRESS_TYPE, names.AUTHORIZATION_TYPE)
    for_envoy = World(names.CLUSTER_TYPE, names.ENDPOINT_TYPE, names.LISTENER_TYPE, names.ROUTE_TYPE)

    def view(peer: Peer) -> ResourceSource:
        return for_envoy if peer.node_type == "waypoint" else for_tunnel

    seen, port = Seen(), free_port()
    folder = Path(tempfile.mkdtemp(prefix="culvert-xds-"))
    socket = folder / "xds"
    discovery = AggregatedDiscovery(view, anyone, seen)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        first, second = [await stack.enter_async_context(application(says)) for says in (b"first", b"second")]
        await stack.enter_async_context(serving.serve_unix(socket, [discovery]))
        for_envoy.put(names.LISTENER_TYPE, LISTENER, listener(port))
        for_envoy.put(names.CLUSTER_TYPE, CLUSTER, cluster(1))
        for_envoy.put(names.ENDPOINT_TYPE, CLUSTER, endpoints(first))
        for_tunnel.put(names.ADDRESS_TYPE, "w", endpoints(1))
        received = Recorder()
        tunnel = client.DeltaClient(
            connect=client.unix_channel(socket),
            node=client.NodeInfo("ztunnel~10.0.0.1~ztunnel-1.istio-system~x"),
            subscriptions={names.ADDRESS_TYPE: client.EVERYTHING},
            receiver=received,
        )
        following = asyncio.create_task(tunnel.run())
        admin_port = free_port()
        await stack.enter_async_context(envoy(folder, socket, admin_port, variant=variant))
        await until(lambda: received.held)
        assert set(received.held) == {"w"}
        await served_is(port, b"first")
        assert {peer.name for peer in seen.peers} == {"waypoint-1.shop", "ztunnel-1.istio-system"}

        for_envoy.put(names.ENDPOINT_TYPE, CLUSTER, endpoints(second))
        await served_is(port, b"second")
        for_envoy.put(names.CLUSTER_TYPE, CLUSTER, cluster(2))
        await cluster_is_in_use(admin_port, connect_timeout_s=2)
        [peer] = [peer for peer in seen.peers if peer.node_type == "waypoint"]
        await refuses_a_bad_listener(for_envoy, seen, peer, port)
        assert await served(port) == b"second"
        following.cancel()


async def cluster_is_in_use(admin_port: int, *, connect_timeout_s: int) -> None:
    """A changed cluster is held back by Envoy until it has its endpoints, although these have not changed."""
    async with aiohttp.ClientSession() as session, asyncio.timeout(20):
        while f'"connect_timeout": "{connect_timeout_s}s"' not in await _text(session, admin_port, "/config_dump"):
            await asyncio.sleep(0.05)
        while not (await _text(session, admin_port, "/stats?filter=warming_clusters")).strip().endswith(": 0"):
            await asyncio.sleep(0.05)


async def refuses_a_bad_listener(world: World, seen: Seen, peer: Peer, port: int) -> None:
    """The reason arrives, with the name, until a good one is accepted."""
    bad = listener(port)
    bad.filter_chains[0].filters[0].typed_config.value = b"\xff\xff"
    world.put(names.LISTENER_TYPE, LISTENER, bad)
    await until(lambda: seen.reasons)
    assert seen.reasons[0].startswith(names.LISTENER_TYPE)
    record = peer.subscriptions[names.LISTENER_TYPE].record
    assert record.refused.keys() == {LISTENER}
    assert await served(port) == b"second", "the last good one stays"
    world.put(names.LISTENER_TYPE, LISTENER, listener(port))
    await until(lambda: not record.refused)


async def _text(session: aiohttp.ClientSession, port: int, path: str) -> str:
    async with session.get(f"http://127.0.0.1:{port}{path}") as answer:
        return await answer.text()
