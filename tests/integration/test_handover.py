"""ztunnel replaced under load, as processes: the old one takes new connections until the new one does."""

import asyncio
import errno
import os
import time
from collections import Counter
from pathlib import Path

import pytest

from meshkit.linux import sockets
from tests.support import namespaced, ztunnels
from tests.support.waiting import scaled, until

pytestmark = pytest.mark.root

REPLACEMENTS = 12
UPGRADES = int(os.environ.get("CULVERT_UPGRADES", "8"))
PAUSE_S = float(os.environ.get("CULVERT_UPGRADE_PAUSE_S", "0"))
"""More upgrades repeat the same steps: 50 within ten minutes are run by hand, see docs/performance.md."""
KEPT = 4


class Load:
    """New connections, one after the other from each of several clients, until stopped."""

    def __init__(self, clients: list[namespaced.Pod], ip: str) -> None:
        self.done: Counter[str] = Counter()
        self.failures: list[str] = []
        self._stopped = False
        self._tasks = [asyncio.create_task(self._run(client, ip)) for client in clients for _ in range(2)]

    async def stop(self) -> None:
        self._stopped = True
        await asyncio.gather(*self._tasks)

    async def _run(self, client: namespaced.Pod, ip: str) -> None:
        while not self._stopped:
            began = time.monotonic()
            try:
                answer = await client.request(ip, 8080, within_s=8)
                assert answer == f"{client.ip} hello".encode(), answer
                self.done[client.name] += 1
            except (OSError, TimeoutError, AssertionError) as error:
                self.failures.append(f"{client.name} after {time.monotonic() - began:.3f} s: {error!r}")
            await asyncio.sleep(0.005)


class Chat:
    """An open connection that is used continuously."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, greeting: bytes) -> None:
        self._reader, self._writer, self._greeting = reader, writer, greeting
        self._began = time.monotonic()
        self._stopped = False
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> int:
        assert await self._reader.readexactly(len(self._greeting)) == self._greeting
        rounds = 0
        while not self._stopped:
            message = f"message {rounds}".encode()
            self._writer.write(message)
            async with asyncio.timeout(scaled(3)):
                assert await self._reader.readexactly(len(message)) == message
            rounds += 1
            await asyncio.sleep(0.05)
        self._writer.write_eof()
        async with asyncio.timeout(scaled(3)):
            assert await self._reader.read(-1) == b""
        self._writer.close()
        return rounds

    async def stop(self) -> tuple[int, float]:
        """End it; return how many messages went there and back, and in how many seconds."""
        self._stopped = True
        return await self._task, time.monotonic() - self._began


@pytest.mark.parametrize("order", ["successor-first", "end-first"])
async def test_no_new_connection_is_refused_while_ztunnels_are_replaced(tmp_path: Path, order: str) -> None:
    async with namespaced.mesh() as mesh, ztunnels.node_side(tmp_path, mesh.authority) as node:
        server = await mesh.pod("server", captured=False)
        near = await mesh.pod("near", captured=False)
        far = await mesh.pod("far", node=1)
        for pod in (server, near):
            node.capture(pod)
        await server.serve_peer(8080)
        await node.announce(mesh, server, near, far)
        old = await node.start()
        await old.ready()
        load = Load([near, far], server.ip)
        await until(lambda: load.done["near"] > 20 and load.done["far"] > 20, within_s=20)
        for _ in range(REPLACEMENTS):
            if order == "end-first":
                old.terminate()
            new = await node.start()
            await new.ready()
            if order == "successor-first":
                old.terminate()
            before = load.done.copy()
            assert await old.ended() == 0, old.log
            assert "successor=true" in old.log, old.log
            await until(lambda before=before: all(load.done[name] > before[name] + 5 for name in before), within_s=20)
            old = new
        await load.stop()
        print(f"{REPLACEMENTS} replacements, {order}: {dict(load.done)} connections, failures: {load.failures}")
        assert load.failures == []


async def test_open_connections_survive_upgrades_however_many(tmp_path: Path) -> None:
    """Each old process lives as long as the connection that was opened through it, and no longer."""
    async with namespaced.mesh() as mesh, ztunnels.node_side(tmp_path, mesh.authority) as node:
        server = await mesh.pod("server", node=1)
        client = await mesh.pod("client", captured=False)
        node.capture(client)
        await server.serve_peer(8080)
        await node.announce(mesh, server, client)
        current = await node.start(termination_grace_period_seconds=3600)
        await current.ready()
        load = Load([client], server.ip)
        kept: list[Chat] = []
        old = []
        for number in range(UPGRADES):
            if number < KEPT:
                kept.append(Chat(*await client.connect(server.ip, 8080), f"{client.ip} ".encode()))
            new = await node.start(termination_grace_period_seconds=3600)
            await new.ready()
            current.terminate()
            await until(lambda current=current: "successor=true" in current.log, within_s=20)
            old.append(current)
            current = new
            await asyncio.sleep(PAUSE_S)
        await load.stop()
        # Any process may have any connection: a terminating one accepts until its listeners are closed.
        await until(lambda: sum(process.running for process in old) <= KEPT, within_s=20)
        print(f"{UPGRADES} upgrades: {dict(load.done)} new connections, failures: {load.failures}")
        assert load.failures == []
        assert load.done["client"] > UPGRADES * 10
        for chat in kept:
            rounds, seconds = await chat.stop()
            print(f"a connection was open for {seconds:.0f} s and carried {rounds} messages")
            assert rounds > UPGRADES
        for process in old:
            assert await process.ended() == 0, process.log
            assert "cut=0" in process.log


async def test_without_a_successor_connections_are_taken_for_the_bound_and_refused_afterwards(tmp_path: Path) -> None:
    async with namespaced.mesh() as mesh, ztunnels.node_side(tmp_path, mesh.authority) as node:
        server = await mesh.pod("server", node=1)
        client = await mesh.pod("client", captured=False)
        node.capture(client)
        await server.serve_peer(8080)
        await node.announce(mesh, server, client)
        ztunnel = await node.start(handover_s=3)
        await ztunnel.ready()
        reader, writer = await client.connect(server.ip, 8080)
        began = time.monotonic()
        ztunnel.terminate()
        await until(lambda: "connections are taken until a successor serves" in ztunnel.log)
        assert await client.request(server.ip, 8080) == f"{client.ip} hello".encode()
        await until(lambda: "successor=false" in ztunnel.log, within_s=10)
        assert time.monotonic() - began >= 3
        await until(lambda: not node.zds.connected)
        assert client.in_namespace(lambda: sockets.listeners_on({15001, 15006, 15008})) == []
        with pytest.raises(OSError) as refused:
            await client.request(server.ip, 8080)
        assert refused.value.errno == errno.ECONNREFUSED
        writer.write(b"still here")
        writer.write_eof()
        async with asyncio.timeout(scaled(3)):
            assert await reader.read(-1) == f"{client.ip} still here".encode()
        assert await ztunnel.ended() == 0
        writer.close()
