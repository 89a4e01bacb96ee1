"""Threat ``dns-proxy``: DNS proxies: compression loops, long chains and answers (RUSTSEC-2018-0007, 2026-0118,
2026-0119).
"""

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from tests.integration.threats.conftest import Costs
from tests.support import dns, namespaced

pytestmark = pytest.mark.root

QUESTION = struct.pack("!2H", dns.A, 1)


def head(questions: int = 1, answers: int = 0, more: int = 0, flags: int = 0x0100) -> bytes:
    return struct.pack("!6H", 4711, flags, questions, answers, 0, more)


def long_name(labels: int, length: int) -> bytes:
    return (bytes([length]) + b"a" * length) * labels + b"\0"


PACKETS = {
    "pointer-to-itself": head() + b"\xc0\x0c" + QUESTION,
    "pointers-in-a-ring": head() + b"\xc0\x0e\xc0\x0c" + QUESTION,
    "pointer-forward": head() + b"\xc0\xff" + QUESTION,
    "pointer-behind-a-label": head() + b"\x01a\xc0\x0c" + QUESTION,
    "pointer-cut": head() + b"\xc0",
    "reserved-label": head() + b"\x80a\0" + QUESTION,
    "label-cut": head() + b"\x3fabc",
    "name-of-257": head() + long_name(128, 1) + QUESTION,
    "name-of-64k": head() + long_name(1000, 63) + QUESTION,
    "no-end": head() + b"\x01a" * 30_000,
    "no-question": head(questions=0),
    "many-questions": head(questions=65535) + (dns.wire_name("web.shop") + QUESTION) * 2000,
    "announced-and-missing": head(questions=1, answers=65535, more=65535) + dns.wire_name("web.shop") + QUESTION,
    "a-response": head(flags=0x8180) + dns.wire_name("web.shop") + QUESTION,
    "empty": b"",
    "one-byte": b"\0",
    "head-cut": head()[:11],
    "unknown-operation": head(flags=0x7900) + dns.wire_name("web.shop") + QUESTION,
    "edns-with-endless-options": head(more=1) + dns.wire_name("web.shop") + QUESTION
    + b"\0" + struct.pack("!HHIH", 41, 65535, 0, 65535) + b"\xff" * 1000,
    "ring-in-an-answer": head(answers=1, flags=0x8180) + dns.wire_name("x") + QUESTION
    + b"\xc0\x14\xc0\x12" + bytes(10),
}  # fmt: skip


@dataclass
class DnsScene:
    client: namespaced.Pod
    resolver: dns.Resolver
    ip: str

    async def works(self) -> None:
        """Names of the mesh and other names are answered, over UDP and TCP."""
        for name, address in (("web.shop.svc.cluster.local", "10.99.0.1"), ("example.com", "1.2.3.4")):
            assert (await dns.query_udp(self.client, self.ip, dns.query(name))).addresses == [address]
            [answer] = await dns.query_tcp(self.client, self.ip, dns.query(name))
            assert answer.addresses == [address]


@asynccontextmanager
async def dns_scene(reply: dns.Reply | None = None, **settings: object) -> AsyncIterator[DnsScene]:
    async def usual(query: bytes, _: str) -> bytes:
        return dns.response(query, "1.2.3.4")

    async with namespaced.mesh(settings=settings) as mesh:
        pod = await mesh.pod("resolver", node=1, captured=False)
        resolver = dns.Resolver(reply or usual)
        await resolver.serve(pod)
        client = await mesh.pod("client")
        client.plan = replace(client.plan, dns=True)
        client.capture()
        mesh.service("web", "10.99.0.1", {80: 8080})
        yield DnsScene(client, resolver, pod.ip)


@contextlib.contextmanager
def datagrams(pod: namespaced.Pod, server: str):
    with pod.in_namespace(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        sock.setblocking(False)
        sock.connect((server, 53))
        yield sock


@pytest.mark.parametrize("kind", PACKETS)
async def test_a_malformed_packet_affects_only_its_sender(kind: str) -> None:
    packet = PACKETS[kind]
    async with dns_scene() as scene:
        costs = Costs.now()
        with datagrams(scene.client, scene.ip) as sock:
            for _ in range(200):
                with contextlib.suppress(OSError):  # longer than a datagram may be, or the buffer is full
                    sock.send(packet)
        for sent in (packet[:65535], b"\xff\xff" + packet):
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                await dns.query_tcp(scene.client, scene.ip, sent, within_s=0.3)
        await scene.works()
        assert costs.engine_cpu_s < 2
        assert costs.memory_mib < 64


async def test_answers_of_a_malicious_resolver_are_passed_on_or_dropped() -> None:
    """Pointer loops, other questions, other IDs, garbage: the pod gets an answer to its own query, or none."""
    dice = random.Random(18)

    async def evil(query: bytes, _: str) -> bytes:
        good = dns.response(query, *["1.2.3.4"] * 50)
        return dice.choice(
            [
                good, good[:20], b"", dice.randbytes(500), query, b"\0\0" + good[2:],
                good[:12] + b"\xc0\x0c" + good[14:], dns.response(b"\0\1" + dns.query("other.example")[2:], "6.6.6.6"),
            ]
        )  # fmt: skip

    async with dns_scene(evil) as scene:
        costs = Costs.now()
        for _ in range(60):
            query = dns.query("example.com", ident=99)
            with contextlib.suppress(TimeoutError, OSError, struct.error, IndexError):
                answer = await dns.query_udp(scene.client, scene.ip, query, within_s=0.1)
                assert "6.6.6.6" not in answer.addresses
                assert answer.ident == 99
        mesh_name = await dns.query_udp(scene.client, scene.ip, dns.query("web.shop.svc.cluster.local"))
        assert mesh_name.addresses == ["10.99.0.1"]
        assert costs.memory_mib < 64


async def test_silent_or_half_sent_queries_do_not_block_others() -> None:
    async with dns_scene() as scene:
        opened = [await scene.client.connect(scene.ip, 53) for _ in range(100)]
        for _, writer in opened[::2]:
            writer.write(b"\x00")
        for _, writer in opened[1::2]:
            writer.write(b"\xff\xff" + bytes(100))
        await scene.works()
        for _, writer in opened:
            writer.transport.abort()
