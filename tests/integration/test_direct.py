"""Connections between two captured pods of one node, without the tunnel: which are, and what policy does to them."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator

import pytest

from meshapi.proto import authorization_pb2, workload_pb2
from tests.support import namespaced
from tests.support.direct import DirectMesh, carried, connected, direct_mesh
from tests.support.waiting import scaled, until

pytestmark = pytest.mark.root

SIZE = 200_000


@pytest.fixture
async def direct(subnet: str) -> AsyncIterator[DirectMesh]:
    async with direct_mesh(subnet) as made:
        yield made


async def test_after_the_first_connection_of_a_pair_no_byte_enters_the_tunnel(direct: DirectMesh) -> None:
    client, server = await direct.pair()
    with carried(server, 8080) as bytes_of:
        assert len(await client.request(server.ip, 8080, b"x" * SIZE)) > SIZE
    tunnel, plain = bytes_of()
    assert plain > 2 * SIZE
    assert tunnel < 500, "no more than acknowledgements of the first connection"
    assert direct.count("connected") == 1


async def test_both_ends_see_real_addresses(direct: DirectMesh) -> None:
    client, server = await direct.pair()
    one = await asyncio.to_thread(connected, client, server.ip, 8080)
    with one:
        assert one.getpeername()[:2] == (server.ip, 8080)
        assert one.getsockname()[0] == client.ip
        assert (await asyncio.to_thread(one.recv, 100)).decode().strip() == client.ip
    assert direct.count("connected") == 1


async def test_a_mapped_address_is_the_same_destination() -> None:
    async with direct_mesh("10.77.0.0/24") as direct:
        client, server = await direct.pair()
        one = await asyncio.to_thread(connected, client, f"::ffff:{server.ip}", 8080, socket.AF_INET6)
        with one:
            assert one.getpeername()[:2] == (f"::ffff:{server.ip}", 8080)
            assert (await asyncio.to_thread(one.recv, 100)).decode().strip() == client.ip
        assert direct.count("connected") == 1
        await until(lambda: direct.open() == 0)


async def test_pods_of_other_nodes_and_outside_of_the_mesh_are_reached_as_before(direct: DirectMesh) -> None:
    remote = await direct.mesh.pod("remote", node=1)
    outside = await direct.mesh.pod("outside", captured=False)
    client = await direct.mesh.pod("client")
    for pod in (remote, outside):
        await pod.serve_peer(8080)
        for _ in range(2):
            assert not await direct.is_direct(client, pod.ip, 8080)
    server = await direct.mesh.pod("server")
    await server.serve_peer(8080)
    for _ in range(2):
        assert not await direct.is_direct(outside, server.ip, 8080)


async def test_without_the_setting_every_connection_goes_through_the_tunnel(subnet: str) -> None:
    async with direct_mesh(subnet, direct_connections=False) as direct:
        client, server = await direct.strangers()
        for _ in range(3):
            assert not await direct.is_direct(client, server.ip, 8080)
        assert direct.pairs() == 0
    async with direct_mesh(subnet, limit=0) as direct:
        client, server = await direct.pair()
        assert not await direct.is_direct(client, server.ip, 8080)


async def test_a_destination_with_a_waypoint_is_reached_through_it(direct: DirectMesh) -> None:
    client, server = await direct.pair()
    assert await direct.is_direct(client, server.ip, 8080)
    waypoint = workload_pb2.GatewayAddress(
        hostname=workload_pb2.NamespacedHostname(namespace="shop", hostname="waypoint.shop.svc.cluster.local"),
        hbone_mtls_port=15008,
    )
    direct.mesh.announce(server, waypoint=waypoint)
    before = direct.count("connected")
    with pytest.raises(ConnectionError):
        await client.request(server.ip, 8080)  # there is no such waypoint
    assert direct.count("connected") == before
    direct.mesh.announce(server)
    assert await direct.is_direct(client, server.ip, 8080), "the pair is known, and allowed again"


async def test_strict_accepts_a_direct_connection_and_refuses_plain_text(direct: DirectMesh) -> None:
    client, server = await direct.pair()
    outside = await direct.mesh.pod("outside", captured=False)
    direct.mesh.policy(  # as the control plane writes PeerAuthentication STRICT
        "strict", authorization_pb2.DENY, not_principals=[authorization_pb2.StringMatch(presence={})]
    )
    assert await direct.is_direct(client, server.ip, 8080)
    with pytest.raises(ConnectionError):
        await outside.request(server.ip, 8080)


async def test_a_denied_pair_is_refused_with_the_reason_in_the_log(direct: DirectMesh) -> None:
    client, server = await direct.pair()
    direct.mesh.deny("no-client", principals=[_exact(client)])
    before = direct.count("connected")
    with pytest.raises(ConnectionError):
        await client.request(server.ip, 8080)
    assert direct.count("connected") == before
    error = "connection closed due to policy rejection: explicitly denied by: shop/no-client"
    await server.node.logged(direction="inbound", src__workload="client", error=error)


async def test_a_change_of_policy_ends_forbidden_connections_at_once_and_leaves_others_alone(
    direct: DirectMesh,
) -> None:
    client, server = await direct.pair()
    other = await direct.mesh.pod("other")
    await direct.learn(other, server.ip, 8080)
    reader, writer = await client.connect(server.ip, 8080)
    kept_reader, kept_writer = await other.connect(server.ip, 8080)
    await reader.readuntil(b" ")
    await kept_reader.readuntil(b" ")
    assert direct.count("connected") == 2
    began = time.monotonic()
    direct.mesh.deny("no-client", principals=[_exact(client)])
    with pytest.raises(OSError):  # ECONNABORTED
        await reader.read(1)
    assert time.monotonic() - began < scaled(0.05)
    assert direct.count("ended_by_policy") == 1
    kept_writer.write(b"still here")
    assert await kept_reader.readexactly(10) == b"still here"
    assert await direct.is_direct(other, server.ip, 8080)
    writer.close()
    kept_writer.close()
    direct.mesh.withdraw_policy("no-client")
    assert await direct.is_direct(client, server.ip, 8080)


async def test_a_port_that_policy_closes_is_closed_for_new_connections(direct: DirectMesh) -> None:
    client, server = await direct.pair()
    await server.serve_peer(8081)
    await direct.learn(client, server.ip, 8081)
    direct.mesh.deny("no-8081", destination_ports=[8081])
    assert await direct.is_direct(client, server.ip, 8080)
    with pytest.raises(ConnectionError):
        await client.request(server.ip, 8081)


async def test_a_pod_that_demands_the_tunnel_is_never_reached_or_left_directly(direct: DirectMesh) -> None:
    server = await direct.mesh.pod("server", captured=False)
    server.plan = namespaced.PodPlan(tunnel_always=True)
    await direct.mesh.enrol(server)
    direct.mesh.announce(server)
    client = await direct.mesh.pod("client")
    for one, another in ((client, server), (server, client)):
        await another.serve_peer(8080)
        for _ in range(3):
            assert not await direct.is_direct(one, another.ip, 8080)


async def test_more_connections_than_the_limit_go_through_the_tunnel(subnet: str) -> None:
    async with direct_mesh(subnet, limit=2) as direct:
        client, server = await direct.pair()
        kept = [await client.connect(server.ip, 8080) for _ in range(5)]
        for reader, _ in kept:
            assert (await reader.readuntil(b" ")).decode().strip() == client.ip
        assert direct.count("connected") == 2
        assert direct.count("full") == 3
        for _, writer in kept:
            writer.close()
        await until(lambda: direct.open() == 0)
        assert await direct.is_direct(client, server.ip, 8080)


async def test_a_refused_port_is_refused_as_by_plain_tcp(direct: DirectMesh) -> None:
    server = await direct.mesh.pod("server")
    client = await direct.mesh.pod("client")
    listener = server.in_namespace(
        lambda: socket.create_server((server.ip, 8080), family=socket.AF_INET6 if ":" in server.ip else socket.AF_INET)
    )
    reader, writer = await client.connect(server.ip, 8080)
    accepted, _ = await asyncio.to_thread(listener.accept)
    accepted.close()
    await reader.read()
    writer.close()
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.to_thread(connected, client, server.ip, 8080)
    assert direct.count("connected") == 1


def _exact(pod: namespaced.Pod) -> authorization_pb2.StringMatch:
    return authorization_pb2.StringMatch(exact=pod.identity.removeprefix("spiffe://"))
