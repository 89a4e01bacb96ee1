"""A small HTTP server for the samples: routes by pattern, JSON, and a line of log for each request."""

import json
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import parse_qsl, urlsplit

TRACE_HEADERS = (
    "x-request-id",
    "traceparent",
    "tracestate",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "x-ot-span-context",
    "x-cloud-trace-context",
    "x-datadog-trace-id",
    "x-datadog-parent-id",
    "x-datadog-sampling-priority",
    "sw8",
    "grpc-trace-bin",
    "end-user",
    "user-agent",
    "authorization",
    "cookie",
)
"""Headers that a service hands on to the services it asks, so that traces and header routing hold together."""


@dataclass(frozen=True)
class Request:
    """A request as a handler sees it."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    header_list: tuple[tuple[str, str], ...]
    body: bytes
    client: str

    @property
    def propagated(self) -> dict[str, str]:
        """Return the headers to hand on."""
        return {name: self.headers[name] for name in TRACE_HEADERS if name in self.headers}


@dataclass(frozen=True)
class Response:
    """An answer; a body that is not bytes is streamed in chunks."""

    body: bytes | Iterator[bytes] = b""
    status: int = 200
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = field(default=())


Handler = Callable[..., Response]
Routes = Iterable[tuple[str, Handler]]


def as_json(document: object, status: int = 200) -> Response:
    """Answer with a JSON document."""
    return Response(json.dumps(document).encode(), status, "application/json")


def server(routes: Routes, *, port: int) -> ThreadingHTTPServer:
    """Return a server that listens on every address, IPv4 and IPv6.

    Each route is ``"METHOD pattern"``; the method may be ``*``; groups of the pattern are passed to the handler.
    """
    table = [(spec.split(" ", 1)[0], re.compile(spec.split(" ", 1)[1]), handler) for spec, handler in routes]

    class Bound(_Handler):
        routes = table

    return _listening(port, Bound)


def serve(routes: Routes, *, port: int) -> None:
    """Serve until SIGTERM."""
    listening = server(routes, port=port)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"listening on port {port}", flush=True)
    listening.serve_forever(poll_interval=60)


def port_from_command_line(default: int) -> int:
    """Return the first argument as a port, else ``$PORT``, else the default."""
    return int(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("PORT", default))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024


def _listening(port: int, handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    if not _has_ipv6():
        return _Server(("", port), handler)

    class DualStack(_Server):
        address_family = socket.AF_INET6

        def server_bind(self) -> None:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            super().server_bind()

    return DualStack(("::", port), handler)


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True


class _Handler(BaseHTTPRequestHandler):
    routes: ClassVar[list[tuple[str, re.Pattern[str], Handler]]] = []
    protocol_version = "HTTP/1.1"
    server_version = "culvert-samples"
    sys_version = ""
    disable_nagle_algorithm = True
    wbufsize = 65536

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        request = Request(
            method=self.command,
            path=parts.path,
            query=dict(parse_qsl(parts.query, keep_blank_values=True)),
            headers={name.lower(): value for name, value in self.headers.items()},
            header_list=tuple(self.headers.items()),
            body=self._read_body(),
            client=self.client_address[0].removeprefix("::ffff:"),
        )
        try:
            response = self._find(request)
        except Exception as error:
            self.log_error("%s %s: %r", self.command, self.path, error)
            response = as_json({"error": str(error)}, HTTPStatus.INTERNAL_SERVER_ERROR)
        self._send(response)

    def _find(self, request: Request) -> Response:
        for method, pattern, handler in self.routes:
            found = pattern.fullmatch(request.path)
            if found and method in ("*", "GET" if request.method == "HEAD" else request.method):
                return handler(request, *found.groups())
        return as_json({"error": f"no such page: {request.path}"}, HTTPStatus.NOT_FOUND)

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            return b"".join(iter(self._read_chunk, b""))
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _read_chunk(self) -> bytes:
        size = int(self.rfile.readline().split(b";")[0], 16)
        chunk = self.rfile.read(size)
        self.rfile.readline()
        return chunk

    def _send(self, response: Response) -> None:
        self.send_response(response.status)
        for name, value in response.headers:
            self.send_header(name, value)
        if not any(name.lower() == "content-type" for name, _ in response.headers):
            self.send_header("Content-Type", response.content_type)
        whole = isinstance(response.body, bytes)
        if whole:
            self.send_header("Content-Length", str(len(response.body)))
        else:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self.command == "HEAD":
            return
        if whole:
            self.wfile.write(response.body)
            return
        for chunk in response.body:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _answer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        print(f"{self.client_address[0].removeprefix('::ffff:')} {format % args}", flush=True)
