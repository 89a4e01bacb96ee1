"""One mesh for each test: a victim that serves, an honest client beside the attack, and a place to attack from."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import attacker, namespaced

PORT = 8080


@dataclass
class Scene:
    """``server`` echoes on ``PORT``; ``client`` reaches it by the mesh; ``outsider`` is where attacks come from."""

    mesh: namespaced.Mesh
    server: namespaced.Pod
    client: namespaced.Pod
    outsider: namespaced.Pod
    seen: list[str]

    @property
    def authority(self) -> str:
        host = f"[{self.server.ip}]" if ":" in self.server.ip else self.server.ip
        return f"{host}:{PORT}"

    def attack(self, **options: object):
        return attacker.attacker(self.outsider, self.server, **options)

    @asynccontextmanager
    async def others_are_served(self) -> AsyncIterator[None]:
        """A connection opened before the attack works during and after it, and so do new ones."""
        reader, writer = await self.client.connect(self.server.ip, PORT)
        try:
            await reader.readexactly(len(self.client.ip) + 1)
            turns, over = 0, False

            async def exchange() -> None:
                nonlocal turns
                while not over:
                    writer.write(b"ping")
                    async with asyncio.timeout(5):
                        assert await reader.readexactly(4) == b"ping"
                    turns += 1
                    await asyncio.sleep(0.01)

            task = asyncio.create_task(exchange())
            try:
                yield
            except BaseException:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                raise
            before = turns
            async with asyncio.timeout(5):
                while turns < before + 3 and not task.done():
                    await asyncio.sleep(0.01)
            over = True
            await task
        finally:
            writer.close()
        assert (await self.client.request(self.server.ip, PORT)).endswith(b"hello")

    @asynccontextmanager
    async def open_connection(
        self, client: namespaced.Pod
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """An open connection of ``client`` that has carried bytes both ways."""
        reader, writer = await client.connect(self.server.ip, PORT)
        try:
            await reader.readexactly(len(client.ip) + 1)
            writer.write(b"before")
            assert await asyncio.wait_for(reader.readexactly(6), 3) == b"before"
            yield reader, writer
        finally:
            writer.transport.abort()

    async def is_refused(self, client: namespaced.Pod) -> bool:
        try:
            return await client.request(self.server.ip, PORT) != f"{client.ip} hello".encode()
        except OSError:
            return True

    def metric(self, family: str, **labels: str) -> int:
        """Sum of the samples of the victim's node that have these labels."""
        return self.server.node.metric(family, **labels)


async def breaks(reader: asyncio.StreamReader, within_s: float) -> None:
    """The connection is reset, not ended in an orderly way."""
    with pytest.raises(ConnectionResetError):
        async with asyncio.timeout(within_s):
            assert await reader.read(-1) == b"", "nothing more arrives"
            raise AssertionError("the connection ended in order, as if it were complete")


@dataclass
class Costs:
    """What this process, engines included, has used since."""

    _memory: int
    _cpu: float

    @classmethod
    def now(cls) -> "Costs":
        return cls(_resident(), _engine_cpu_s())

    @property
    def memory_mib(self) -> float:
        return (_resident() - self._memory) / 2**20

    @property
    def engine_cpu_s(self) -> float:
        return _engine_cpu_s() - self._cpu


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _engine_cpu_s() -> float:
    total = 0
    for task in Path("/proc/self/task").iterdir():
        try:
            name, _, rest = (task / "stat").read_text().rpartition(")")
        except (FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            continue
        if "(culvert-" in name:
            fields = rest.split()
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with namespaced.mesh() as mesh:
        server = await mesh.pod("server", node=1)
        client = await mesh.pod("client")
        outsider = await mesh.pod("outsider", captured=False)
        yield Scene(mesh, server, client, outsider, await server.serve_peer(PORT))
