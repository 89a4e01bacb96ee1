"""A waypoint's host with a real Envoy, the product's control plane as authority, and a world that the test serves."""

import asyncio
import contextlib
import datetime
import json
import os
import signal
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.access_loggers.file.v3 import file_pb2  # noqa: F401  (types of the listener)
from envoy.extensions.filters.http.router.v3 import router_pb2  # noqa: F401
from envoy.extensions.filters.network.http_connection_manager.v3 import (  # noqa: F401
    http_connection_manager_pb2,
)
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2  # noqa: F401
from google.protobuf import json_format
from hyperframe import frame as frames

from controlplane.app import ControlPlane
from meshapi import names
from meshkit.xds.peer import Peer
from meshkit.xds.source import ResourceSource
from tests.support import envoy_config as config
from tests.support.attacker import PREFACE, Attacker, tls_context
from tests.support.authority import ProductAuthority
from tests.support.discovery_world import World
from tests.support.fake_kubernetes import FakeKubernetes, token_user
from tests.support.kubernetes_objects import namespace, pod
from tests.support.ports import free_port
from tests.support.running_control_plane import Running, serving
from tests.support.waiting import until
from tests.support.waypoint_host import WaypointHost, waypoint_host
from waypoint import pilot_agent

IDENTITY = "spiffe://cluster.local/ns/shop/sa/waypoint"
TOKEN = "waypoint-token"


@dataclass
class Mesh:
    """A control plane whose waypoints see ``world``."""

    api: FakeKubernetes
    running: Running
    world: World
    peers: list[Peer]

    @property
    def roots(self) -> bytes:
        return self.running.root_file.read_bytes()

    @contextlib.asynccontextmanager
    async def host(self, **more: str) -> AsyncIterator[WaypointHost]:
        labels = {names.GATEWAY_NAME_LABEL: "waypoint", "pod-template-hash": "abc"}
        port = self.running.plane.port
        async with waypoint_host(xds_port=port, roots=self.roots, token=TOKEN, labels=labels, **more) as made:
            yield made

    def client(self) -> ssl.SSLContext:
        """The TLS context of a peer in the mesh."""
        secret = self.api.get("secrets", names.CA_SECRET, names.DEFAULT_NAMESPACE)
        assert secret is not None
        from meshkit.kube import objects

        data = objects.secret_data(secret)
        authority = ProductAuthority((data["ca-cert.pem"], data["ca-key.pem"]))
        return tls_context(*authority.issue("spiffe://cluster.local/ns/shop/sa/curl"), self.roots)


@pytest.fixture
async def mesh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Mesh]:
    world = World(names.CLUSTER_TYPE, names.ENDPOINT_TYPE, names.LISTENER_TYPE, names.ROUTE_TYPE)
    peers: list[Peer] = []
    original = ControlPlane._view

    def view(plane: ControlPlane, peer: Peer) -> ResourceSource:
        if peer.node_type != "waypoint":
            return original(plane, peer)
        peers.append(peer)
        return world

    monkeypatch.setattr(ControlPlane, "_view", view)
    async with FakeKubernetes() as api:
        api.put("namespaces", namespace("istio-system"))
        api.put("namespaces", namespace("shop"))
        api.put("pods", pod("waypoint-1", account="waypoint", uid="w"))
        api.tokens = {TOKEN: token_user("shop", "waypoint", "waypoint-1", "w")}
        async with serving(api, tmp_path) as running:
            yield Mesh(api, running, world, peers)


