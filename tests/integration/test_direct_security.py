"""Threat ``forged-syn``: what must never be a direct connection, and what must not come of trying."""

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator
from ipaddress import ip_interface

import pytest

from meshapi import names
from meshapi.proto import authorization_pb2
from meshkit.linux import links, netns
from tests.support import namespaced, wire
from tests.support.backends import sandbox
from tests.support.direct import DirectMesh, connected, direct_mesh
from tests.support.waiting import scaled, until
from tests.support.wired import shell

pytestmark = pytest.mark.root

MARK = 36
"""``SO_MARK``."""


@pytest.fixture
async def direct() -> AsyncIterator[DirectMesh]:
    async with direct_mesh() as made:
        yield made


def syn(source: str, source_port: int, destination: str, port: int) -> bytes:
    """A TCP segment with a checksum over its IPv4 pseudo header."""
    head = struct.pack("!HHIIBBHHH", source_port, port, 1000, 0, 5 << 4, 0x02, 64000, 0, 0)
    ends = socket.inet_aton(source) + socket.inet_aton(destination)
    words = struct.unpack("!16H", ends + struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(head)) + head)
    total = sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    return head[:16] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + head[18:]


def send_raw(pod: namespaced.Pod, source: str, source_port: int, destination: str, port: int) -> None:
    """Send a SYN from a raw socket, which no hook of sockets sees."""

    def work() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            segment = syn(source, source_port, destination, port)
            head = struct.pack(
                "!BBHHHBBH4s4s", 0x45, 0, 20 + len(segment), 1, 0, 64, socket.IPPROTO_TCP, 0,
                socket.inet_aton(source), socket.inet_aton(destination),
            )  # fmt: skip
            raw.sendto(head + segment, (destination, 0))

    pod.in_namespace(work)


async def test_a_forged_syn_of_another_process_reaches_no_application(direct: DirectMesh) -> None:
    """With the address of an allowed client, from a pod outside of the mesh on the same wire."""
    client, server = await direct.pair()
    seen = await server.serve_peer(9090)
    attacker = await direct.mesh.pod("attacker", captured=False)
    await direct.learn(client, server.ip, 9090)
    before = (len(seen), direct.count("connected"))
    handed = direct.node.counts()["inbound"]
    for port in range(41000, 41050):
        send_raw(attacker, client.ip, port, server.ip, 9090)
    await until(lambda: direct.node.counts()["inbound"] >= handed + 50)  # a SYN without a record is the tunnel's
    assert (len(seen), direct.count("connected")) == before
    assert await direct.is_direct(client, server.ip, 9090)


