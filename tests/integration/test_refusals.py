"""How a refused connection ends for its client: after ``connect()``, and without a byte for the application."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from bench.rows import resident_bytes
from meshapi.proto import authorization_pb2
from tests.support import namespaced
from tests.support.waiting import until

pytestmark = pytest.mark.root

PORT = 8080
REFUSALS = 1000
AT_ONCE = 20
MIB = 1024 * 1024


@dataclass
class Refusal:
    """A client that is refused at an address, and the clients that the application has seen."""

    client: namespaced.Pod
    ip: str
    seen: list[str]

    async def outcome(self, number: int) -> str:
        """How one connection ends. Every second client sends first, the others only read."""
        try:
            reader, writer = await self.client.connect(self.ip, PORT, within_s=20)
        except OSError as error:
            return f"connect: {error}"
        try:
            if number % 2:
                writer.write(b"not for the application")
                await writer.drain()
            return "answered" if await reader.read(100) else "end"
        except ConnectionError:
            return "reset"
        finally:
            writer.transport.abort()


@pytest.fixture(params=["plain-uncaptured", "hbone", "hbone-closed-port", "plain-captured", "no-endpoint"])
async def refusal(request: pytest.FixtureRequest) -> AsyncIterator[Refusal]:
    way = request.param
    async with namespaced.mesh() as mesh:
        server = await mesh.pod("server", node=1, captured=way != "plain-captured")
        client = await mesh.pod("client", captured=way != "plain-uncaptured")
        ip, seen = server.ip, []
        if way in ("plain-uncaptured", "hbone"):
            seen = await server.serve_peer(PORT)
            mesh.deny("all", destination_ports=[PORT])
        elif way == "no-endpoint":
            ip = "10.99.0.1"
            client.in_namespace(namespaced.route_everything)
            mesh.service("web", ip, {PORT: PORT})
        yield Refusal(client, ip, seen)


async def test_a_thousand_refused_connections_are_closed_after_connect_succeeds(refusal: Refusal) -> None:
    outcomes: Counter[str] = Counter()
    numbers = iter(range(REFUSALS))

    async def work() -> None:
        for number in numbers:
            outcomes[await refusal.outcome(number)] += 1

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    assert set(outcomes) <= {"end", "reset"}, outcomes
    assert outcomes.total() == REFUSALS
    assert refusal.seen == []
    # A client that has sent its request is reset, not ended in order: some protocols would take that for success. It
    # gets an end only where its bytes came later than they are waited for.
    assert outcomes["reset"] > REFUSALS / 2 * 0.9, outcomes


async def test_a_flood_of_refused_clients_that_stay_silent_is_bounded() -> None:
    """All are refused in the same moment, when the control plane announces the workload."""
    flood = 1000
    async with namespaced.mesh(settings={"workload_wait_ms": 60_000}) as mesh:
        server = await mesh.pod("server", node=1)
        client = await mesh.pod("client", captured=False)
        seen = await server.serve_peer(PORT)
        mesh.deny("all", scope=authorization_pb2.GLOBAL, destination_ports=[PORT])
        mesh.withdraw(server)
        descriptors, memory = len(os.listdir("/proc/self/fd")), resident_bytes(os.getpid())  # noqa: PTH208
        clients = [await client.connect(server.ip, PORT) for _ in range(flood)]
        mesh.announce(server)
        ends = await asyncio.gather(*(reader.read(1) for reader, _ in clients))
        assert ends == [b""] * flood
        at_once = server.node.metric("culvert_refusals_without_grace")
        assert 0 < at_once <= flood - 256, "the connections within the bound have waited"
        # The clients still hold their connections open.
        await until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors + flood)  # noqa: PTH208
        assert resident_bytes(os.getpid()) - memory < 64 * MIB
        assert seen == []
        for _, writer in clients:
            writer.transport.abort()
