"""Real Envoy as an HBONE peer, in both directions, with certificates of our authority."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from meshapi.identity import SpiffeId
from meshapi.proto import authorization_pb2
from meshkit.secrets.manager import SecretManager
from meshkit.secrets.request import Issued
from meshkit.xds import sds, serving
from tests.interop import hbone_peers
from tests.support import envoy_config as config
from tests.support import namespaced
from tests.support.authority import IssuesCertificates, ProductAuthority, TestAuthority
from tests.support.waiting import until

pytestmark = pytest.mark.root

LARGE = bytes(range(256)) * 40_000
"""10 MB: more than both sides' windows."""


@pytest.fixture(params=[TestAuthority, ProductAuthority], ids=["test-ca", "our-ca"])
async def mesh(request: pytest.FixtureRequest):
    async with namespaced.mesh(authority=request.param()) as made:
        yield made


@pytest.fixture
async def test_mesh():
    async with namespaced.mesh() as made:
        yield made


async def answer_after_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer when the client has ended its half, in pieces: both halves must live on their own."""
    received = await reader.read(-1)
    for _ in range(3):
        writer.write(received)
        await writer.drain()
        await asyncio.sleep(0.05)
    writer.close()


class EndsFirst:
    """A server that ends its half at once and then takes what comes."""

    def __init__(self) -> None:
        self.received: list[int] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"bye")
        writer.write_eof()
        self.received.append(len(await reader.read(-1)))
        writer.close()

    async def takes_what_is_sent_afterwards(self, pod: namespaced.Pod, ip: str, port: int) -> None:
        reader, writer = await pod.connect(ip, port)
        assert await asyncio.wait_for(reader.read(-1), 3) == b"bye"
        writer.write(b"x" * 100_000)
        await writer.drain()
        writer.close()
        await until(lambda: self.received == [100_000])


# --- our client, Envoy's server ---------------------------------------------------------------------------------------


async def test_our_client_reaches_envoy(mesh, tmp_path: Path) -> None:
    async with hbone_peers.server(mesh, tmp_path) as (envoy, server):
        client = await mesh.pod("client")
        await server.serve_peer(8080)
        await server.serve(8081, answer_after_the_end)
        await server.serve(8082, EndsFirst())

        assert (await client.request(server.ip, 8080)).endswith(b"hello")
        assert (await client.request(server.ip, 8080, LARGE, within_s=30)).partition(b" ")[2] == LARGE
        assert await client.request(server.ip, 8081, b"x" * 1000) == b"x" * 3000
        # Where the server ends first, Envoy gives up the other half too (RST_STREAM with NO_ERROR): to us it is an end.
        reader, writer = await client.connect(server.ip, 8082)
        assert await asyncio.wait_for(reader.read(-1), 3) == b"bye"
        writer.close()
        end = await client.node.logged(direction="outbound", dst__hbone_addr=f"{server.ip}:8082")
        assert (end["bytes_recv"], end.get("error")) == (3, None)

        line = await envoy.logged(authority=f"{server.ip}:8080", status=200, received=5)
        assert line["peer"] == client.identity
        assert line["client"] == client.ip
        assert line["tls"] == "TLSv1.3"
        assert line["sni"] is None
        members = dict(pair.split("=") for pair in str(line["baggage"]).split(","))
        assert members["k8s.namespace.name"] == "shop"
        assert members["k8s.pod.name"] == members["service.name"] == "client"
        assert re.fullmatch(rf'for="{re.escape(client.ip)}:\d+"', str(line["forwarded"]))
        assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", str(line["traceparent"]))
        ours = await client.node.logged(direction="outbound", dst__workload="server")
        assert ours["dst.identity"] == server.identity
        assert ours["dst.hbone_addr"] == f"{server.ip}:8080"


async def test_streams_to_envoy_share_tunnels(test_mesh, tmp_path: Path) -> None:
    async with hbone_peers.server(test_mesh, tmp_path) as (envoy, server):
        client = await test_mesh.pod("client")
        await server.serve_peer(8080)
        answers = await asyncio.gather(*(client.request(server.ip, 8080, within_s=15) for _ in range(150)))
        assert all(answer.endswith(b"hello") for answer in answers)
        assert await envoy.counter("http.hbone.downstream_rq_total") == 150
        # A tunnel takes 100 streams.
        assert await envoy.counter("http.hbone.downstream_cx_total") in (1, 2)


async def test_envoys_refusals_reset_our_client(test_mesh, tmp_path: Path) -> None:
    statuses = {9400: 400, 9401: 401, 9403: 403, 9503: 503}
    async with hbone_peers.server(test_mesh, tmp_path, statuses=statuses) as (envoy, server):
        client = await test_mesh.pod("client")
        for port, status in {**statuses, 9999: 503}.items():  # the last port has no listener
            with pytest.raises(ConnectionResetError):
                await client.request(server.ip, port)
            await envoy.logged(authority=f"{server.ip}:{port}", status=status)
            line = await client.node.logged(direction="outbound", dst__hbone_addr=f"{server.ip}:{port}")
            assert f"http status: {status}" in str(line["error"])


async def test_an_envoy_with_another_identity_is_refused(test_mesh, tmp_path: Path) -> None:
    stranger = hbone_peers.certificate(test_mesh, "spiffe://cluster.local/ns/shop/sa/stranger")
    async with hbone_peers.server(test_mesh, tmp_path, own=stranger) as (envoy, server):
        client = await test_mesh.pod("client")
        seen = await server.serve_peer(8080)
        with pytest.raises(OSError):
            await client.request(server.ip, 8080)
        line = await client.node.logged(direction="outbound", dst__workload="server")
        assert "identity verification error" in str(line["error"])
        assert seen == []
        assert envoy.lines() == []


async def test_envoy_refuses_our_client_when_it_wants_another(test_mesh, tmp_path: Path) -> None:
    only: config.Json = {"exact": "spiffe://cluster.local/ns/shop/sa/somebody-else"}
    async with hbone_peers.server(test_mesh, tmp_path, clients=only) as (envoy, server):
        client = await test_mesh.pod("client")
        seen = await server.serve_peer(8080)
        with pytest.raises(OSError):
            await client.request(server.ip, 8080)
        await client.node.logged(direction="outbound", dst__workload="server", level="error")
        assert seen == []
        assert await envoy.counter("listener.hbone.ssl.fail_verify_san") > 0


class _Issuer:
    """The CA of the node agent's SecretManager; here it is in this process."""

    def __init__(self, authority: IssuesCertificates) -> None:
        self._authority = authority

    async def issue(self, identity: SpiffeId) -> Issued:
        chain, key = self._authority.issue(str(identity))
        now = datetime.now(UTC)
        return Issued(chain, key, self._authority.roots, now, now + timedelta(hours=1))


