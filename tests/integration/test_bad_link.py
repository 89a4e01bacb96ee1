"""A link that loses, delays and cuts off packets: what the tunnel carries goes on where bare TCP beside it does."""

import asyncio
import errno
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path

import pytest
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from meshkit.linux import netns
from tests.support import backends, namespaced
from tests.support.waiting import scaled
from tests.support.wired import shell

pytestmark = pytest.mark.root

PORT = 8080
DELAY_MS, LOSS = 50, 2
MTU = 1400
DOWN_S = 10.0
BYTES = 100_000
NEW = 5
WITHIN_S = 60.0

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class Pair:
    """A client behind the bad link, and a server."""

    client: namespaced.Pod
    server: namespaced.Pod

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Stream]:
        reader, writer = await self.client.connect(self.server.ip, PORT, within_s=WITHIN_S)
        try:
            async with asyncio.timeout(scaled(WITHIN_S)):
                assert await reader.readuntil(b" ") == f"{self.client.ip} ".encode()
            yield reader, writer
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


@dataclass(frozen=True, slots=True)
class World:
    """The same twice: pods of the mesh, and pods without it; in each, the client is behind the link."""

    mesh: namespaced.Mesh
    tunnel: Pair
    bare: Pair

    @property
    def pairs(self) -> dict[str, Pair]:
        return {"tunnel": self.tunnel, "bare": self.bare}

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[dict[str, Stream]]:
        async with AsyncExitStack() as stack:
            yield {name: await stack.enter_async_context(pair.opened()) for name, pair in self.pairs.items()}

    def spoil(self) -> None:
        """Lose and delay packets both ways, and let only small ones pass between the client and its server."""
        for pair in self.pairs.values():
            self._route_through_the_middle(pair)
            _spoil(self.mesh.space, self.link(pair.client))
            _spoil(netns.path(pair.client.netns), "eth0")

    def turn(self, way: str) -> None:
        """Take the links of both clients up or down."""
        for pair in self.pairs.values():
            shell(self.mesh.space, f"ip link set {self.link(pair.client)} {way}")

    def link(self, pod: namespaced.Pod) -> str:
        """Name the middle's end of a pod's link."""
        return f"{self.mesh.prefix}{self.mesh.pods.index(pod) + 10}"

    def _route_through_the_middle(self, pair: Pair) -> None:
        """Have a router between them, since only a router says that a packet is too big."""
        for one, other in ((pair.client, pair.server), (pair.server, pair.client)):
            shell(netns.path(one.netns), f"ip route add {other.ip}/32 via {_router(self.mesh)}")
            shell(self.mesh.space, f"ip route add {one.ip}/32 dev {self.mesh.bridge} mtu lock {MTU}")


@pytest.fixture(params=["nftables", "ebpf"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    backend = backends.backend(request.param, tmp_path / "lock").pods
    async with namespaced.mesh(backend=backend) as mesh:
        made = World(
            mesh,
            Pair(await mesh.pod("client"), await mesh.pod("server", node=1)),
            Pair(await mesh.pod("bclient", captured=False), await mesh.pod("bserver", node=1, captured=False)),
        )
        for pair in made.pairs.values():
            await pair.server.serve_peer(PORT)
        shell(mesh.space, f"ip address add {_router(mesh)}/24 dev {mesh.bridge}; sysctl -q -w net.ipv4.ip_forward=1")
        for each in ("all", mesh.bridge):  # nor may it tell them that they can do without it
            shell(mesh.space, f"sysctl -q -w net.ipv4.conf.{each}.send_redirects=0")
        yield made


async def test_connections_go_on_and_new_ones_come_over_a_link_with_loss_delay_and_a_small_mtu(world: World) -> None:
    async with world.opened() as streams:
        world.spoil()
        await exchanged(streams)
        for name, pair in world.pairs.items():
            for _ in range(NEW):
                async with pair.opened() as stream:
                    await exchanged({name: stream}, 1000)
            route = shell(netns.path(pair.client.netns), f"ip route get {pair.server.ip}")
            assert f"mtu {MTU}" in route, f"{name}: the sender has not learned the path MTU: {route}"
        await exchanged(streams)
    line = await world.tunnel.server.node.logged(direction="inbound", src__workload="client")
    assert line["src.identity"] == world.tunnel.client.identity, "by the tunnel"


async def test_connections_outlive_ten_seconds_without_the_link_as_bare_ones_do(world: World) -> None:
    async with world.opened() as streams:
        await exchanged(streams)
        world.turn("down")
        sending = asyncio.create_task(exchanged(streams))
        try:
            done, _ = await asyncio.wait([sending], timeout=DOWN_S)
            assert not done, "something got through a link that is down"
        finally:
            world.turn("up")
        await sending
        for name, pair in world.pairs.items():
            async with pair.opened() as stream:
                await exchanged({name: stream})


async def exchanged(streams: dict[str, Stream], size: int = BYTES) -> None:
    """Send bytes through all at the same time, and have them back."""
    async with asyncio.timeout(scaled(WITHIN_S)):
        took = await asyncio.gather(*(_echoed(*stream, size) for stream in streams.values()))
    print(f"{size} bytes there and back: {dict(zip(streams, took, strict=True))}")


async def _echoed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, size: int) -> float:
    """Return how long it took in seconds."""
    began = time.monotonic()
    message = random.randbytes(size)
    writer.write(message)
    assert await reader.readexactly(size) == message
    return round(time.monotonic() - began, 2)


def _router(mesh: namespaced.Mesh) -> str:
    return str(ip_interface(mesh.subnet).ip + 1)


def _spoil(space: Path, link: str) -> None:
    def work() -> None:
        with IPRoute() as netlink:
            (index,) = netlink.link_lookup(ifname=link)
            netlink.tc("add", "netem", index=index, handle="1:", delay=DELAY_MS * 1000, loss=LOSS, limit=10_000)

    try:
        netns.run(space, work)
    except NetlinkError as error:
        if error.code == errno.ENOENT:
            pytest.skip("the kernel lacks sch_netem")
        raise
