"""Threat ``tls-state-machine``: TLS state machine and path building: garbage, slow clients, deep chains
(RUSTSEC-2024-0336, 2023-0053).
"""

import asyncio
import random
import time

import pytest
from cryptography import x509

from meshapi import names
from tests.integration.threats.conftest import PORT, Costs, Scene
from tests.support import attacker, namespaced
from tests.support.certificates import Issuer, IssuesAs
from tests.support.waiting import until

pytestmark = pytest.mark.root

# A timeout of one second instead of ten, so that the test sees a slow handshake end.
HANDSHAKE_TIMEOUT_MS = 1000


@pytest.fixture
async def scene():
    async with namespaced.mesh(settings={"handshake_timeout_ms": HANDSHAKE_TIMEOUT_MS}) as mesh:
        server = await mesh.pod("server", node=1)
        client = await mesh.pod("client")
        outsider = await mesh.pod("outsider", captured=False)
        yield Scene(mesh, server, client, outsider, await server.serve_peer(PORT))


def hello(scene: Scene) -> bytes:
    """The first flight of a well-behaved client."""
    import ssl

    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    authority = scene.mesh.authority
    context = attacker.tls_context(*authority.issue(scene.outsider.identity), authority.roots)
    client = context.wrap_bio(incoming, outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


async def ends(scene: Scene, *parts: bytes, pause_s: float = 0, within_s: float = 5) -> float:
    """Send parts to the HBONE port; returns after how many seconds the engine hung up."""
    reader, writer = await scene.outsider.connect(scene.server.ip, names.HBONE_PORT)
    began = time.monotonic()
    try:
        async with asyncio.timeout(within_s):
            ended = asyncio.create_task(reader.read(-1))
            for part in parts:
                if ended.done():
                    break
                writer.write(part)
                await asyncio.sleep(pause_s)
            await asyncio.gather(ended, return_exceptions=True)
    finally:
        writer.transport.abort()
    return time.monotonic() - began


async def test_garbage_is_refused_at_once(scene: Scene) -> None:
    dice = random.Random(14)
    first = hello(scene)
    changed = []
    for _ in range(50):
        copy = bytearray(first)
        copy[dice.randrange(len(copy))] ^= 1 << dice.randrange(8)
        changed.append(bytes(copy))
    garbage = [
        b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", bytes(1000), b"\xff" * 70_000,
        # Records: empty ones, an alert, application data, a record longer than allowed, a hello that announces 16 MiB.
        b"\x16\x03\x01\x00\x00" * 1000, b"\x15\x03\x03\x00\x02\x02\x28", b"\x17\x03\x03\x00\x10" + bytes(16),
        b"\x16\x03\x01\xff\xff" + bytes(65535), b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + bytes(16_380),
        b"\x14\x03\x03\x00\x01\x01" * 1000, first + first, first[:50] + first, dice.randbytes(5000),
    ]  # fmt: skip
    costs = Costs.now()
    async with scene.others_are_served():
        for part in [*garbage, *changed]:
            assert await ends(scene, part) < 3
    assert costs.engine_cpu_s < 3
    await until(lambda: scene.server.node.engine.connections() == 0)


async def test_a_slow_handshake_times_out(scene: Scene) -> None:
    first = hello(scene)
    async with scene.others_are_served():
        crawling = [
            ends(scene, *(first[at : at + 1] for at in range(len(first))), pause_s=0.05),
            ends(scene),
            ends(scene, first),
        ]
        for took in await asyncio.gather(*crawling):
            assert 0.5 < took < 4


async def test_many_slow_handshakes_do_not_block_others(scene: Scene) -> None:
    """More slow handshakes than permits: the rest are refused and counted, and the permits are returned."""
    many = 700
    before = scene.metric("culvert_connections_rejected", reason="handshake_limit")
    crawling = [asyncio.create_task(ends(scene, within_s=10)) for _ in range(many)]
    await until(lambda: scene.metric("culvert_connections_rejected", reason="handshake_limit") > before)
    await asyncio.gather(*crawling)
    assert (await scene.client.request(scene.server.ip, PORT)).endswith(b"hello")


@pytest.mark.parametrize(("depth", "width"), [(5, 1), (30, 1), (3, 60)], ids=["deep", "too-deep", "wide"])
async def test_certificate_chains_are_verified_in_bounded_time(depth: int, width: int) -> None:
    """Deep: each signed by the one before. Wide: many intermediates of one name, so that each could be the issuer."""
    root = Issuer.root()
    async with namespaced.mesh(authority=IssuesAs(root)) as mesh:
        server = await mesh.pod("server", node=1)
        client = await mesh.pod("client")
        outsider = await mesh.pod("outsider", captured=False)
        scene = Scene(mesh, server, client, outsider, await server.serve_peer(PORT))
        # The way up ends at a root that we do not know: every way has to be tried before that is certain.
        issuer, chain = Issuer.root(), b""
        for _ in range(depth):
            level = [issuer.intermediate(0 if width > 1 else depth) for _ in range(width)]
            chain = b"".join(one.pem for one in level) + chain
            issuer = level[0]
        leaf, key = issuer.leaf([x509.UniformResourceIdentifier(outsider.identity)])
        context = attacker.tls_context(leaf + chain, key, root.pem)
        costs = Costs.now()
        async with scene.others_are_served():
            for _ in range(5):
                with pytest.raises((OSError, ConnectionError)):
                    async with scene.attack(context=context) as attack:
                        attack.connect(1, scene.authority)
                        await attack.answer(1)
        assert costs.engine_cpu_s < 2
