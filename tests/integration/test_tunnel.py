"""The tunnel between real network namespaces, with the node agent's real rules."""

import asyncio
import os
from pathlib import Path

import pytest

from meshapi.proto import authorization_pb2, workload_pb2
from tests.support import namespaced
from tests.support.waiting import scaled, until

pytestmark = pytest.mark.root


def strict(mesh: namespaced.Mesh) -> None:
    presence = authorization_pb2.StringMatch(presence={})
    mesh.deny("strict", scope=authorization_pb2.GLOBAL, not_principals=[presence])


@pytest.mark.parametrize("server_node", [0, 1], ids=["same-node", "across-nodes"])
async def test_a_connection_between_pods_is_mutual_tls_and_keeps_the_clients_address(mesh, server_node) -> None:
    server = await mesh.pod("server", node=server_node)
    client = await mesh.pod("client")
    seen = await server.serve_peer(8080)

    assert await client.request(server.ip, 8080) == f"{client.ip} hello".encode()
    assert seen == [client.ip]
    line = await server.node.logged(direction="inbound", src__workload="client", dst__workload="server")
    assert line["src.identity"] == client.identity
    assert line["dst.identity"] == server.identity
    assert line["bytes_recv"] == len("hello")
    outbound = await client.node.logged(direction="outbound", src__workload="client", dst__workload="server")
    assert str(outbound["dst.addr"]).endswith(":15008")


async def test_a_client_outside_the_mesh_is_served_in_plain_text_unless_strict(mesh) -> None:
    server = await mesh.pod("server", node=1)
    outsider = await mesh.pod("outsider", captured=False)
    seen = await server.serve_peer(8080)

    assert await outsider.request(server.ip, 8080) == f"{outsider.ip} hello".encode()
    strict(mesh)
    with pytest.raises(OSError):
        await outsider.request(server.ip, 8080)
    assert seen == [outsider.ip]
    line = await server.node.logged(direction="inbound", src__workload="outsider")
    assert "src.identity" not in line

    def refused() -> int:
        return sum("explicitly denied by: shop/strict" in str(line.get("error")) for line in server.node.log)

    await until(refused)
    assert refused() == 1


async def test_a_client_of_the_mesh_passes_under_strict(mesh) -> None:
    server = await mesh.pod("server", node=1)
    client = await mesh.pod("client")
    await server.serve_peer(8080)
    strict(mesh)
    assert await client.request(server.ip, 8080) == f"{client.ip} hello".encode()


async def test_a_server_outside_the_mesh_is_reached_in_plain_text(mesh) -> None:
    server = await mesh.pod("server", node=1, captured=False)
    client = await mesh.pod("client")
    await server.serve_peer(8080)
    assert await client.request(server.ip, 8080) == f"{client.ip} hello".encode()
    line = await client.node.logged(direction="outbound", dst__workload="server")
    assert "src.identity" not in line


async def test_a_service_address_leads_to_a_healthy_endpoint(mesh) -> None:
    ipv6 = ":" in mesh.subnet
    vip = "fd99::1" if ipv6 else "10.99.0.1"
    servers = [await mesh.pod(f"server-{number}", node=1) for number in range(3)]
    client = await mesh.pod("client")
    # No host has the address; only capture makes it reachable.
    client.in_namespace(namespaced.route_everything)
    mesh.service("web", vip, {80: 8080})
    ports = {
        "shop/web.shop.svc.cluster.local": workload_pb2.PortList(ports=[{"service_port": 80, "target_port": 8080}])
    }
    for number, server in enumerate(servers):
        status = workload_pb2.UNHEALTHY if number == 0 else workload_pb2.HEALTHY
        mesh.announce(server, services=ports, status=status)
    seen = [await server.serve_peer(8080) for server in servers]

    for _ in range(30):
        assert (await client.request(vip, 80)).endswith(b"hello")
    assert len(seen[0]) == 0
    assert min(len(seen[1]), len(seen[2])) > 0
    line = await client.node.logged(direction="outbound", dst__service="web.shop.svc.cluster.local")
    assert line["dst.namespace"] == "shop"
    with pytest.raises(OSError):
        await client.request(vip, 81)


async def test_half_closed_connections_go_on_in_the_other_direction(mesh) -> None:
    server = await mesh.pod("server", node=1)
    client = await mesh.pod("client")

    async def answer_after_the_end(reader, writer) -> None:
        received = await reader.read(-1)
        for _ in range(3):
            writer.write(received)
            await writer.drain()
            await asyncio.sleep(0.05)
        writer.close()

    await server.serve(8080, answer_after_the_end)
    assert await client.request(server.ip, 8080, b"x" * 1000) == b"x" * 3000


