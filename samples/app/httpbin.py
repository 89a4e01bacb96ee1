"""An HTTP service that says what it was asked: headers, address, method, body; and misbehaves on request."""

import base64
import json
import random
import socket
import time
from collections.abc import Iterator
from urllib.parse import parse_qsl

from app.web import Request, Response, as_json, port_from_command_line, serve

_MAX_DELAY_S = 10.0
_MAX_BYTES = 10 * 1024 * 1024
_MAX_LINES = 1000


def echo(request: Request, *_: str) -> Response:
    """Describe a request without looking at its body."""
    return as_json(_described(request))


def echo_body(request: Request, *_: str) -> Response:
    """Describe a request and its body."""
    return as_json(_described(request) | _body(request))


def anything(request: Request, *_: str) -> Response:
    """Describe everything of a request."""
    return as_json(_described(request) | _body(request) | {"method": request.method})


def headers(request: Request) -> Response:
    """Answer with the headers that arrived; one that came twice is a list."""
    return as_json({"headers": _headers(request)})


def address(request: Request) -> Response:
    """Answer with the address that the request came from."""
    return as_json({"origin": _origin(request)})


def hostname(_: Request) -> Response:
    """Answer with the name of the pod."""
    return as_json({"hostname": socket.gethostname()})


def user_agent(request: Request) -> Response:
    """Answer with the client's name for itself."""
    return as_json({"user-agent": request.headers.get("user-agent")})


def status(_: Request, codes: str) -> Response:
    """Answer with a status; several, separated by commas and with weights after a colon, are drawn from."""
    choices = [part.partition(":") for part in codes.split(",")]
    weights = [float(weight or 1) for _, _, weight in choices]
    code = int(random.choices([code for code, _, _ in choices], weights)[0])
    if not 100 <= code <= 599:
        return as_json({"error": f"{code} is no status"}, 400)
    extra = (("Location", "/redirect/1"),) if code in (301, 302, 303, 307) else ()
    teapot = b"\n    -=[ teapot ]=-\n\n" if code == 418 else b""
    return Response(teapot, code, headers=extra)


def delay(request: Request, seconds: str) -> Response:
    """Answer late."""
    time.sleep(min(float(seconds), _MAX_DELAY_S))
    return echo_body(request)


def random_bytes(request: Request, count: str) -> Response:
    """Answer with bytes; the same ones for the same ``seed``."""
    source = random.Random(request.query.get("seed"))
    return Response(source.randbytes(min(int(count), _MAX_BYTES)), content_type="application/octet-stream")


def stream(request: Request, count: str) -> Response:
    """Answer with lines of JSON, each a chunk."""

    def lines() -> Iterator[bytes]:
        for number in range(min(int(count), _MAX_LINES)):
            yield json.dumps(_described(request) | {"id": number}).encode() + b"\n"

    return Response(lines(), content_type="application/json")


def drip(request: Request) -> Response:
    """Answer with bytes spread over some seconds."""
    count, duration = int(request.query.get("numbytes", 10)), float(request.query.get("duration", 2))

    def drops() -> Iterator[bytes]:
        for _ in range(min(count, _MAX_LINES)):
            time.sleep(min(duration, _MAX_DELAY_S) / max(count, 1))
            yield b"*"

    return Response(drops(), content_type="application/octet-stream")


def response_headers(request: Request) -> Response:
    """Answer with the headers that the query asks for."""
    asked = tuple(request.query.items())
    return Response(json.dumps(dict(asked)).encode(), content_type="application/json", headers=asked)


def redirect(_: Request, count: str) -> Response:
    """Answer with a chain of redirections."""
    left = int(count) - 1
    return Response(status=302, headers=(("Location", f"/redirect/{left}" if left > 0 else "/get"),))


def basic_auth(request: Request, user: str, password: str) -> Response:
    """Ask for a name and a password."""
    expected = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    if request.headers.get("authorization") != expected:
        return Response(status=401, headers=(("WWW-Authenticate", 'Basic realm="Fake Realm"'),))
    return as_json({"authenticated": True, "user": user})


def bearer(request: Request) -> Response:
    """Answer with the bearer token."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        return Response(status=401, headers=(("WWW-Authenticate", "Bearer"),))
    return as_json({"authenticated": True, "token": token})


def cookies(request: Request) -> Response:
    """Answer with the cookies that arrived."""
    pairs = [part.strip().partition("=") for part in request.headers.get("cookie", "").split(";") if part.strip()]
    return as_json({"cookies": {name: value for name, _, value in pairs}})


def page(_: Request) -> Response:
    """Answer with a small page."""
    html = b"<!doctype html><title>httpbin</title><h1>httpbin</h1><p>Try /get, /headers, /status/418.</p>"
    return Response(html, content_type="text/html; charset=utf-8")


ROUTES = (
    ("GET /", page),
    ("GET /html", page),
    ("GET /get", echo),
    ("POST /post", echo_body),
    ("PUT /put", echo_body),
    ("PATCH /patch", echo_body),
    ("DELETE /delete", echo_body),
    (r"* /anything(?:/.*)?", anything),
    ("GET /headers", headers),
    ("GET /ip", address),
    ("GET /hostname", hostname),
    ("GET /user-agent", user_agent),
    (r"* /status/([\d.,:]+)", status),
    (r"* /delay/([\d.]+)", delay),
    (r"GET /bytes/(\d+)", random_bytes),
    (r"GET /stream/(\d+)", stream),
    ("GET /drip", drip),
    ("* /response-headers", response_headers),
    (r"GET /redirect/(\d+)", redirect),
    (r"GET /basic-auth/([^/]+)/([^/]+)", basic_auth),
    ("GET /bearer", bearer),
    ("GET /cookies", cookies),
)


def _described(request: Request) -> dict[str, object]:
    host = request.headers.get("host", "")
    scheme = request.headers.get("x-forwarded-proto", "http")
    query = "?" + "&".join(f"{name}={value}" for name, value in request.query.items()) if request.query else ""
    return {
        "args": dict(request.query),
        "headers": _headers(request),
        "origin": _origin(request),
        "url": f"{scheme}://{host}{request.path}{query}",
    }


def _body(request: Request) -> dict[str, object]:
    text = request.body.decode(errors="replace")
    form = request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded")
    try:
        parsed = json.loads(text)
    except ValueError:
        parsed = None
    return {
        "data": "" if form else text,
        "files": {},
        "form": dict(parse_qsl(text, keep_blank_values=True)) if form else {},
        "json": None if form else parsed,
    }


def _headers(request: Request) -> dict[str, str | list[str]]:
    found: dict[str, str | list[str]] = {}
    for raw, value in request.header_list:
        name = "-".join(part.capitalize() for part in raw.split("-"))
        before = found.get(name)
        found[name] = value if before is None else [*before, value] if isinstance(before, list) else [before, value]
    return found


def _origin(request: Request) -> str:
    return request.headers.get("x-forwarded-for", request.client)


if __name__ == "__main__":
    serve(ROUTES, port=port_from_command_line(8080))
