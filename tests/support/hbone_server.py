"""A pod's end of HBONE, as its ztunnel has it: each CONNECT becomes a connection to where it names."""

import asyncio
import contextlib
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from meshapi import names

CHUNK = 64 * 1024


def tls_context(chain: bytes, key: bytes, roots: bytes) -> ssl.SSLContext:
    """TLS 1.3 and HTTP/2; clients need a certificate of the mesh."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=roots.decode())
    context.set_alpn_protocols(["h2"])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "both.pem"
        file.write_bytes(chain + key)
        context.load_cert_chain(file)
    return context


class _Connection(asyncio.Protocol):
    def __init__(self, authorities: list[str]) -> None:
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self._authorities = authorities
        self._transport: asyncio.Transport | None = None
        self._data: dict[int, asyncio.Queue[bytes]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._h2.initiate_connection()
        self._flush()

    def connection_lost(self, _: Exception | None) -> None:
        for task in self._tasks:
            task.cancel()

    def data_received(self, data: bytes) -> None:
        for event in self._h2.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                authority = str(dict(event.headers)[":authority"])
                self._authorities.append(authority)
                self._data[event.stream_id] = asyncio.Queue()
                task = asyncio.create_task(self._serve(event.stream_id, authority))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            elif isinstance(event, h2.events.DataReceived):
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                self._data[event.stream_id].put_nowait(event.data)
            elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                self._data[event.stream_id].put_nowait(b"")
        self._flush()

    async def _serve(self, stream: int, authority: str) -> None:
        host, _, port = authority.rpartition(":")
        try:
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        except OSError:
            self._send(lambda: self._h2.send_headers(stream, [(":status", "503")], end_stream=True))
            return
        self._send(lambda: self._h2.send_headers(stream, [(":status", "200")]))
        up = asyncio.create_task(self._up(stream, writer))
        try:
            # No flow control: what tests send fits into the first window.
            while data := await reader.read(CHUNK):
                self._send(lambda data=data: self._h2.send_data(stream, data))  # type: ignore[misc]
            self._send(lambda: self._h2.end_stream(stream))
        finally:
            up.cancel()
            writer.close()

    async def _up(self, stream: int, writer: asyncio.StreamWriter) -> None:
        while data := await self._data[stream].get():
            writer.write(data)
            await writer.drain()
        writer.write_eof()

    def _send(self, put: Callable[[], None]) -> None:
        with contextlib.suppress(h2.exceptions.ProtocolError):
            put()
            self._flush()

    def _flush(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(self._h2.data_to_send())


@contextlib.asynccontextmanager
async def serving(addresses: Sequence[str], context: ssl.SSLContext, authorities: list[str]) -> AsyncIterator[None]:
    """Take tunnels at port 15008 of a pod's addresses; ``authorities`` are where they have gone."""
    server = await asyncio.get_running_loop().create_server(
        lambda: _Connection(authorities), addresses, names.HBONE_PORT, ssl=context, reuse_port=True
    )
    async with server:
        yield
