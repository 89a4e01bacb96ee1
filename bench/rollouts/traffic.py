"""Runs inside pods: a server of HTTP/1.1, WebSockets and gRPC streams, and clients that count what fails.

traffic.py serve            HTTP on port 8080, gRPC on 9090; on SIGTERM it serves for a while and lets streams end
traffic.py idle             waits: a pod to run clients in
traffic.py load HOST        requests on connections that stay, and streams and WebSockets of some seconds, until its
                            standard input ends; prints a JSON report then
traffic.py load HOST ROOTS  the same over TLS on port 443; ROOTS: certificates (PEM in base64) that the server's is
                            checked with
"""

import asyncio
import base64
import contextlib
import json
import signal
import ssl
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import grpc.aio
from aiohttp import web

METHOD = "/traffic.Traffic/Echo"
HTTP_PORT, GRPC_PORT = 8080, 9090
CONNECTIONS, STREAMS, SOCKETS = 4, 4, 2
STREAM_S, MESSAGE_EVERY_S = 5.0, 0.1
NOTICE_S = 3.0
"""From the request to end until the server takes no new connections; by then the proxies have stopped opening any."""
GRACE_S = 20.0
TIMEOUT_S = 10.0


async def serve() -> None:
    ending = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)

    async def answer(_: web.Request) -> web.Response:
        response = web.Response(text="ok\n")
        if ending.is_set():
            response.force_close()  # the proxy opens its next connection elsewhere
        return response

    async def echo(messages: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        async for message in messages:
            yield message

    application = web.Application()
    application.router.add_get("/", answer)
    application.router.add_get("/socket", _talk)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, None, HTTP_PORT).start()
    server = grpc.aio.server()
    service, _, method = METHOD[1:].partition("/")
    handlers = {method: grpc.stream_stream_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    server.add_insecure_port(f"[::]:{GRPC_PORT}")
    await server.start()
    await ending.wait()
    await asyncio.sleep(NOTICE_S)
    await server.stop(GRACE_S)
    await runner.cleanup()


async def _talk(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str(message.data)
    return socket


@dataclass(frozen=True)
class Target:
    """What clients connect to."""

    host: str
    roots: bytes | None

    @property
    def url(self) -> str:
        return f"https://{self.host}" if self.roots else f"http://{self.host}:{HTTP_PORT}"

    @property
    def tls(self) -> ssl.SSLContext | bool:
        return ssl.create_default_context(cadata=self.roots.decode()) if self.roots else True

    def channel(self) -> grpc.aio.Channel:
        if self.roots is None:
            return grpc.aio.insecure_channel(f"{self.host}:{GRPC_PORT}")
        return grpc.aio.secure_channel(f"{self.host}:443", grpc.ssl_channel_credentials(self.roots))


class Report:
    """What clients have seen."""

    def __init__(self) -> None:
        self.began = time.time()
        self.requests = 0
        self.streams = 0
        self.sockets = 0
        self.messages = 0
        self.failures: list[str] = []

    def failed(self, what: str, error: object) -> None:
        self.failures.append(f"{time.time() - self.began:.1f} s: {what}: {error!r}")

    def text(self) -> str:
        return json.dumps(
            {
                "requests": self.requests,
                "streams": self.streams,
                "sockets": self.sockets,
                "messages": self.messages,
                "failures": self.failures,
                "seconds": round(time.time() - self.began, 1),
            }
        )


async def _requests(target: Target, report: Report, stop: asyncio.Event) -> None:
    """One connection that stays for as long as the other side keeps it, busy without a pause."""
    connector = aiohttp.TCPConnector(limit=1, ssl=target.tls)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as client:
        while not stop.is_set():
            try:
                async with client.get(f"{target.url}/") as answer:
                    text = await answer.text()
                if answer.status == 200:
                    report.requests += 1
                else:
                    report.failed("request", f"{answer.status} {text[:80]}")
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                report.failed("request", error)
            await asyncio.sleep(0.01)


async def _sockets(target: Target, report: Report, stop: asyncio.Event) -> None:
    """One WebSocket after the other; each message has to come back."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=target.tls)) as client:
        while not stop.is_set():
            try:
                async with client.ws_connect(f"{target.url}/socket") as socket, asyncio.timeout(STREAM_S + TIMEOUT_S):
                    for number in range(int(STREAM_S / MESSAGE_EVERY_S)):
                        await socket.send_str(str(number))
                        if (got := await socket.receive()).data != str(number):
                            raise EOFError(f"WebSocket ended after {number} messages: {got}")
                        report.messages += 1
                        await asyncio.sleep(MESSAGE_EVERY_S)
                report.sockets += 1
            except (aiohttp.ClientError, TimeoutError, OSError, EOFError) as error:
                report.failed("WebSocket", error)
                await asyncio.sleep(0.1)


async def _streams(target: Target, report: Report, stop: asyncio.Event) -> None:
    """One stream after the other on one channel; each message has to come back."""
    async with target.channel() as channel:
        call = channel.stream_stream(METHOD)
        while not stop.is_set():
            try:
                await _stream(call(timeout=STREAM_S + TIMEOUT_S), report)
                report.streams += 1
            except (grpc.aio.AioRpcError, EOFError) as error:
                report.failed("stream", error)
                await asyncio.sleep(0.1)


async def _stream(stream: Any, report: Report) -> None:
    for number in range(int(STREAM_S / MESSAGE_EVERY_S)):
        sent = str(number).encode()
        await stream.write(sent)
        if await stream.read() != sent:
            raise EOFError(f"stream ended after {number} messages: {await stream.code()} {await stream.details()}")
        report.messages += 1
        await asyncio.sleep(MESSAGE_EVERY_S)
    await stream.done_writing()
    if await stream.read() is not grpc.aio.EOF:
        raise EOFError("a message that was not sent")


async def load(host: str, roots: str = "") -> None:
    report, stop = Report(), asyncio.Event()
    target = Target(host, base64.b64decode(roots) or None)
    clients = [_requests(target, report, stop) for _ in range(CONNECTIONS)]
    clients += [_streams(target, report, stop) for _ in range(STREAMS)]
    clients += [_sockets(target, report, stop) for _ in range(SOCKETS)]
    tasks = [asyncio.create_task(one) for one in clients]
    await asyncio.to_thread(sys.stdin.read)
    stop.set()
    await asyncio.gather(*tasks)
    print(report.text())


async def idle() -> None:
    await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run({"serve": serve, "idle": idle, "load": load}[sys.argv[1]](*sys.argv[2:]))