async def test_a_forged_syn_with_the_addresses_of_a_connection_that_opens_gains_nothing(direct: DirectMesh) -> None:
    client, server = await direct.pair()
    attacker = await direct.mesh.pod("attacker", captured=False)
    for _ in range(20):
        one = client.in_namespace(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        with one:
            one.setblocking(False)
            one.bind((client.ip, 0))
            port = one.getsockname()[1]
            send_raw(attacker, client.ip, port, server.ip, 8080)
            await asyncio.get_running_loop().sock_connect(one, (server.ip, 8080))
            await asyncio.get_running_loop().sock_sendall(one, b"mine")
            received = b""
            while not received.endswith(b"mine"):
                received += await asyncio.wait_for(asyncio.get_running_loop().sock_recv(one, 100), 5)
            assert received == f"{client.ip} mine".encode()
    assert direct.count("connected") == 20


async def test_a_socket_of_the_pod_that_no_hook_has_seen_is_held_back(direct: DirectMesh) -> None:
    """A raw SYN with the pod's own address, to an allowed destination: the guard knows no record of it."""
    client, server = await direct.pair()
    handed = direct.node.counts()["inbound"]
    with wire.captured("eth0", "tcp port 8080", netns.path(server.netns)) as seen:
        for port in range(42000, 42010):
            send_raw(client, client.ip, port, server.ip, 8080)
        assert await direct.is_direct(client, server.ip, 8080), "what comes after them arrives"
    assert seen[0].packets(r"\.8080 >") > 0
    assert seen[0].packets(r"\.420\d\d >") == 0
    assert direct.node.counts()["inbound"] == handed


async def test_a_connection_that_opens_while_policy_changes_is_ended(direct: DirectMesh) -> None:
    """And its SYN is not taken for plain text, which has no identity that could be denied."""
    client, server = await direct.pair()
    shell(netns.path(client.netns), f"ip neigh replace {server.ip} lladdr 02:00:00:00:00:99 dev eth0 nud permanent")
    one = client.in_namespace(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    with one:
        one.setblocking(False)
        connecting = asyncio.create_task(asyncio.get_running_loop().sock_connect(one, (server.ip, 8080)))
        await until(lambda: direct.count("connected") == 1)
        direct.mesh.deny("no-client", principals=[exact(client)])
        shell(netns.path(client.netns), f"ip neigh del {server.ip} dev eth0")
        with pytest.raises(ConnectionAbortedError):
            await asyncio.wait_for(connecting, scaled(10))
    assert not [line for line in server.node.log if line.get("dst.addr") == f"{server.ip}:8080" and "error" not in line]


async def test_records_end_with_their_connections(direct: DirectMesh) -> None:
    client, server = await direct.pair()
    for _ in range(50):
        assert await direct.is_direct(client, server.ip, 8080)
    reader, writer = await client.connect(server.ip, 8080)
    await reader.readuntil(b" ")
    await until(lambda: direct.open() == 1)
    writer.transport.abort()
    await until(lambda: direct.open() == 0)


async def test_a_pod_that_gets_the_address_of_another_inherits_nothing(direct: DirectMesh) -> None:
    client, server = await direct.pair()
    assert await direct.is_direct(client, server.ip, 8080)
    client.node.engine.remove_workload(client.uid)
    release(direct, client)
    direct.mesh.withdraw(client)
    successor = await direct.mesh.pod("successor", captured=False)
    take_address(successor, client)
    direct.mesh.deny("no-client", principals=[exact(client)])
    await direct.mesh.enrol(successor)
    direct.mesh.announce(successor)
    await direct.learn(successor, server.ip, 8080)
    assert await direct.is_direct(successor, server.ip, 8080), "under an identity of its own"


async def test_a_destination_whose_address_goes_to_another_pod_gets_none_of_its_connections(
    direct: DirectMesh,
) -> None:
    client, server = await direct.pair()
    assert await direct.is_direct(client, server.ip, 8080)
    # The engine has not heard yet: the node agent has released the pod, and the table still allows the pair.
    release(direct, server)
    successor = await direct.mesh.pod("successor", captured=False)
    take_address(successor, server)
    seen = await successor.serve_peer(8080)
    before = direct.count("connected")
    with pytest.raises((ConnectionError, TimeoutError)):
        await client.request(successor.ip, 8080)
    assert direct.count("connected") == before
    assert seen == []


async def test_a_socket_that_the_hooks_leave_alone_is_not_direct(direct: DirectMesh) -> None:
    """It has the tunnel's mark: nothing is recorded, and the guard passes it."""
    client, server = await direct.pair()
    one = client.in_namespace(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    with one:
        one.setsockopt(socket.SOL_SOCKET, MARK, names.TUNNEL_MARK)
        one.settimeout(5)
        before = direct.count("connected")
        await asyncio.to_thread(one.connect, (server.ip, 8080))
        assert direct.count("connected") == before
    line = await server.node.logged(direction="inbound", dst__addr=f"{server.ip}:8080")
    assert "src.identity" not in line, "plain text, for the tunnel's listener"


async def test_a_socket_bound_to_another_address_goes_through_the_tunnel(direct: DirectMesh) -> None:
    client, server = await direct.pair()
    second = client.ip.rpartition(".")[0] + ".200"
    client.in_namespace(lambda: links.add_address("eth0", ip_interface(f"{second}/24")))
    before = direct.count("connected")
    one = client.in_namespace(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    with one:
        one.bind((second, 0))
        one.settimeout(5)
        await asyncio.to_thread(one.connect, (server.ip, 8080))
    assert direct.count("connected") == before
    one = await asyncio.to_thread(connected, client, server.ip, 8080)
    one.close()
    assert direct.count("connected") == before + 1


def exact(pod: namespaced.Pod) -> authorization_pb2.StringMatch:
    return authorization_pb2.StringMatch(exact=pod.identity.removeprefix("spiffe://"))


def release(direct: DirectMesh, pod: namespaced.Pod) -> None:
    """End a pod as the node agent sees it, and take its link away."""
    descriptor = os.open(netns.path(pod.netns), os.O_RDONLY)
    try:
        direct.mesh.backend.clear(sandbox(descriptor))
    finally:
        os.close(descriptor)
    shell(netns.path(pod.netns), "ip link del eth0")


def take_address(pod: namespaced.Pod, earlier: namespaced.Pod) -> None:
    shell(netns.path(pod.netns), f"ip addr flush dev eth0 scope global; ip addr add {earlier.ip}/24 dev eth0")
    pod.ip = earlier.ip
