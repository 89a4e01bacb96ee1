"""A client of HBONE: byte streams through CONNECT requests of one HTTP/2 connection, as a tunnel opens them."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping

import h2.config
import h2.connection
import h2.events
import h2.exceptions

CHUNK = 64 * 1024


class Stream:
    """One CONNECT: bytes in both directions."""

    def __init__(self, tunnel: "Tunnel", number: int) -> None:
        self._tunnel = tunnel
        self.number = number
        self.answered: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.received = asyncio.StreamReader()

    async def write(self, data: bytes) -> None:
        await self._tunnel.write(self.number, data)

    def end(self) -> None:
        self._tunnel.end(self.number)

    def reset(self) -> None:
        self._tunnel.reset(self.number)


class Tunnel(asyncio.Protocol):
    """One connection to a proxy's port 15008."""

    def __init__(self) -> None:
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self._streams: dict[int, Stream] = {}
        self._window = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self.is_open = True

    async def open(self, authority: str, headers: Mapping[str, str]) -> Stream:
        """Request a stream; the status of the answer is awaited.

        Raises:
            ConnectionError: it is refused.
        """
        number = self._h2.get_next_available_stream_id()
        stream = self._streams[number] = Stream(self, number)
        self._h2.send_headers(number, [(":method", "CONNECT"), (":authority", authority), *headers.items()])
        self._flush()
        status = await stream.answered
        if status != 200:
            raise ConnectionError(f"CONNECT {authority} was answered with {status}")
        return stream

    async def write(self, number: int, data: bytes) -> None:
        """Send bytes at the peer's speed."""
        while data:
            room = min(self._h2.local_flow_control_window(number), self._h2.max_outbound_frame_size, len(data))
            if room <= 0:
                self._window.clear()
                await self._window.wait()
                continue
            self._h2.send_data(number, data[:room])
            self._flush()
            data = data[room:]

    def end(self, number: int) -> None:
        with contextlib.suppress(h2.exceptions.ProtocolError):
            self._h2.end_stream(number)
            self._flush()

    def reset(self, number: int) -> None:
        with contextlib.suppress(h2.exceptions.ProtocolError):
            self._h2.reset_stream(number)
            self._flush()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._h2.initiate_connection()
        self._flush()

    def data_received(self, data: bytes) -> None:
        for event in self._h2.receive_data(data):
            self._handle(event)
        self._flush()

    def connection_lost(self, _: Exception | None) -> None:
        self.is_open = False
        for stream in self._streams.values():
            self._fail(stream)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _handle(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.WindowUpdated | h2.events.RemoteSettingsChanged):
            self._window.set()
        stream = self._streams.get(getattr(event, "stream_id", None) or 0)
        if stream is None:
            return
        if isinstance(event, h2.events.ResponseReceived):
            stream.answered.set_result(int(dict(event.headers)[b":status"]))
        elif isinstance(event, h2.events.DataReceived):
            stream.received.feed_data(event.data)
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            stream.received.feed_eof()
        elif isinstance(event, h2.events.StreamReset):
            self._fail(stream)

    @staticmethod
    def _fail(stream: Stream) -> None:
        error = ConnectionResetError("the stream was reset")
        if not stream.answered.done():
            stream.answered.set_exception(error)
        elif not stream.received.at_eof():
            stream.received.set_exception(error)

    def _flush(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(self._h2.data_to_send())


@contextlib.asynccontextmanager
async def connected(address: str, port: int, context: ssl.SSLContext) -> AsyncIterator[Tunnel]:
    """A tunnel to a proxy."""
    _, tunnel = await asyncio.get_running_loop().create_connection(Tunnel, address, port, ssl=context)
    try:
        yield tunnel
    finally:
        tunnel.close()


@contextlib.asynccontextmanager
async def relay(tunnel: Tunnel, authority: str, headers: Mapping[str, str]) -> AsyncIterator[int]:
    """A local port; each connection to it is carried through the tunnel to ``authority``."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            stream = await tunnel.open(authority, headers)
        except ConnectionError:
            writer.transport.abort()
            return
        up = asyncio.create_task(_up(reader, stream))
        try:
            while data := await stream.received.read(CHUNK):
                writer.write(data)
                await writer.drain()
            writer.close()
        except (ConnectionError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            up.cancel()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _up(reader: asyncio.StreamReader, stream: Stream) -> None:
    try:
        while data := await reader.read(CHUNK):
            await stream.write(data)
        stream.end()
    except ConnectionError:
        stream.reset()
