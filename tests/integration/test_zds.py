"""Node agent and ztunnel over a real socket, with a real engine and real namespaces."""

import asyncio
import errno
import os
import socket
import uuid
from pathlib import Path

import pytest

from meshapi.proto import engine_pb2, zds_pb2
from meshengine import Engine, events
from meshkit.linux import netns, sockets
from nodeagent.zds.server import NotConnected, Served, ZdsServer
from ztunnel.workloads import Workloads
from ztunnel.zds import ZdsClient

pytestmark = pytest.mark.root

PORTS = (15001, 15006, 15008)


class Tunnel:
    """ztunnel's half: engine, workloads, ZDS client."""

    def __init__(self, path: Path) -> None:
        self.engine = Engine(engine_pb2.EngineConfig(worker_threads=1).SerializeToString())
        self.workloads = Workloads(self.engine)
        self.client = ZdsClient(path, self.workloads)
        self._tasks = [asyncio.create_task(self.client.run()), asyncio.create_task(self._follow())]

    async def _follow(self) -> None:
        async for packed in events.batches(self.engine):
            for event in engine_pb2.EventBatch.FromString(packed).events:
                if event.HasField("workload_started"):
                    self.workloads.started(event.workload_started.uid, event.workload_started.error)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.engine.close()


@pytest.fixture
def space():
    name = f"cvz{uuid.uuid4().hex[:6]}"
    netns.create(name)
    descriptor = os.open(netns.path(name), os.O_RDONLY)
    yield descriptor
    os.close(descriptor)
    netns.delete(name)


def listens(space: int) -> bool:
    """Whether the tunnel's ports can be connected to inside the namespace."""

    def probe() -> bool:
        from meshkit.linux import links

        links.set_up("lo")
        for port in PORTS:
            with socket.socket() as client:
                client.settimeout(1)
                # A connection that was not redirected here is reset at once, which only a listener can do.
                if client.connect_ex(("127.0.0.1", port)) not in (0, errno.ECONNRESET):
                    return False
        return True

    return netns.run(space, probe)


async def until(condition, within_s: float = 5) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)


def info(name: str = "web") -> zds_pb2.WorkloadInfo:
    return zds_pb2.WorkloadInfo(name=name, namespace="shop", service_account=name)


@pytest.fixture
async def server(tmp_path: Path):
    known: dict[str, Served] = {}
    made = ZdsServer(tmp_path / "zds.sock", known)
    made.known = known
    task = asyncio.create_task(made.run())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_workload_is_served_when_add_returns(server, tmp_path: Path, space: int) -> None:
    with pytest.raises(NotConnected):
        await server.add("u1", Served(info(), space))
    tunnel = Tunnel(tmp_path / "zds.sock")
    await until(lambda: server.connected)
    assert not await asyncio.to_thread(listens, space)
    await server.add("u1", Served(info(), space))
    assert await asyncio.to_thread(listens, space)
    assert tunnel.workloads.active == 1
    await server.remove("u1")
    assert tunnel.workloads.active == 0
    await tunnel.close()


async def test_a_restarted_tunnel_gets_everything_in_its_snapshot(server, tmp_path: Path, space: int) -> None:
    server.known["u1"] = Served(info(), space)
    first = Tunnel(tmp_path / "zds.sock")
    await until(lambda: first.client.snapshot_received)
    assert await asyncio.to_thread(listens, space)
    await first.close()
    assert not await asyncio.to_thread(listens, space)
    await until(lambda: not server.connected)
    second = Tunnel(tmp_path / "zds.sock")
    await until(lambda: second.client.snapshot_received)
    assert await asyncio.to_thread(listens, space)
    await second.close()


async def test_during_an_upgrade_the_latest_gets_new_workloads(server, tmp_path: Path, space: int) -> None:
    old = Tunnel(tmp_path / "zds.sock")
    await until(lambda: old.client.snapshot_received)
    new = Tunnel(tmp_path / "zds.sock")
    await until(lambda: new.client.snapshot_received)
    await server.add("u1", Served(info(), space))
    assert (old.workloads.active, new.workloads.active) == (0, 1)
    await old.close()
    await asyncio.sleep(0)
    await server.add("u2", Served(info("other"), space))
    assert new.workloads.active == 2
    await new.close()


async def test_a_restarted_agent_withdraws_what_is_gone(tmp_path: Path, space: int) -> None:
    path = tmp_path / "zds.sock"
    before = ZdsServer(path, {"u1": Served(info(), space), "u2": Served(info("b"), space)})
    serving = asyncio.create_task(before.run())
    tunnel = Tunnel(path)
    await until(lambda: tunnel.workloads.active == 2)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    await until(lambda: not tunnel.client.snapshot_received)
    assert tunnel.workloads.active == 2, "without the agent everything goes on"
    after = ZdsServer(path, {"u2": Served(info("b"), space)})
    serving = asyncio.create_task(after.run())
    await until(lambda: tunnel.client.snapshot_received)
    assert tunnel.workloads.active == 1
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    await tunnel.close()


async def test_a_port_that_the_application_holds_is_reported_and_retried(server, tmp_path: Path, space: int) -> None:
    taken = netns.run(space, lambda: socket.create_server(("0.0.0.0", 15008)))
    tunnel = Tunnel(tmp_path / "zds.sock")
    await until(lambda: server.connected)
    with pytest.raises(OSError, match="15008"):
        await server.add("u1", Served(info(), space))
    assert tunnel.workloads.pending == ["shop/web"]
    taken.close()
    await server.add("u1", Served(info(), space))
    assert tunnel.workloads.pending == []
    await tunnel.close()


async def test_the_socket_is_for_root_only_and_survives_a_stale_one(tmp_path: Path) -> None:
    path = tmp_path / "zds.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stale:
        stale.bind(str(path))
    server = ZdsServer(path, {})
    task = asyncio.create_task(server.run())
    await until(lambda: path.stat().st_mode & 0o777 == 0o600)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not path.exists()


def test_connections_are_counted_by_local_port(space: int) -> None:
    def probe() -> tuple[int, int]:
        from meshkit.linux import links

        links.set_up("lo")
        with socket.create_server(("127.0.0.1", 15001)) as listener:
            before = sockets.connections_on({15001})
            with socket.create_connection(("127.0.0.1", 15001)), listener.accept()[0]:
                return before, sockets.connections_on({15001})

    assert netns.run(space, probe) == (0, 1)
