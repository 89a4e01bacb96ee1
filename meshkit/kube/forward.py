"""Ports of pods that only localhost reaches, through the API server (what ``kubectl port-forward`` does).

Protocol ``v4.channel.k8s.io``: the first byte of a message is the channel (0 data, 1 error). The first message of each
channel repeats the port (two bytes) and carries nothing. One connection is one stream.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

import aiohttp

from meshkit.kube import errors, kinds
from meshkit.kube.client import Client

_PROTOCOL: Final = "v4.channel.k8s.io"
_DATA: Final = 0
_ERROR: Final = 1
_CHUNK: Final = 32 * 1024


@dataclass(frozen=True, slots=True)
class Port:
    """A port of a pod."""

    namespace: str
    pod: str
    number: int


@asynccontextmanager
async def forwarded(client: Client, port: Port) -> AsyncIterator[int]:
    """Yield a port on 127.0.0.1 that leads to a pod's; connections end with the context.

    A connection that cannot be made is closed at once; what the API said is raised when the context ends.

    Raises:
        KubeError: the API server or the node refused.
    """
    refusals: list[errors.KubeError] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _bridge(client, port, reader, writer)
        except errors.KubeError as error:
            refusals.append(error)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    except aiohttp.ClientError:
        if refusals:
            raise refusals[0] from None
        raise
    finally:
        server.close()


async def _bridge(client: Client, port: Port, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    path = kinds.POD.path(port.namespace, port.pod, "portforward")
    async with client.websocket(path, {"ports": str(port.number)}, _PROTOCOL) as stream:
        upward = asyncio.create_task(_send(reader, stream))
        try:
            await _receive(port, stream, writer)
        finally:
            upward.cancel()
            with suppress(asyncio.CancelledError, ConnectionError):
                await upward


async def _send(reader: asyncio.StreamReader, stream: aiohttp.ClientWebSocketResponse) -> None:
    while data := await reader.read(_CHUNK):
        await stream.send_bytes(bytes([_DATA]) + data)


async def _receive(port: Port, stream: aiohttp.ClientWebSocketResponse, writer: asyncio.StreamWriter) -> None:
    greeted: set[int] = set()
    async for message in stream:
        if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
            continue
        channel, data = message.data[0], message.data[1:]
        if channel not in greeted:
            greeted.add(channel)
        elif channel == _ERROR:
            reason = data.decode(errors="replace").strip()
            raise errors.Unreachable(f"port {port.number} of pod {port.namespace}/{port.pod}: {reason}")
        else:
            writer.write(data)
            await writer.drain()