async def test_an_envoy_with_certificates_of_our_sds_server_is_a_peer(mesh, tmp_path: Path) -> None:
    identity = SpiffeId.parse("spiffe://cluster.local/ns/shop/sa/server")
    keeper = SecretManager(_Issuer(mesh.authority))
    keeper.acquire(identity)
    socket = tmp_path / "sds.sock"
    try:
        async with (
            serving.serve_unix(socket, [sds.SecretDiscovery(keeper)]),
            hbone_peers.server(mesh, tmp_path, own=config.FromSds(str(identity), socket)) as (envoy, server),
        ):
            client = await mesh.pod("client")
            await server.serve_peer(8080)
            assert (await client.request(server.ip, 8080)).endswith(b"hello")
            await envoy.logged(peer=client.identity, status=200)
    finally:
        await keeper.close()


# --- Envoy's client, our server ---------------------------------------------------------------------------------------


async def test_envoy_reaches_our_server(mesh, tmp_path: Path) -> None:
    server = await mesh.pod("server", node=1)
    seen = await server.serve_peer(8080)
    await server.serve(8081, answer_after_the_end)
    await server.serve(8082, ends_first := EndsFirst())
    to = [f"{server.ip}:{port}" for port in (8080, 8081, 8082)]
    async with hbone_peers.client(mesh, tmp_path, server, to) as client:
        # The application sees the client pod's own address.
        assert await client.request(to[0]) == f"{client.pod.ip} hello".encode()
        assert seen == [client.pod.ip]
        assert (await client.request(to[0], LARGE, within_s=30)).partition(b" ")[2] == LARGE
        assert await client.request(to[1], b"x" * 1000) == b"x" * 3000
        await ends_first.takes_what_is_sent_afterwards(client.pod, "127.0.0.1", client.port(to[2]))

        line = await server.node.logged(direction="inbound", src__workload="client", bytes_recv=5)
        assert line["src.identity"] == client.pod.identity
        assert line["dst.hbone_addr"] == to[0]
        answered = await client.envoy.logged(peer=server.identity, flags="-")
        # What we say of the workload that answers.
        assert "k8s.pod.name=server" in str(answered["answer"])