@contextlib.asynccontextmanager
async def echo() -> AsyncIterator[int]:
    async def repeat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(repeat, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def serve_tunnel(world: World, port: int, application: int) -> None:
    """Terminate HBONE on ``port`` with the certificate that the host serves."""
    certificate = config.FromSds(names.WORKLOAD_SECRET_NAME, Path("unused"))
    address = config.socket_address("127.0.0.1", port)
    routes = [config.connect_route("app")]
    listener = config.connect_listener("127.0.0.1", certificate, {"prefix": "spiffe://"}, routes, [], address=address)
    text = json.dumps(listener).replace('"cluster_name": "sds"', f'"cluster_name": "{names.SDS_CLUSTER}"')
    application_address = {"endpoint": {"address": config.socket_address("127.0.0.1", application)}}
    cluster = json.dumps(config.cluster("app", application_address))
    world.put(names.CLUSTER_TYPE, "app", json_format.Parse(cluster, cluster_pb2.Cluster()))
    world.put(names.LISTENER_TYPE, "hbone", json_format.Parse(text, listener_pb2.Listener()))


@contextlib.asynccontextmanager
async def tunnel(context: ssl.SSLContext, port: int) -> AsyncIterator[Attacker]:
    """A well-behaved HTTP/2 connection."""
    made = Attacker(*await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=""))
    try:
        made.send(PREFACE, frames.SettingsFrame(0))
        yield made
    finally:
        await made.close()


async def exchanged(connection: Attacker, stream: int, message: bytes) -> None:
    """Send on an open stream, and wait for the echo."""
    before = len(connection.data(stream))
    connection.send(frames.DataFrame(stream, message))
    async with asyncio.timeout(5):
        while len(connection.data(stream)) < before + len(message):
            await asyncio.sleep(0.01)


async def opened(connection: Attacker, stream: int) -> None:
    connection.connect(stream, "app:80")
    assert isinstance(await connection.answer(stream), frames.HeadersFrame)
    await exchanged(connection, stream, b"hello")


async def test_an_empty_world_makes_a_ready_waypoint_that_says_who_it_is(mesh: Mesh) -> None:
    async with mesh.host() as host:
        await host.ready()
        assert mesh.peers
        [peer] = {id(peer): peer for peer in mesh.peers}.values()
        assert peer.node_id == "waypoint~127.0.0.1~waypoint-1.shop~shop.svc.cluster.local"
        assert peer.identity == "shop/waypoint-1" or "waypoint" in peer.identity
        wanted = {"NAMESPACE": "shop", "SERVICE_ACCOUNT": "waypoint", "CLUSTER_ID": "Kubernetes"}
        assert wanted.items() <= peer.metadata.items()
        assert peer.metadata["WORKLOAD_NAME"] == "waypoint"
        assert peer.metadata["LABELS"] == {names.GATEWAY_NAME_LABEL: "waypoint"}
        host.terminate()
        assert await host.ended() == 0


async def test_the_certificate_is_the_authoritys_and_traffic_goes_through_envoy(mesh: Mesh) -> None:
    port = free_port()
    async with echo() as application, mesh.host() as host:
        serve_tunnel(mesh.world, port, application)
        await host.ready()
        async with tunnel(mesh.client(), port) as connection:
            await opened(connection, 1)
            tls = connection.writer.get_extra_info("ssl_object")
            certificate = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True))
            names_of = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            assert names_of.get_values_for_type(x509.UniformResourceIdentifier) == [IDENTITY]
        status, text = await host.get("METRICS_PORT", "/stats/prometheus")
        assert status == 200
        assert "envoy_cluster_upstream_cx_total" in text
        assert "culvert_waypoint_discovery_connected 1.0" in text
        status, text = await host.get("PROMETHEUS_PORT", "/stats/prometheus")
        assert status == 200
        assert "envoy_server_live" in text


async def test_a_configuration_that_comes_later_is_taken(mesh: Mesh) -> None:
    port = free_port()
    async with echo() as application, mesh.host() as host:
        await host.ready()
        serve_tunnel(mesh.world, port, application)
        await listening(port)
        async with tunnel(mesh.client(), port) as connection:
            await opened(connection, 1)


