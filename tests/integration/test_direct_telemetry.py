"""Direct connections in metrics and in the access log: as any other, by both reporters."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator

import pytest

from meshapi.proto import authorization_pb2
from tests.support import namespaced
from tests.support.direct import DirectMesh, connected, direct_mesh
from tests.support.waiting import until

pytestmark = pytest.mark.root

KERNEL = {"connection_security_policy": "kernel"}
REPORTERS = ("source", "destination")


@pytest.fixture
async def direct(subnet: str) -> AsyncIterator[DirectMesh]:
    async with direct_mesh(subnet) as made:
        yield made


def values(direct: DirectMesh, family: str) -> list[int]:
    """Of direct connections, by reporter."""
    node = direct.mesh.nodes[0]
    return [node.metric(f"istio_tcp_{family}", reporter=reporter, **KERNEL) for reporter in REPORTERS]


def lines(direct: DirectMesh, server: namespaced.Pod) -> list[dict[str, object]]:
    """The log's lines of direct connections, which name no tunnel."""
    host = f"[{server.ip}]" if ":" in server.ip else server.ip
    return [line for line in direct.mesh.nodes[0].log if str(line.get("dst.addr")).startswith(f"{host}:8080")]


async def test_both_reporters_count_connections_and_bytes_exactly(direct: DirectMesh) -> None:
    client, server = await direct.pair()
    sizes = (1, 1000, 300_000)
    for size in sizes:
        assert len(await client.request(server.ip, 8080, b"x" * size)) == size + len(client.ip) + 1
    await until(lambda: values(direct, "connections_closed") == [3, 3])
    assert values(direct, "connections_opened") == [3, 3]
    assert values(direct, "connections_failed") == [0, 0]
    assert values(direct, "received_bytes") == [sum(sizes)] * 2
    assert values(direct, "sent_bytes") == [sum(sizes) + 3 * (len(client.ip) + 1)] * 2


async def test_each_reporter_writes_a_line_with_both_identities(direct: DirectMesh) -> None:
    client, server = await direct.pair()
    await client.request(server.ip, 8080)
    await until(lambda: len(lines(direct, server)) == 2)
    by_direction = {str(line["direction"]): line for line in lines(direct, server)}
    assert by_direction.keys() == {"inbound", "outbound"}
    answer = len(client.ip) + 1 + 5
    for direction, sent, received in (("outbound", 5, answer), ("inbound", answer, 5)):
        line = by_direction[direction]
        assert line["src.identity"] == client.identity
        assert line["dst.identity"] == server.identity
        assert (line["src.workload"], line["dst.workload"]) == ("client", "server")
        assert (line["bytes_sent"], line["bytes_recv"]) == (sent, received)
        assert "error" not in line
        assert "dst.hbone_addr" not in line


async def test_a_long_connection_is_counted_while_it_is_open(direct: DirectMesh) -> None:
    client, server = await direct.pair()
    reader, writer = await client.connect(server.ip, 8080)
    writer.write(b"y" * 5000)
    await reader.readexactly(5000 + len(client.ip) + 1)
    await until(lambda: values(direct, "connections_opened") == [1, 1])
    await until(lambda: values(direct, "received_bytes") == [5000, 5000], within_s=15)
    assert values(direct, "connections_closed") == [0, 0]
    writer.close()
    await until(lambda: values(direct, "connections_closed") == [1, 1])
    assert values(direct, "received_bytes") == [5000, 5000]


@pytest.mark.parametrize("first", ["client", "server", "both"])
async def test_bytes_are_right_whoever_ends_the_connection_first(direct: DirectMesh, first: str) -> None:
    server = await direct.mesh.pod("server")
    client = await direct.mesh.pod("client")
    family = socket.AF_INET6 if ":" in server.ip else socket.AF_INET
    listener = server.in_namespace(lambda: socket.create_server((server.ip, 8080), family=family))

    def exchange() -> None:
        with connected(client, server.ip, 8080) as one, listener.accept()[0] as other:
            one.sendall(b"ask")
            assert other.recv(10) == b"ask"
            other.sendall(b"answer")
            assert one.recv(10) == b"answer"
            ends = {"client": [(one, other)], "server": [(other, one)], "both": [(one, other), (other, one)]}[first]
            for here, _ in ends:
                here.shutdown(socket.SHUT_WR)
            for _, there in ends:
                assert there.recv(10) == b""

    with listener:
        await asyncio.to_thread(exchange)  # through the tunnel
        for _ in range(5):
            await asyncio.to_thread(exchange)
    await until(lambda: values(direct, "connections_closed") == [5, 5])
    assert values(direct, "received_bytes") == [15, 15]
    assert values(direct, "sent_bytes") == [30, 30]


async def test_a_reset_and_a_refusal_are_failures(direct: DirectMesh) -> None:
    client, server = await direct.pair()
    one = await asyncio.to_thread(connected, client, server.ip, 8080)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()
    await until(lambda: values(direct, "connections_failed") == [1, 1])
    await until(lambda: {line["error"] for line in lines(direct, server)} == {"connection reset"})


async def test_a_connection_that_policy_ends_says_so(direct: DirectMesh) -> None:
    client, server = await direct.pair()
    reader, writer = await client.connect(server.ip, 8080)
    await reader.readuntil(b" ")
    await until(lambda: values(direct, "connections_opened") == [1, 1])
    direct.mesh.deny("nobody", principals=[authorization_pb2.StringMatch(presence={})])
    await until(lambda: len(lines(direct, server)) == 2)
    for line in lines(direct, server):
        assert line["error"] == "connection closed due to policy change: explicitly denied by: shop/nobody"
    assert direct.mesh.nodes[0].metric("istio_tcp_connections_closed", response_flags="DENY", **KERNEL) == 2
    writer.close()


async def test_policies_of_a_dry_run_are_reported(direct: DirectMesh) -> None:
    client, server = await direct.pair()
    message = authorization_pb2.Authorization(
        name="trial", namespace="shop", scope=authorization_pb2.NAMESPACE, action=authorization_pb2.DENY, dry_run=True,
        rules=[authorization_pb2.Rule(clauses=[authorization_pb2.Clause(matches=[authorization_pb2.Match(
            principals=[authorization_pb2.StringMatch(presence={})])])])],
    )  # fmt: skip
    direct.mesh.apply("shop/trial", message)
    assert await direct.is_direct(client, server.ip, 8080)
    await until(lambda: any("dry_run" in line for line in lines(direct, server)))


async def test_records_for_a_collector_have_the_same_fields() -> None:
    async with direct_mesh(access_log_records=True) as direct:
        client, server = await direct.pair()
        await client.request(server.ip, 8080)
        await until(lambda: len(lines(direct, server)) == 2)
        attributes = [{one.key for one in record.attributes} for record in direct.mesh.nodes[0].records]
        assert sum("dst.hbone_addr" not in keys for keys in attributes) == 2