async def test_streams_of_envoy_share_tunnels(test_mesh, tmp_path: Path) -> None:
    server = await test_mesh.pod("server", node=1)
    await server.serve_peer(8080)
    to = f"{server.ip}:8080"
    async with hbone_peers.client(test_mesh, tmp_path, server, [to]) as client:
        await client.request(to)  # until the first peer has announced its limit, Envoy opens a connection per stream
        answers = await asyncio.gather(*(client.request(to, within_s=15) for _ in range(150)))
        assert all(answer.endswith(b"hello") for answer in answers)
        assert await client.envoy.counter("cluster.tunnel.upstream_cx_total") == 1


async def test_envoy_sees_our_refusals(test_mesh, tmp_path: Path) -> None:
    server = await test_mesh.pod("server", node=1)
    seen = await server.serve_peer(8080)
    refused = {
        "10.77.0.250:8080": "400",  # not this pod
        f"{server.ip}:9999": "503",  # no listener
        f"{server.ip}:15008": "503",  # the tunnel itself
        "nobody.shop.svc.cluster.local:80": "503",  # no such service here
        f"{server.ip}:8080": "401",  # policy
    }
    match = authorization_pb2.StringMatch(exact="cluster.local/ns/shop/sa/client")
    test_mesh.deny("no-client", principals=[match], destination_ports=[8080])
    async with hbone_peers.client(test_mesh, tmp_path, server, list(refused)) as client:
        for authority, status in refused.items():
            before = len(client.envoy.lines())
            with pytest.raises((OSError, AssertionError)):
                assert await client.request(authority) != b""
            async with asyncio.timeout(5):
                while len(client.envoy.lines()) == before:
                    await asyncio.sleep(0.02)
            assert client.envoy.lines()[before]["answer"] == {"headers": [{"key": ":status", "value": status}]}
        assert seen == []
        await server.node.logged(
            error="connection closed due to policy rejection: explicitly denied by: shop/no-client"
        )


async def test_our_server_reads_the_baggage_of_an_unannounced_client(test_mesh, tmp_path: Path) -> None:
    server = await test_mesh.pod("server", node=1)
    await server.serve_peer(8080)
    to = f"{server.ip}:8080"
    headers = {"baggage": "k8s.namespace.name=far,k8s.deployment.name=away,service.name=away,k8s.cluster.name=other"}
    far = hbone_peers.certificate(test_mesh, "spiffe://cluster.local/ns/far/sa/away")
    async with hbone_peers.client(test_mesh, tmp_path, server, [to], own=far, headers=headers) as client:
        assert (await client.request(to)).endswith(b"hello")
        line = await server.node.logged(direction="inbound", src__workload="away")
        assert (line["src.namespace"], line["src.cluster"]) == ("far", "other")
        assert line["src.identity"] == "spiffe://cluster.local/ns/far/sa/away"


async def test_envoy_refuses_our_server_when_it_expects_another(test_mesh, tmp_path: Path) -> None:
    server = await test_mesh.pod("server", node=1)
    seen = await server.serve_peer(8080)
    to = f"{server.ip}:8080"
    other = "spiffe://cluster.local/ns/shop/sa/other"
    async with hbone_peers.client(test_mesh, tmp_path, server, [to], expected=other) as client:
        with pytest.raises((OSError, AssertionError)):
            assert await client.request(to) != b""
        assert await client.envoy.counter("cluster.tunnel.ssl.fail_verify_san") > 0
        assert seen == []


@pytest.mark.parametrize("stranger", ["another trust domain", "another authority"])
async def test_our_server_refuses_an_envoy_that_is_not_of_the_mesh(test_mesh, tmp_path: Path, stranger: str) -> None:
    server = await test_mesh.pod("server", node=1)
    seen = await server.serve_peer(8080)
    to = f"{server.ip}:8080"
    if stranger == "another trust domain":
        own = hbone_peers.certificate(test_mesh, "spiffe://elsewhere.example/ns/shop/sa/client")
    else:
        chain, key = TestAuthority().issue("spiffe://cluster.local/ns/shop/sa/client")
        own = config.Inline(chain, key, test_mesh.authority.roots)
    async with hbone_peers.client(test_mesh, tmp_path, server, [to], own=own) as client:
        with pytest.raises((OSError, AssertionError)):
            assert await client.request(to) != b""
        await server.node.logged(direction="inbound", level="error")
        assert seen == []