async def test_large_transfers_arrive_whole(mesh) -> None:
    server = await mesh.pod("server", node=1)
    client = await mesh.pod("client")
    await server.serve_peer(8080)
    body = bytes(range(256)) * 40_000
    answer = await client.request(server.ip, 8080, body, within_s=30)
    assert answer.partition(b" ")[2] == body


async def test_a_port_without_a_listener_is_a_reset_for_the_client(mesh) -> None:
    server = await mesh.pod("server", node=1)
    client = await mesh.pod("client")
    with pytest.raises(ConnectionResetError):
        await client.request(server.ip, 9999)
    line = await client.node.logged(direction="outbound", dst__workload="server")
    assert "503" in str(line["error"])


async def test_deny_by_principal_names_the_policy_and_cuts_open_connections(mesh) -> None:
    server = await mesh.pod("server", node=1)
    client, other = await mesh.pod("client"), await mesh.pod("other")
    await server.serve_peer(8080)
    reader, writer = await client.connect(server.ip, 8080)
    writer.write(b"a")
    assert (await reader.read(100)).endswith(b"a") or (await reader.read(100)) == b"a"

    match = authorization_pb2.StringMatch(exact=client.identity.removeprefix("spiffe://"))
    mesh.deny("no-client", principals=[match])
    with pytest.raises(OSError):
        async with asyncio.timeout(scaled(2)):
            assert await reader.read(100) == b"never"
    writer.close()
    with pytest.raises(OSError):
        await client.request(server.ip, 8080)
    assert (await other.request(server.ip, 8080)).endswith(b"hello")
    reason = "explicitly denied by: shop/no-client"
    closed = await server.node.logged(error=f"connection closed due to policy change: {reason}")
    assert closed["src.identity"] == client.identity
    denied = await server.node.logged(error=f"connection closed due to policy rejection: {reason}")
    assert denied["src.workload"] == "client"
    await client.node.logged(direction="outbound", error="http status: 401 Unauthorized")

    mesh.withdraw_policy("no-client")
    assert (await client.request(server.ip, 8080)).endswith(b"hello")


async def test_a_policy_that_is_not_known_yet_denies_all_traffic_to_the_workload(mesh) -> None:
    server = await mesh.pod("server", node=1)
    client = await mesh.pod("client")
    await server.serve_peer(8080)
    server.labels_policies.append("shop/coming")
    mesh.announce(server)
    with pytest.raises(OSError):
        await client.request(server.ip, 8080)
    await server.node.logged(error="connection closed due to policy rejection: policy shop/coming is not known yet")
    mesh.policy("coming", authorization_pb2.ALLOW, scope=authorization_pb2.WORKLOAD_SELECTOR, destination_ports=[8080])
    assert (await client.request(server.ip, 8080)).endswith(b"hello")


async def test_a_peer_with_another_identity_than_announced_is_refused(mesh) -> None:
    server = await mesh.pod("server", node=1)
    client = await mesh.pod("client")
    seen = await server.serve_peer(8080)
    mesh.announce(server, service_account="another")
    with pytest.raises(OSError):
        await client.request(server.ip, 8080)
    assert seen == []
    line = await client.node.logged(direction="outbound", dst__workload="server")
    assert "identity verification error" in str(line["error"])


async def test_a_pod_that_calls_itself_is_not_captured(mesh) -> None:
    pod = await mesh.pod("pod")
    seen = await pod.serve_peer(8080)
    assert (await pod.request(pod.ip, 8080)).endswith(b"hello")
    assert seen == [pod.ip]
    assert pod.node.log == []


async def test_many_connections_share_few_tunnels(mesh) -> None:
    server = await mesh.pod("server", node=1)
    client = await mesh.pod("client")
    await server.serve_peer(8080)
    answers = await asyncio.gather(*(client.request(server.ip, 8080, within_s=15) for _ in range(250)))
    assert all(answer.endswith(b"hello") for answer in answers)


async def test_connections_older_than_the_rules_go_on(mesh) -> None:
    server = await mesh.pod("server", node=1, captured=False)
    client = await mesh.pod("client", captured=False)
    await server.serve_peer(8080)
    reader, writer = await client.connect(server.ip, 8080)
    writer.write(b"before ")
    await reader.readuntil(b"before ")
    for pod in (server, client):
        await mesh.enrol(pod)
        mesh.announce(pod)
    for _ in range(3):
        writer.write(b"after ")
        assert await asyncio.wait_for(reader.readuntil(b"after "), scaled(2))
    writer.close()
    assert (await client.request(server.ip, 8080)).endswith(b"hello")
    await server.node.logged(direction="inbound", src__identity=client.identity)


