"""Port forwarding as the API server speaks it."""

from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from meshkit import kube

PORT = kube.Port("shop", "web-1", 15000)


class Streams:
    """Answers port forwarding for one pod: with a page, or with a node's error for a port without a listener."""

    def __init__(self) -> None:
        self.error = b""
        self.seen: list[str] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request.path_qs)
        if "web-1" not in request.path:
            return web.json_response({"reason": "NotFound"}, status=404)
        stream = web.WebSocketResponse(protocols=["v4.channel.k8s.io"])
        await stream.prepare(request)
        for channel in (0, 1):
            await stream.send_bytes(bytes([channel]) + (15000).to_bytes(2, "little"))
        if self.error:
            await stream.send_bytes(b"\x01" + self.error)
        else:
            received = await stream.receive_bytes()
            assert received.startswith(b"\x00GET /page ")
            await stream.send_bytes(b"\x00HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhal")
            await stream.send_bytes(b"\x00lo")
        await stream.close()
        return stream


@pytest.fixture
async def streams() -> AsyncIterator[tuple[Streams, kube.Client]]:
    served = Streams()
    app = web.Application()
    app.router.add_get("/{path:.*}", served.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[union-attr]
    async with kube.Client(kube.explicit(url)) as client:
        yield served, client
    await runner.cleanup()


async def read(client: kube.Client, port: kube.Port) -> str:
    async with (
        kube.forwarded(client, port) as local,
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{local}/page") as answer,
    ):
        return await answer.text()


async def test_bytes_pass_both_ways(streams: tuple[Streams, kube.Client]) -> None:
    served, client = streams
    assert await read(client, PORT) == "hallo"
    assert served.seen == ["/api/v1/namespaces/shop/pods/web-1/portforward?ports=15000"]


async def test_the_nodes_message_is_the_error(streams: tuple[Streams, kube.Client]) -> None:
    served, client = streams
    served.error = b"connection refused"
    with pytest.raises(kube.Unreachable, match="port 15000 of pod shop/web-1: connection refused"):
        await read(client, PORT)


async def test_a_pod_that_is_gone_is_not_found(streams: tuple[Streams, kube.Client]) -> None:
    _, client = streams
    with pytest.raises(kube.NotFound):
        await read(client, kube.Port("shop", "web-2", 15000))
