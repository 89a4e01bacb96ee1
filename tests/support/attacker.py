"""A misbehaving client of the mesh: it connects to HBONE's port with a valid certificate and sends arbitrary frames.

``Attacker`` writes frames byte by byte (hyperframe, hpack) and reads what comes back, with no HTTP/2 library
in between that would refuse to violate the protocol. It runs in a pod outside the mesh, so no ztunnel is on its side.
"""

import asyncio
import contextlib
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from hpack import Encoder
from hyperframe import frame as frames

from meshapi import names
from tests.support import namespaced

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FLOOD = b"flooding"
"""Mark of a PING whose answer is not kept."""

Header = tuple[str, str]


def tls_context(chain: bytes, key: bytes, roots: bytes) -> ssl.SSLContext:
    """As a peer's tunnel has it: TLS 1.3, HTTP/2, the server's chain is checked and its name is not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.load_verify_locations(cadata=roots.decode())
    context.set_alpn_protocols(["h2"])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "both.pem"
        file.write_bytes(chain + key)
        context.load_cert_chain(file)
    return context


class Attacker:
    """One connection to a pod's HBONE port."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.received: list[frames.Frame] = []
        self.ended = False
        self._encoder = Encoder()
        self._changed = asyncio.Condition()
        self._task = asyncio.create_task(self._read())

    def send(self, *items: frames.Frame | bytes) -> None:
        """Write frames; what does not fit waits in memory."""
        data = b"".join(item if isinstance(item, bytes) else item.serialize() for item in items)
        if not self.writer.transport.is_closing():
            self.writer.write(data)

    async def flush(self, within_s: float = 10) -> bool:
        """Wait until all frames have been sent; ``False`` when the peer closed the connection or reads no more."""
        try:
            async with asyncio.timeout(within_s):
                await self.writer.drain()
                await asyncio.sleep(0)  # drain does not yield while the buffer has capacity: nothing would be read
        except (OSError, TimeoutError):
            return False
        return not self.writer.transport.is_closing()

    def connect(self, stream: int, authority: str, *more: Header, end: bool = False) -> None:
        """A CONNECT as a well-behaved client sends it."""
        self.headers(stream, [(":method", "CONNECT"), (":authority", authority), *more], end=end)

    def headers(self, stream: int, headers: Iterable[Header], *, end: bool = False) -> None:
        block = self._encoder.encode(list(headers))
        self.send(frames.HeadersFrame(stream, block, flags=["END_HEADERS", *(["END_STREAM"] if end else [])]))

    async def wait(self, found: Callable[[frames.Frame], bool], within_s: float = 5) -> frames.Frame:
        """The first received frame that satisfies ``found``."""

        def first() -> frames.Frame | None:
            return next((one for one in self.received if found(one)), None)

        async with asyncio.timeout(within_s), self._changed:
            while (one := first()) is None:
                if self.ended:
                    raise ConnectionError(f"the connection has ended after {self.received[-5:]}")
                await self._changed.wait()
        return one

    async def answer(self, stream: int, within_s: float = 5) -> frames.Frame:
        """The answer's HEADERS, or the stream's end."""
        ends = (frames.HeadersFrame, frames.RstStreamFrame)
        return await self.wait(lambda one: one.stream_id == stream and isinstance(one, ends), within_s)

    async def is_alive(self, within_s: float = 5) -> bool:
        """Whether a PING is answered."""
        mark = len(self.received).to_bytes(8)
        self.send(frames.PingFrame(0, mark))
        try:
            await self.wait(
                lambda one: isinstance(one, frames.PingFrame) and "ACK" in one.flags and one.opaque_data == mark,
                within_s,
            )
        except (ConnectionError, TimeoutError):
            return False
        return True

    async def hung_up(self, within_s: float = 10) -> bool:
        """Wait for the peer to end the connection."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s), self._changed:
                await self._changed.wait_for(lambda: self.ended)
        return self.ended

    @property
    def goaway(self) -> int | None:
        """Error code of the GOAWAY, if there was one."""
        codes = [one.error_code for one in self.received if isinstance(one, frames.GoAwayFrame)]
        return codes[-1] if codes else None

    def data(self, stream: int) -> bytes:
        """What was received on a stream."""
        mine = (one for one in self.received if isinstance(one, frames.DataFrame) and one.stream_id == stream)
        return b"".join(one.data for one in mine)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self.writer.transport.abort()

    async def _read(self) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await self.reader.readexactly(9)
                frame, length = frames.Frame.parse_frame_header(memoryview(head))
                frame.parse_body(memoryview(await self.reader.readexactly(length)))
                if isinstance(frame, frames.SettingsFrame):
                    if "ACK" in frame.flags:
                        continue
                    self.send(frames.SettingsFrame(0, flags=["ACK"]))
                if isinstance(frame, frames.PingFrame) and frame.opaque_data == FLOOD:
                    continue  # keeping them would add the client's memory to the engine's, which is measured
                async with self._changed:
                    self.received.append(frame)
                    self._changed.notify_all()
        async with self._changed:
            self.ended = True
            self._changed.notify_all()


async def tls_to(
    outsider: namespaced.Pod, server: namespaced.Pod, context: ssl.SSLContext, within_s: float = 5
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Complete a TLS handshake with a pod's HBONE port from inside another pod."""
    family = socket.AF_INET6 if ":" in server.ip else socket.AF_INET
    sock = outsider.in_namespace(lambda: socket.socket(family, socket.SOCK_STREAM))
    sock.setblocking(False)
    try:
        async with asyncio.timeout(within_s):
            await asyncio.get_running_loop().sock_connect(sock, (server.ip, names.HBONE_PORT))
            return await asyncio.open_connection(sock=sock, ssl=context, server_hostname="")
    except BaseException:
        sock.close()
        raise


@asynccontextmanager
async def attacker(
    outsider: namespaced.Pod,
    server: namespaced.Pod,
    *,
    settings: dict[int, int] | None = None,
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[Attacker]:
    """A connection whose preface has been exchanged."""
    mesh = outsider.mesh
    context = context or tls_context(*mesh.authority.issue(outsider.identity), mesh.authority.roots)
    made = Attacker(*await tls_to(outsider, server, context))
    try:
        made.send(PREFACE, frames.SettingsFrame(0, settings=settings or {}))
        await made.wait(lambda one: isinstance(one, frames.SettingsFrame) and "ACK" not in one.flags)
        yield made
    finally:
        await made.close()
