"""What one pod may use of its node's tunnel, and that other pods do not notice."""

import asyncio
import time

import pytest

from bench.rows import resident_bytes
from tests.support import load, namespaced
from tests.support.waiting import until

pytestmark = pytest.mark.root

PORT = 8080
MIB = 1024 * 1024
BUDGET = 4 * MIB


class Sink:
    """An application that answers ``done`` at the end of each connection.

    With ``enough`` it stops reading when it has taken that number of bytes from each of ``readers`` connections: from
    all at the same moment, because those that stop early leave less of the tunnel's window to the others.
    """

    def __init__(self, enough: int | None = None, readers: int = 0) -> None:
        self.taken: list[int] = []
        self.reads_on = asyncio.Event()
        self._enough = enough
        self._readers = readers

    @property
    def has_enough(self) -> bool:
        return self._enough is not None and len(self.taken) == self._readers and min(self.taken) >= self._enough

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mine = len(self.taken)
        self.taken.append(0)
        try:
            while data := await reader.read(65536):
                self.taken[mine] += len(data)
                if self.has_enough:
                    await self.reads_on.wait()
            writer.write(b"done")
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


async def send(client: namespaced.Pod, server: namespaced.Pod, size: int) -> None:
    assert await client.request(server.ip, PORT, b"x" * size, within_s=30) == b"done"


async def test_a_pod_carries_no_more_than_its_bandwidth_and_its_neighbour_is_not_slowed() -> None:
    async with namespaced.mesh(settings={"max_bandwidth_per_workload": 4 * MIB}) as mesh:
        server = await mesh.pod("server", node=1)
        client, neighbour = await mesh.pod("client"), await mesh.pod("neighbour")
        other = await mesh.pod("other", node=1)
        await server.serve(PORT, Sink().take)
        await other.serve(PORT, Sink().take)
        began = time.monotonic()
        slow = [asyncio.create_task(send(client, server, 4 * MIB)) for _ in range(2)]
        await until(lambda: client.node.metric("culvert_connections_slowed", reason="bandwidth") > 0)
        await send(neighbour, other, MIB)
        assert not any(task.done() for task in slow), "the neighbour has a bound of its own"
        await asyncio.gather(*slow)
        # Two seconds, less what may be ahead and what lies in the sockets of the client's side.
        assert time.monotonic() - began > 1


async def test_a_pod_that_floods_leaves_a_processor_to_its_neighbours_while_they_are_there() -> None:
    async with namespaced.mesh(settings={"worker_threads": 2}) as mesh:
        server, client, neighbour = (
            await mesh.pod("server", node=1),
            await mesh.pod("client"),
            await mesh.pod("neighbour"),
        )
        await server.serve(PORT, Sink().take)
        serving = await load.serve(server, PORT + 1)
        flooding = await load.start(client, "bulk", server.ip, str(PORT + 1), "8", "600")

        def restricted() -> float:
            return client.node.metric("culvert_worker_threads_restricted")

        async def be_there() -> None:
            while True:
                await send(neighbour, server, 1)
                await asyncio.sleep(0.05)

        there = asyncio.create_task(be_there())
        try:
            await until(lambda: there.done() or restricted() > 0, within_s=20)
            assert not there.done(), there.exception()
            there.cancel()
            await until(lambda: restricted() == 0, within_s=20)
            assert flooding.returncode is None, "it has all processors again, not because it ended"
        finally:
            there.cancel()
            for process in (flooding, serving):
                process.terminate()
                await process.wait()


class Source:
    """An application that sends what the request names: endless bytes for ``stuff``, 5 MiB for anything else."""

    async def give(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wanted = await reader.readline()
        try:
            if wanted == b"stuff\n":
                await stuff(writer)
            writer.write(b"x" * 5 * MIB)
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


async def stuff(writer: asyncio.StreamWriter) -> None:
    piece = b"x" * 65536
    while True:
        writer.write(piece)
        await writer.drain()


async def test_readers_that_stop_do_not_hold_up_other_connections_of_the_same_tunnel() -> None:
    """A tunnel has one window for all that it carries; data that no application reads must not use it up."""
    async with namespaced.mesh() as mesh:
        server, client = await mesh.pod("server", node=1), await mesh.pod("client")
        idle = asyncio.Event()

        async def never_read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            await idle.wait()
            writer.close()

        await server.serve(PORT, never_read)
        await server.serve(PORT + 1, Sink().take)
        await server.serve(PORT + 2, Source().give)
        stuck = [await client.connect(server.ip, PORT) for _ in range(24)]
        for _ in range(24):
            reader, writer = await client.connect(server.ip, PORT + 2)
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(b"stuff\n")
            stuck.append((reader, writer))
        stuffing = [asyncio.create_task(stuff(writer)) for _, writer in stuck[:24]]
        try:
            await until(lambda: all(writer.transport.get_write_buffer_size() for _, writer in stuck[:24]))
            answer, _ = await asyncio.gather(
                client.request(server.ip, PORT + 2, b"give\n", within_s=20),
                client.request(server.ip, PORT + 1, b"x" * 5 * MIB, within_s=20),
            )
            assert len(answer) == 5 * MIB
        finally:
            for task in stuffing:
                task.cancel()
            await asyncio.gather(*stuffing, return_exceptions=True)
            idle.set()
            for _, writer in stuck:
                writer.transport.abort()
        await until(lambda: server.node.engine.connections() == 0)


async def test_readers_that_stop_cost_no_more_memory_than_the_pod_may_take() -> None:
    """Each connection carries enough to move in large steps, then its reader stops."""
    async with namespaced.mesh(settings={"max_buffered_bytes_per_workload": BUDGET}) as mesh:
        server, client = await mesh.pod("server", node=1), await mesh.pod("client")
        neighbour, other = await mesh.pod("neighbour"), await mesh.pod("other", node=1)
        sink = Sink(enough=5 * MIB, readers=24)
        await server.serve(PORT, sink.take)
        await other.serve(PORT, Sink().take)
        await send(neighbour, other, 5 * MIB)  # what the allocator keeps is not counted below
        writers = [(await client.connect(server.ip, PORT))[1] for _ in range(24)]
        before = resident_bytes()
        stuffing = [asyncio.create_task(stuff(writer)) for writer in writers]
        try:
            await until(lambda: sink.has_enough, within_s=60)
            await asyncio.sleep(0.5)  # they fill what there is to fill
            grown = resident_bytes() - before
            assert client.node.metric("culvert_connections_slowed", reason="buffered_bytes") > 0
            await send(neighbour, other, 5 * MIB)
        finally:
            for task in stuffing:
                task.cancel()
            await asyncio.gather(*stuffing, return_exceptions=True)
            sink.reads_on.set()
            for writer in writers:
                writer.transport.abort()
        await until(lambda: server.node.engine.connections() == 0)
        print(f"{grown / MIB:.0f} MiB for 24 stalled connections")
        assert grown < 24 * MIB, "without a bound it is more than 30"
