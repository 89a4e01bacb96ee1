"""Pods of one node that may connect without the tunnel: a mesh captured by BPF, and what tells the paths apart."""

import re
import socket
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from meshapi import names
from meshkit.linux import netns
from nodeagent.capture.ebpf.node import EbpfNode
from nodeagent.capture.ebpf.pod import EbpfCapture
from nodeagent.capture.pod_network import PodNetwork
from tests.support import ebpf, namespaced, wire
from tests.support.authority import IssuesCertificates
from tests.support.waiting import scaled

LIMIT = 1000


class DirectMesh:
    """A mesh whose first node is attached to the kernel's table."""

    def __init__(self, mesh: namespaced.Mesh, node: EbpfNode, pins: Path) -> None:
        self.mesh = mesh
        self.node = node
        self.pins = pins
        self.engine = mesh.nodes[0].engine
        self.engine.attach_direct(pins)

    def count(self, outcome: str) -> int:
        """Connections with an outcome so far."""
        return self.mesh.nodes[0].metric("culvert_direct_connections", outcome=outcome)

    def open(self) -> int:
        """Direct connections that are open now."""
        return self.mesh.nodes[0].metric("culvert_direct_connections_open")

    def pairs(self) -> int:
        """Pairs that the engine has learned and allows now."""
        return self.mesh.nodes[0].metric("culvert_direct_pairs")

    async def pair(self, port: int = 8080) -> tuple[namespaced.Pod, namespaced.Pod]:
        """Make a client and a server on the node; the engine has learned that the one connects to the other."""
        client, server = await self.strangers(port)
        await self.learn(client, server.ip, port)
        return client, server

    async def strangers(self, port: int = 8080) -> tuple[namespaced.Pod, namespaced.Pod]:
        """Make a client and a server on the node that have not met."""
        server = await self.mesh.pod("server")
        client = await self.mesh.pod("client")
        await server.serve_peer(port)
        return client, server

    async def learn(self, client: namespaced.Pod, ip: str, port: int) -> None:
        """Have the tunnel carry connections until the engine has learned the pair; a busy engine passes over some."""
        before = self.pairs()
        for _ in range(20):
            assert not await self.is_direct(client, ip, port), "the first connection of a pair goes through the tunnel"
            if self.pairs() > before:
                return
        raise AssertionError(f"the engine has not learned that {client.ip} connects to {ip}:{port}")

    async def is_direct(self, client: namespaced.Pod, ip: str, port: int) -> bool:
        """Open a connection, which must succeed, and return whether it was sent directly."""
        before = self.count("connected")
        assert (await client.request(ip, port)).endswith(b"hello")
        return self.count("connected") > before


@asynccontextmanager
async def direct_mesh(
    subnet: str = "10.77.0.0/24",
    *,
    limit: int = LIMIT,
    authority: IssuesCertificates | None = None,
    **settings: object,
) -> AsyncIterator[DirectMesh]:
    """Make a mesh whose pods are captured by BPF; ``settings`` are fields of ``EngineConfig``."""
    pins = ebpf.file_system() / uuid.uuid4().hex[:8]
    node = ebpf.node(pins, direct_limit=limit)
    capture = EbpfCapture(node, PodNetwork())
    given = {"direct_connections": True, **settings}
    async with namespaced.mesh(subnet, authority, backend=capture, settings=given) as mesh:
        yield DirectMesh(mesh, node, pins)


@contextmanager
def carried(pod: namespaced.Pod, port: int) -> Iterator[Callable[[], tuple[int, int]]]:
    """Count bytes of TCP at a pod's link, for use after the block: those of tunnels, and those of a port."""
    with wire.captured("eth0", "tcp", space=netns.path(pod.netns)) as captured:
        yield lambda: (_bytes(captured[0].text, names.HBONE_PORT), _bytes(captured[0].text, port))


def _bytes(text: str, port: int) -> int:
    lines = [line for line in text.splitlines() if re.search(rf"\.{port}[: ]", line)]
    return sum(int(found.group(1)) for line in lines if (found := re.search(r"length (\d+)", line)))


def connected(pod: namespaced.Pod, ip: str, port: int, family: socket.AddressFamily | None = None) -> socket.socket:
    """Open a connection with a blocking socket, of an address family of its own if wanted."""
    chosen = family or (socket.AF_INET6 if ":" in ip else socket.AF_INET)
    made = pod.in_namespace(lambda: socket.socket(chosen, socket.SOCK_STREAM))
    made.settimeout(scaled(5))
    try:
        made.connect((ip, port))
    except OSError:
        made.close()
        raise
    return made
