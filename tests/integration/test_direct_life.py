"""Direct connections while engines and node agents end, follow each other, and are removed."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from meshapi.proto import authorization_pb2
from meshkit.linux import netns
from nodeagent.capture.ebpf.pod import EbpfCapture
from nodeagent.capture.plan import Mode, PodPlan
from nodeagent.capture.pod_network import PodNetwork
from tests.integration.test_ebpf_life import bpftool, loaded, pinned
from tests.integration.threats.test_revocation import LIVE, Below
from tests.support import ebpf, namespaced, ztunnels
from tests.support.backends import sandbox
from tests.support.direct import LIMIT, DirectMesh, direct_mesh
from tests.support.waiting import until

pytestmark = pytest.mark.root


KILLS = int(os.environ.get("CULVERT_KILLS", "2"))
AGENTS = int(os.environ.get("CULVERT_AGENTS", "3"))
"""More repeat the same steps: 50 are run by hand, see docs/performance.md."""


@pytest.fixture
async def direct() -> AsyncIterator[DirectMesh]:
    async with direct_mesh() as made:
        yield made


def connected(direct: DirectMesh) -> int:
    """Direct connections so far, as the kernel has counted them."""
    per_cpu = bpftool("map", "dump", "pinned", str(direct.pins / "v1" / "cv_flow_counts"))[0]["values"]
    return sum(int.from_bytes(bytes(int(byte, 16) for byte in one["value"]), "little") for one in per_cpu)


async def engine(direct: DirectMesh, *pods: namespaced.Pod) -> namespaced.Node:
    """A further engine of the node, which knows and serves these pods; not attached yet."""
    node = direct.mesh.node("node-0")
    for pod in pods:
        direct.mesh.announce(pod)
    for pod in pods:
        await node.add(pod)
        pod.node = node
    await until(lambda: node.engine.dump("certificates").count("Available") >= len(pods))
    return node


async def test_without_an_engine_the_kernel_goes_on_and_the_next_one_takes_over(direct: DirectMesh) -> None:
    client, server = await direct.pair()
    reader, writer = await client.connect(server.ip, 8080)
    await reader.readuntil(b" ")
    await direct.mesh.nodes[0].close()
    writer.write(b"still")
    assert await reader.readexactly(5) == b"still"
    before = connected(direct)
    for _ in range(20):
        assert (await client.request(server.ip, 8080)).endswith(b"hello")
    assert connected(direct) == before + 20
    direct.mesh.nodes.pop(0)
    node = await engine(direct, client, server)
    node.engine.attach_direct(direct.pins)
    for _ in range(5):
        assert (await client.request(server.ip, 8080)).endswith(b"hello")
    assert connected(direct) == before + 25
    counted = {"connection_security_policy": "kernel", "reporter": "source"}
    await until(lambda: node.metric("istio_tcp_connections_closed", **counted) == 25)
    assert node.metric("istio_tcp_connections_opened", **counted) == 26, "the open one is counted, too"
    direct.mesh.deny("nobody", principals=[authorization_pb2.StringMatch(presence={})])
    with pytest.raises(OSError):  # ECONNABORTED
        await reader.read(1)
    writer.close()


async def test_what_policy_has_forbidden_meanwhile_ends_when_the_next_engine_attaches(direct: DirectMesh) -> None:
    client, server = await direct.pair()
    reader, writer = await client.connect(server.ip, 8080)
    await reader.readuntil(b" ")
    await direct.mesh.nodes[0].close()
    direct.mesh.nodes.pop(0)
    node = await engine(direct, client, server)
    direct.mesh.deny("nobody", principals=[authorization_pb2.StringMatch(presence={})])
    writer.write(b"still")
    assert await reader.readexactly(5) == b"still"
    node.engine.attach_direct(direct.pins)
    with pytest.raises(OSError):  # ECONNABORTED
        await reader.read(1)
    before = connected(direct)
    with pytest.raises(ConnectionError):
        await client.request(server.ip, 8080)
    assert connected(direct) == before
    writer.close()


async def test_of_two_engines_the_latest_decides_and_no_connection_is_reported_twice(direct: DirectMesh) -> None:
    client, server = await direct.pair()
    first = direct.mesh.nodes[0]
    node = await engine(direct, client, server)
    reader, writer = await client.connect(server.ip, 8080)
    await reader.readuntil(b" ")
    node.engine.attach_direct(direct.pins)
    writer.close()
    for _ in range(20):
        assert (await client.request(server.ip, 8080)).endswith(b"hello")
    counted = {"connection_security_policy": "kernel", "reporter": "source"}

    def closed() -> int:
        return sum(one.metric("istio_tcp_connections_closed", **counted) for one in (first, node))

    await until(lambda: closed() == 21)
    await first.close()
    direct.mesh.nodes.remove(first)
    assert (await client.request(server.ip, 8080)).endswith(b"hello")
    assert connected(direct) == 22


async def learns(node: namespaced.Node, client: namespaced.Pod, server: namespaced.Pod, port: int) -> bool:
    """Have the tunnel carry connections that no engine knows; whether this one, which serves both, learns the pair."""
    await server.serve_peer(port)
    before = node.metric("culvert_direct_pairs")
    for _ in range(20):
        assert (await client.request(server.ip, port)).endswith(b"hello")
        if node.metric("culvert_direct_pairs") > before:
            return True
    return False


async def test_an_engine_that_attaches_again_leaves_the_decision_to_a_later_one(direct: DirectMesh) -> None:
    """As the ztunnel that is to be replaced does when the node agent is replaced, too."""
    client, server = await direct.pair()
    first = direct.mesh.nodes[0]
    node = await engine(direct, client, server)
    node.engine.attach_direct(direct.pins)
    await until(lambda: first.metric("culvert_direct_pairs") == 0)
    first.engine.attach_direct(direct.pins)
    await asyncio.sleep(0.5)
    await first.close()
    direct.mesh.nodes.remove(first)
    assert await learns(node, client, server, 8081)


async def test_an_engine_decides_again_when_a_later_one_has_ended(direct: DirectMesh) -> None:
    client, server = await direct.pair()
    first = direct.mesh.nodes[0]
    later = await engine(direct, client, server)
    later.engine.attach_direct(direct.pins)
    await until(lambda: first.metric("culvert_direct_pairs") == 0)
    await later.close()
    direct.mesh.nodes.remove(later)
    for pod in (client, server):
        pod.node = first
    await until(lambda: first.metric("culvert_direct_pairs") == 1)
    assert await learns(first, client, server, 8081)


async def test_a_new_agent_takes_over_and_no_connection_notices(direct: DirectMesh) -> None:
    client, server = await direct.pair()
    failures: list[str] = []
    ended = asyncio.Event()

    async def work() -> None:
        while not ended.is_set():
            try:
                assert (await client.request(server.ip, 8080)).endswith(b"hello")
            except OSError as error:
                failures.append(repr(error))

    reader, writer = await client.connect(server.ip, 8080)
    await reader.readuntil(b" ")
    task = asyncio.create_task(work())
    for _ in range(AGENTS):
        before = direct.count("connected")
        node = await asyncio.to_thread(ebpf.node, direct.pins, direct_limit=LIMIT)
        capture = EbpfCapture(node, PodNetwork())
        for pod in (client, server):
            await asyncio.to_thread(apply, capture, pod, pod.plan)
        await until(lambda before=before: direct.count("connected") > before + 20)
    ended.set()
    await task
    assert failures == []
    writer.write(b"still")
    assert await reader.readexactly(5) == b"still"
    writer.close()


async def test_an_agent_without_the_setting_sends_everything_to_the_tunnel(direct: DirectMesh) -> None:
    client, server = await direct.pair()
    reader, writer = await client.connect(server.ip, 8080)
    await reader.readuntil(b" ")
    node = ebpf.node(direct.pins)
    assert node.missing() == ()
    assert not (direct.pins / "v1" / "hooks" / "cv_direct_ops").exists()
    assert not await direct.is_direct(client, server.ip, 8080)
    writer.write(b"still")
    assert await reader.readexactly(5) == b"still", "what is open stays"
    writer.close()


async def test_uninstallation_leaves_no_program_no_map_and_no_pin(direct: DirectMesh) -> None:
    client, server = await direct.pair()
    assert await direct.is_direct(client, server.ip, 8080)
    programs, maps = pinned(direct.pins)
    for pod in (client, server):
        apply(direct.mesh.backend, pod, PodPlan(mode=Mode.NONE))
    direct.node.uninstall()
    assert not direct.pins.exists()
    await direct.mesh.nodes[0].close()
    direct.mesh.nodes.pop(0)
    await until(lambda: not (programs & loaded("prog") or maps & loaded("map")))


async def test_a_revoked_identity_loses_its_connections_and_opens_none() -> None:
    authority = Below()
    async with direct_mesh(authority=authority) as direct:
        client, server = await direct.pair()
        reader, writer = await client.connect(server.ip, 8080)
        await reader.readuntil(b" ")
        direct.engine.set_revocation_lists(authority.revoking(client))
        with pytest.raises(OSError):  # ECONNABORTED
            await reader.read(1)
        before = direct.count("connected")
        with pytest.raises(ConnectionError):
            await client.request(server.ip, 8080)
        assert direct.count("connected") == before
        await until(lambda: any(line.get("error") == LIVE for line in client.node.log))
        writer.close()


async def test_ztunnel_is_killed_and_no_direct_connection_notices(tmp_path: Path) -> None:
    """The process that users run, with its supervisor."""
    async with direct_mesh() as direct, ztunnels.node_side(tmp_path, direct.mesh.authority) as node:
        server = await direct.mesh.pod("server", captured=False)
        client = await direct.mesh.pod("client", captured=False)
        for pod in (server, client):
            node.capture(pod)
        await server.serve_peer(8080)
        await node.announce(direct.mesh, server, client)
        tunnel = await node.start(direct_connections="true", bpf_pins=direct.pins)
        await tunnel.ready()
        requests = 0

        async def request() -> bool:
            """A request, which succeeds; whether it was direct."""
            nonlocal requests
            before, requests = connected(direct), requests + 1
            assert (await client.request(server.ip, 8080)).endswith(b"hello")
            return connected(direct) > before

        await until_true(request)
        reader, writer = await client.connect(server.ip, 8080)
        await reader.readuntil(b" ")
        for _ in range(KILLS):
            if (
                not tunnel.running
            ):  # after some crashes in a row the supervisor ends, too; so the kubelet starts another
                tunnel = await node.start(direct_connections="true", bpf_pins=direct.pins)
                await tunnel.ready()
            worker = tunnel.worker()
            os.kill(worker, signal.SIGKILL)
            assert await request(), "the kernel goes on without it"
            while tunnel.running and tunnel.worker() in {worker, 0}:
                await request()
            if tunnel.running:
                await tunnel.ready()
            await until_true(request)  # the new one has no certificates at first, so it takes them all
            writer.write(b"still")
            assert await reader.readexactly(5) == b"still"
        writer.close()
        print(f"{KILLS} kills: {requests} requests, {connected(direct)} direct connections, none failed")


async def until_true(request: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(200):
        if await request():
            return
    raise AssertionError("no connection is direct")


def apply(capture: object, pod: namespaced.Pod, plan: PodPlan) -> None:
    descriptor = os.open(netns.path(pod.netns), os.O_RDONLY)
    try:
        capture.apply(sandbox(descriptor), plan)
    finally:
        os.close(descriptor)
