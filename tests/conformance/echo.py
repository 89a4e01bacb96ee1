"""The application that the suite's mesh tests run in their pods, and the client that they run in it.

echo.py serve --port=N … --grpc=N … --tcp=N … --tls=N --crt=FILE --key=FILE
echo.py client URL [--method=M] [--count=N] [-H NAME:VALUE …]

The suite reads what the client prints (``utils/echo/parse.go``): fields as ``StatusCode=200``, one a line, with a blank
line between two responses. What the server has seen comes in its answer's body, as such lines, too.
"""

import argparse
import asyncio
import http.client
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

METHOD = "/proto.EchoTestService/Echo"
TIMEOUT_S = 10.0


def fields(**values: object) -> Iterator[str]:
    """One line for each field, and what identifies this server."""
    yield from (f"{name}={value}" for name, value in values.items())
    yield f"Hostname={socket.gethostname()}"


async def serve(options: argparse.Namespace) -> None:
    for port in options.port:
        await serve_http(port, _tls(options) if port in options.tls else None)
    for port in options.tcp:
        await serve_tcp(port)
    servers = [await serve_grpc(port) for port in options.grpc]  # one that nobody refers to ends
    await asyncio.Event().wait()
    del servers


def _tls(options: argparse.Namespace) -> ssl.SSLContext | None:
    """The TLS of a server; none where the pod has no certificate."""
    if not Path(options.crt).exists():
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(options.crt, options.key)
    return context


async def serve_http(port: int, tls: ssl.SSLContext | None) -> None:
    from aiohttp import web

    async def answer(request: web.Request) -> web.Response:
        head = {"ServicePort": port, "Host": request.host, "URL": request.raw_path, "Method": request.method}
        lines = list(fields(**head, Proto=f"HTTP/{request.version.major}.{request.version.minor}"))
        lines += (f"RequestHeader={name}:{value}" for name, value in request.headers.items())
        return web.Response(text="\n".join(lines) + "\n")

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, None, port, ssl_context=tls).start()


async def serve_tcp(port: int) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.read(1000)
        writer.write("\n".join([*fields(ServicePort=port), ""]).encode() + data)
        await writer.drain()
        writer.close()

    await asyncio.start_server(answer, None, port)


async def serve_grpc(port: int) -> Any:
    import grpc.aio

    async def answer(_: bytes, context: Any) -> bytes:
        lines = [*fields(ServicePort=port, Proto="GRPC")]
        lines += (f"RequestHeader={name}:{value}" for name, value in context.invocation_metadata())
        return "\n".join(lines).encode()

    _, service, name = METHOD.split("/")
    handlers = {name: grpc.unary_unary_rpc_method_handler(answer)}
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
    server.add_insecure_port(f"[::]:{port}")
    await server.start()
    return server


def request(options: argparse.Namespace) -> None:
    """Send requests, one after the other, and print the responses."""
    url = urlsplit(options.url)
    headers = [(name.strip(), value.strip()) for name, _, value in (one.partition(":") for one in options.header)]
    call = _call_grpc if url.scheme == "grpc" else _call_http
    for index in range(options.count):
        started = time.monotonic()
        head, body = call(url, options.method, headers)
        head.append(f"Latency={(time.monotonic() - started) * 1000:.3f}ms")
        lines = [f"[{index}] {line}" for line in (f"Url={options.url}", *head)]
        lines += (f"[{index} body] {line}" for line in body.splitlines() if line)
        print("\n".join(lines) + "\n")


def _call_http(url: SplitResult, method: str, headers: list[tuple[str, str]]) -> tuple[list[str], str]:
    """Status and headers as fields, and the body."""
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=TIMEOUT_S)
    has_host = any(name.lower() == "host" for name, _ in headers)
    connection.putrequest(method, (url.path or "/") + (f"?{url.query}" if url.query else ""), skip_host=has_host)
    for name, value in headers:
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read().decode(errors="replace")
    connection.close()
    received = [f"ResponseHeader={name}:{value}" for name, value in answer.getheaders()]
    return [f"StatusCode={answer.status}", *received], body


def _call_grpc(url: SplitResult, _: str, headers: list[tuple[str, str]]) -> tuple[list[str], str]:
    """The same; a call that succeeds has the status of its HTTP response."""
    import grpc

    metadata = [(name.lower(), value) for name, value in headers]
    with grpc.insecure_channel(f"dns:///{url.netloc}") as channel:
        body: bytes = channel.unary_unary(METHOD)(b"echo", metadata=metadata, timeout=TIMEOUT_S, wait_for_ready=True)
    return ["StatusCode=200"], body.decode()


def main() -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    server = commands.add_parser("serve")
    for name in ("port", "grpc", "tcp", "tls"):
        server.add_argument(f"--{name}", type=int, action="append", default=[])
    for name in ("crt", "key"):
        server.add_argument(f"--{name}", default="")
    client = commands.add_parser("client")
    client.add_argument("url")
    client.add_argument("--method", default="GET")
    client.add_argument("--count", type=int, default=1)
    client.add_argument("-H", dest="header", action="append", default=[])
    options = parser.parse_args()
    if options.command == "serve":
        asyncio.run(serve(options))
    else:
        request(options)


if __name__ == "__main__":
    main()
