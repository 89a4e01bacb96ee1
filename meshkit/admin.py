"""Small HTTP endpoints of a process: metrics, readiness, health and debug pages.

Each endpoint binds one address. Debug pages are for localhost: who may reach them is decided by the address given.
"""

import asyncio
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_MAX_REQUEST_BYTES = 64 * 1024


@asynccontextmanager
async def serve(
    addresses: Sequence[tuple[str, int]],
    routes: Mapping[str, Handler],
    *,
    tls: ssl.SSLContext | None = None,
    max_request_bytes: int = _MAX_REQUEST_BYTES,
) -> AsyncIterator[None]:
    """Serve ``routes`` (``"GET /path"`` to handler) on every address while the context is open.

    Raises:
        OSError: an address cannot be bound.
    """
    app = web.Application(client_max_size=max_request_bytes)
    for route, handler in routes.items():
        method, path = route.split(" ", 1)
        app.router.add_route(method, path, handler)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        for host, port in addresses:
            await web.TCPSite(runner, host, port, reuse_port=True, ssl_context=tls).start()
        yield
    finally:
        await runner.cleanup()


def metrics(registry: CollectorRegistry) -> Handler:
    """Answer in the format that the scraper accepts (OpenMetrics or Prometheus text)."""

    async def handle(request: web.Request) -> web.StreamResponse:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        body = await asyncio.to_thread(encode, registry)
        response = web.Response(body=body, headers={"Content-Type": content_type})
        response.enable_compression()
        return response

    return handle


def readiness(pending: Callable[[], Sequence[str]]) -> Handler:
    """Answer 200 ``ready`` when nothing is pending, else 500 with the names of what is."""

    async def handle(_: web.Request) -> web.StreamResponse:
        waiting = pending()
        if waiting:
            return web.Response(status=500, text="not ready, pending: " + ", ".join(waiting) + "\n")
        return web.Response(text="ready\n")

    return handle


def text_page(text: str) -> Handler:
    """Answer with a text that stays the same."""

    async def handle(_: web.Request) -> web.StreamResponse:
        return web.Response(text=text)

    return handle


def loopback_only(handler: Handler) -> Handler:
    """Answer 403 to callers that are not on this host's loopback, as ``kubectl port-forward`` is.

    The caller is the peer of the TCP connection; no header is read.
    """

    async def handle(request: web.Request) -> web.StreamResponse:
        if not _is_loopback(request):
            return web.Response(status=403, text="this page is served on loopback only; use kubectl port-forward\n")
        return await handler(request)

    return handle


def _is_loopback(request: web.Request) -> bool:
    peer = request.transport.get_extra_info("peername") if request.transport else None
    if not peer:
        return False
    address = ipaddress.ip_address(peer[0].partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def json_page(content: Callable[[], str]) -> Handler:
    """Answer with a JSON document that ``content`` renders."""

    async def handle(_: web.Request) -> web.StreamResponse:
        return web.Response(text=content(), content_type="application/json")

    return handle
