"""A small DNS resolver to query through the tunnel, and a client that sends queries: messages as bytes, RFC 1035."""

import asyncio
import random
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import cast

from tests.support.namespaced import Pod
from tests.support.waiting import scaled

A, TXT, AAAA, HTTPS = 1, 16, 28, 65
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP = 0, 1, 2, 3, 4
_OPT = 41


def query(name: str, kind: int = A, *, size: int | None = None, ident: int | None = None) -> bytes:
    """A query for one name; with ``size``, EDNS that accepts datagrams of that size and requests DNSSEC."""
    ident = random.randrange(65536) if ident is None else ident
    head = struct.pack("!6H", ident, 0x0100, 1, 0, 0, int(size is not None))
    edns = b"" if size is None else struct.pack("!BHHIH", 0, _OPT, size, 0x8000, 0)
    return head + wire_name(name) + struct.pack("!2H", kind, 1) + edns


def wire_name(name: str) -> bytes:
    """A name as labels, without pointers."""
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label) + b"\0"


@dataclass(frozen=True, slots=True)
class Answer:
    """A parsed answer, with the fields that tests use."""

    ident: int
    flags: int
    addresses: list[str]
    ttls: set[int]
    question: bytes
    raw: bytes

    @property
    def rcode(self) -> int:
        return self.flags & 0xF

    @property
    def truncated(self) -> bool:
        return bool(self.flags & 0x0200)


def parse(raw: bytes) -> Answer:
    """Parse an answer; names in records may be pointers."""
    ident, flags, questions, answers, _, _ = struct.unpack_from("!6H", raw)
    at = 12
    for _ in range(questions):
        at = _skip_name(raw, at) + 4
    question = raw[12:at]
    addresses: list[IPv4Address | IPv6Address] = []
    ttls = set()
    for _ in range(answers):
        at = _skip_name(raw, at)
        kind, _, ttl, length = struct.unpack_from("!HHIH", raw, at)
        if kind in (A, AAAA):
            addresses.append(ip_address(raw[at + 10 : at + 10 + length]))
            ttls.add(ttl)
        at += 10 + length
    return Answer(ident, flags, [str(address) for address in addresses], ttls, question, raw)


def _skip_name(raw: bytes, at: int) -> int:
    while raw[at]:
        if raw[at] >= 192:
            return at + 2
        at += raw[at] + 1
    return at + 1


async def query_udp(pod: Pod, server: str, message: bytes, *, port: int = 53, within_s: float = 3) -> Answer:
    """Send one datagram from inside a pod, as its application would; returns the answer."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with pod.in_namespace(lambda: socket.socket(family, socket.SOCK_DGRAM)) as sock:
        sock.setblocking(False)
        # Connected: an answer from any address but the one that was queried would be refused.
        sock.connect((server, port))
        await loop.sock_sendall(sock, message)
        return parse(await asyncio.wait_for(loop.sock_recv(sock, 65535), scaled(within_s)))


async def query_tcp(pod: Pod, server: str, *messages: bytes, within_s: float = 3) -> list[Answer]:
    """Send queries on one connection, all at once; returns the answers as they come."""
    async with asyncio.timeout(scaled(within_s)):
        reader, writer = await pod.connect(server, 53)
        try:
            for message in messages:
                writer.write(struct.pack("!H", len(message)) + message)
            found = []
            for _ in messages:
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                found.append(parse(await reader.readexactly(length)))
            return found
        finally:
            writer.close()


Reply = Callable[[bytes, str], Awaitable[bytes | None]]


class Resolver(asyncio.DatagramProtocol):
    """A resolver in a pod: answers what ``reply`` returns, and records each query and its source."""

    def __init__(self, reply: Reply) -> None:
        self.seen: list[tuple[str, str, bytes]] = []
        self._reply = reply
        self._tasks: set[asyncio.Task[None]] = set()
        self._transport: asyncio.DatagramTransport | None = None

    async def serve(self, pod: Pod) -> None:
        """Listen on port 53 of a pod, UDP and TCP."""
        family = socket.AF_INET6 if ":" in pod.ip else socket.AF_INET

        def bind() -> socket.socket:
            sock = socket.socket(family, socket.SOCK_DGRAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
            sock.bind((pod.ip, 53))
            return sock

        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: self, sock=pod.in_namespace(bind))
        pod.mesh.stack.callback(transport.close)
        await pod.serve(53, self._stream)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        task = asyncio.create_task(self._answer(data, addr))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, data: bytes, addr: tuple[str, int]) -> None:
        self.seen.append((addr[0], "udp", data))
        answer = await self._reply(data, "udp")
        if answer is not None and self._transport is not None:
            self._transport.sendto(answer, addr)

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.read(2):
                data = await reader.readexactly(struct.unpack("!H", head)[0])
                self.seen.append((writer.get_extra_info("peername")[0], "tcp", data))
                answer = await self._reply(data, "tcp")
                if answer is not None:
                    writer.write(struct.pack("!H", len(answer)) + answer)
        finally:
            writer.close()


def response(query: bytes, *addresses: str, rcode: int = NOERROR, extra: int = 0, tail: bytes = b"") -> bytes:
    """A resolver's answer to ``query``, with flags ``extra`` and ``tail`` appended."""
    (ident,) = struct.unpack_from("!H", query)
    question = query[12 : _skip_name(query, 12) + 4]
    head = struct.pack("!6H", ident, 0x8180 | extra | rcode, 1, len(addresses), 0, 0)
    records = b"".join(
        struct.pack("!3HIH", 0xC00C, A if ip.version == 4 else AAAA, 1, 77, len(ip.packed)) + ip.packed
        for ip in map(ip_address, addresses)
    )
    return head + question + records + tail