async def test_a_crashed_envoy_is_started_again_with_its_configuration(mesh: Mesh) -> None:
    port = free_port()
    async with echo() as application, mesh.host() as host:
        serve_tunnel(mesh.world, port, application)
        await host.ready()
        first = await host.envoy_pid()
        os.kill(first, signal.SIGKILL)
        async with asyncio.timeout(20):
            while await host.envoy_pid() in {0, first}:
                await asyncio.sleep(0.05)
        await host.ready()
        await listening(port)
        async with tunnel(mesh.client(), port) as connection:
            await opened(connection, 1)
        _, text = await host.get("METRICS_PORT", "/stats/prometheus")
        assert "culvert_waypoint_envoy_crashes_total 1.0" in text


async def test_envoy_never_outlives_its_host(mesh: Mesh) -> None:
    async with mesh.host() as host:
        await host.ready()
        envoy = await host.envoy_pid()
        assert envoy
        host.process.kill()
        await host.ended()
        await until(lambda: not Path(f"/proc/{envoy}").exists())


async def test_a_waypoint_that_ends_sends_clients_away_and_lets_streams_finish(mesh: Mesh) -> None:
    port = free_port()
    async with echo() as application, mesh.host(MINIMUM_DRAIN_S="2") as host:
        serve_tunnel(mesh.world, port, application)
        await host.ready()
        context = mesh.client()
        async with tunnel(context, port) as busy, tunnel(context, port) as idle, tunnel(context, port) as unused:
            await opened(busy, 1)
            await opened(idle, 1)
            assert unused.goaway is None
            idle.send(frames.DataFrame(1, b"", flags=["END_STREAM"]))
            host.terminate()
            await until_async(host.readiness, "503: not ready, pending: draining")
            # Endpoint lists take a moment to arrive: a client that knows nothing yet is served.
            async with tunnel(context, port) as late:
                await opened(late, 1)
            await opened(idle, 3)
            await asyncio.wait_for(told_to_go(idle), 10)
            idle.send(frames.DataFrame(3, b"", flags=["END_STREAM"]))
            await exchanged(busy, 1, b"to the end")
            busy.send(frames.DataFrame(1, b"", flags=["END_STREAM"]))
            assert await busy.hung_up()
            began = datetime.datetime.now(datetime.UTC)
            assert await host.ended() == 0, host.log
            assert (datetime.datetime.now(datetime.UTC) - began).total_seconds() < 10
        assert "streams_cut=0" in host.log


async def told_to_go(connection: Attacker) -> None:
    while connection.goaway is None and not connection.ended:
        await asyncio.sleep(0.02)


async def until_async(probe: object, wanted: str) -> None:
    async with asyncio.timeout(5):
        while await probe() != wanted:  # type: ignore[operator]
            await asyncio.sleep(0.02)


async def test_the_time_for_streams_is_bounded(mesh: Mesh) -> None:
    port = free_port()
    more = {"MINIMUM_DRAIN_S": "1", "TERMINATION_GRACE_PERIOD_SECONDS": "4"}
    async with echo() as application, mesh.host(**more) as host:
        serve_tunnel(mesh.world, port, application)
        await host.ready()
        async with tunnel(mesh.client(), port) as busy:
            await opened(busy, 1)
            host.terminate()
            assert await host.ended() == 0
            assert "streams_cut=1" in host.log
            assert await busy.hung_up()


async def test_pilot_agent_reads_envoys_admin_pages(mesh: Mesh, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    async with mesh.host() as host:
        await host.ready()
        port = host.ports["ADMIN_PORT"]
        assert await asyncio.to_thread(pilot_agent.run, ["request", "GET", "stats?filter=server.live"], port) == 0
        assert capfdbinary.readouterr().out.endswith(b"server.live: 1\n")
        assert await asyncio.to_thread(pilot_agent.run, ["request", "GET", "nonsense"], port) == 1
        assert await asyncio.to_thread(pilot_agent.run, ["request", "GET"], port) == 2


async def listening(port: int) -> None:
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.05)
