"""The node's end of port forwarding: a stream of the API server's, bridged to a Unix socket."""

import asyncio
from pathlib import Path

from aiohttp import web


async def bridged(request: web.Request, socket: Path) -> web.WebSocketResponse:
    """Serve one connection."""
    stream = web.WebSocketResponse(protocols=["v4.channel.k8s.io"])
    await stream.prepare(request)
    for channel in (0, 1):
        await stream.send_bytes(bytes([channel]) + int(request.query["ports"]).to_bytes(2, "little"))
    reader, writer = await asyncio.open_unix_connection(str(socket))

    async def answer() -> None:
        while data := await reader.read(32 * 1024):
            await stream.send_bytes(b"\x00" + data)
        await stream.close()

    answering = asyncio.create_task(answer())
    async for message in stream:
        writer.write(message.data[1:])
    answering.cancel()
    writer.close()
    return stream