async def test_captured_connections_go_on_when_the_pod_is_unenrolled(mesh) -> None:
    from nodeagent.capture.plan import Mode

    server = await mesh.pod("server", node=1)
    client = await mesh.pod("client")
    await server.serve_peer(8080)
    reader, writer = await client.connect(server.ip, 8080)
    writer.write(b"before ")
    await reader.readuntil(b"before ")
    for pod in (server, client):
        pod.captured = False
        mesh.announce(pod)
        pod.capture(Mode.DRAIN)
        pod.node.engine.remove_workload(pod.uid)
    for _ in range(5):
        writer.write(b"after ")
        assert await asyncio.wait_for(reader.readuntil(b"after "), scaled(2))
        assert (await client.request(server.ip, 8080)).endswith(b"hello")
    writer.close()


async def test_without_a_certificate_nothing_passes(mesh) -> None:
    for node in mesh.nodes:
        node.withhold.add("spiffe://cluster.local/ns/shop/sa/client")
    server = await mesh.pod("server", node=1)
    client = await mesh.pod("client")
    seen = await server.serve_peer(8080)
    with pytest.raises(OSError):
        await client.request(server.ip, 8080)
    assert seen == []
    line = await client.node.logged(direction="outbound", dst__workload="server")
    assert "no certificate" in str(line["error"])


async def test_the_tunnel_never_uses_a_local_port_that_the_client_might_use(mesh) -> None:
    """A client's direct connection with the four-tuple of one that the tunnel made for it would hang."""
    server = await mesh.pod("server", node=1)
    client = await mesh.pod("client")
    outsider = await mesh.pod("outsider", captured=False)
    ports: list[int] = []

    async def note_port(reader, writer) -> None:
        ports.append(writer.get_extra_info("peername")[1])
        writer.write(await reader.read(-1))
        writer.close()

    await server.serve(8080, note_port)
    for source in (client, outsider):
        for _ in range(20):
            assert await source.request(server.ip, 8080) == b"hello"
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert len(ports) == 40
    assert max(ports) < lowest


async def test_removing_a_pod_does_not_affect_another_pod_on_the_same_thread() -> None:
    settings = {"max_worker_threads": 1, "removal_accept_ms": 1, "removal_drain_ms": 200}
    async with namespaced.mesh(settings=settings) as made:
        server = await made.pod("server", node=1)
        ends, stays = await made.pod("ends"), await made.pod("stays")
        await server.serve_peer(8080)
        (ended, writer), (reader, stayed) = [await pod.connect(server.ip, 8080) for pod in (ends, stays)]
        await ended.readuntil(b" ")
        await reader.readuntil(b" ")
        scene = made.nodes[0]
        assert scene.metric("culvert_worker_threads") == 1
        assert scene.metric("culvert_workloads_sharing_threads") == 2
        scene.engine.remove_workload(ends.uid)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(ended.read(1), scaled(5))
        assert scene.metric("culvert_workloads_sharing_threads") == 0
        writer.close()
        stayed.write(b"still here ")
        assert await asyncio.wait_for(reader.readuntil(b"here "), scaled(5)) == b"still here "
        assert (await stays.request(server.ip, 8080)).endswith(b"hello")
        stayed.close()


@pytest.mark.parametrize("way", ["idle", "carrying", "dialling", "removed", "draining"])
async def test_an_engine_that_is_closed_holds_no_namespace_and_no_event_loop(way: str) -> None:
    """Whatever was under way: one socket that was left would hold the loop that it was made for.

    The descriptor of events is the handle's and goes with it.
    """
    before = _held()
    await _closed_while(way)
    assert _held() == before


def _held() -> int:
    # The folder is listed through a descriptor that is gone by the time it is looked at.
    links = [os.readlink(one) for one in Path("/proc/self/fd").iterdir() if os.path.lexists(one)]  # noqa: PTH115
    return sum(link.startswith(("net:", "anon_inode:[eventpoll]")) or link == "/" for link in links)


async def _closed_while(way: str) -> None:
    before = _held()
    async with namespaced.mesh() as made:
        server, client = await made.pod("server", node=1), await made.pod("client")
        assert _held() > before
        if way == "idle":
            return
        await server.serve_peer(8080)
        reader, writer = await client.connect(server.ip, 8080)
        await reader.readexactly(1)
        dialling = asyncio.create_task(client.connect("10.77.0.250", 8080))
        if way == "dialling":
            await until(lambda: client.node.engine.connections() == 2 or client.node.engine.held() > 4)
        for node in made.nodes:
            if way == "draining":
                node.engine.drain(60_000)
            for pod in made.pods if way == "removed" else ():
                node.engine.remove_workload(pod.uid)
        for node in made.nodes:
            await node.close()
        dialling.cancel()
        (dialled,) = await asyncio.gather(dialling, return_exceptions=True)
        # The tunnel accepts before it dials, so that the application may have got its connection already.
        for connected in (writer, *([] if isinstance(dialled, BaseException) else dialled[1:])):
            connected.transport.abort()
