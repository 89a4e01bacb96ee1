"""framing-mismatch: no bytes make the service see a request that the waypoint's or gateway's policy has not judged."""

import asyncio
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import h2.config
import h2.connection
import pytest

from tests.scenarios import world
from tests.scenarios.files import Scenario, Service
from tests.scenarios.proxy import calling
from tests.scenarios.world import World

WEB = "10.96.0.1:8080"
HIDDEN = b"GET /hidden HTTP/1.1\r\nhost: web\r\n\r\n"
"""What the policy refuses: the service must never see it."""
POLICY: dict[str, Any] = {
    "kind": "AuthorizationPolicy",
    "metadata": {"name": "hidden"},
    "spec": {
        "targetRefs": [{"kind": "Service", "group": "", "name": "web"}],
        "action": "DENY",
        "rules": [{"to": [{"operation": {"paths": ["/hidden*"]}}]}],
    },
}
AT_GATEWAY = {
    **POLICY,
    "spec": {
        **POLICY["spec"],
        "targetRefs": [{"kind": "Gateway", "group": "gateway.networking.k8s.io", "name": "gateway"}],
    },
}
GATEWAY = {
    "kind": "Gateway",
    "metadata": {"name": "gateway"},
    "spec": {"gatewayClassName": "istio", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]},
}
ROUTE = {
    "kind": "HTTPRoute",
    "metadata": {"name": "web"},
    "spec": {"parentRefs": [{"name": "gateway"}], "rules": [{"backendRefs": [{"name": "web", "port": 8080}]}]},
}
SCENARIOS = {
    "waypoint": Scenario(about="", services={"web": Service()}, resources=(POLICY,), steps=()),
    "gateway": Scenario(
        about="", services={"web": Service()}, resources=(GATEWAY, ROUTE, AT_GATEWAY), gateway=True, steps=()
    ),
}
everywhere = pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)


def post(*headers: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join((b"POST /open HTTP/1.1", b"host: web", *headers, b"", body))


async def sent(running: World, data: bytes, *, silence_s: float = 2.0) -> bytes:
    """What comes back for some bytes on one connection, until it is silent for a while or closed."""
    async with calling(running, WEB) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        answer = b""
        while True:
            try:
                part = await asyncio.wait_for(reader.read(65_536), silence_s)
            except TimeoutError:
                break
            if not part:
                break
            answer += part
        writer.close()
        return answer


async def nothing_is_hidden(running: World, attempts: Mapping[str, bytes]) -> None:
    """Send each attempt on a connection of its own: the service sees at most the request that the policy has judged."""
    await asyncio.gather(*(sent(running, data) for data in attempts.values()))
    found = [f"{one.method} {one.path} {one.body!r}" for one in running.seen]
    assert not any(one.path.startswith("/hidden") for one in running.seen), found
    for one in running.seen:
        assert one.body in {"", HIDDEN.decode()}, f"read in part: {one.body!r}"
    counts = Counter(one.headers.get("x-attempt", "") for one in running.seen)
    assert not [name for name, count in counts.items() if count > 1], found
    # Nothing of it stays behind for the next client on the same connections to the service.
    for _ in range(10):
        answer = await sent(running, post(b"content-length: 2", b"connection: close", body=b"ab"))
        assert answer.startswith(b"HTTP/1.1 200"), answer
        assert (running.seen[-1].path, running.seen[-1].body) == ("/open", "ab")


@everywhere
async def test_requests_one_after_the_other_are_each_judged(scenario: Scenario) -> None:
    async with world.running(scenario) as running:
        answer = await sent(running, post(b"content-length: 2", body=b"ab") + post(b"content-length: 0") + HIDDEN)
        assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"200", b"403"]
        assert [(one.path, one.body) for one in running.seen] == [("/open", "ab"), ("/open", "")]


CHUNKED = b"0\r\n\r\n" + HIDDEN
LONGER = b"content-length: %d" % len(CHUNKED)
HTTP1 = {
    "both lengths, chunked ends first": post(LONGER, b"transfer-encoding: chunked", body=CHUNKED),
    "both lengths, the number ends first": post(
        b"content-length: 4", b"transfer-encoding: chunked", body=b"%x\r\n%s\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)
    ),
    "two numbers": post(b"content-length: 0", b"content-length: %d" % len(HIDDEN), body=HIDDEN),
    "two numbers in one header": post(b"content-length: 0, %d" % len(HIDDEN), body=HIDDEN),
    "a number with a sign": post(b"content-length: +0", body=HIDDEN),
    "a hexadecimal number": post(b"content-length: 0x0", body=HIDDEN),
    "an unknown coding": post(LONGER, b"transfer-encoding: xchunked", body=CHUNKED),
    "a coding after chunked": post(LONGER, b"transfer-encoding: chunked, identity", body=CHUNKED),
    "a vertical tab before the coding": post(LONGER, b"transfer-encoding:\x0bchunked", body=CHUNKED),
    "a space before the colon": post(LONGER, b"transfer-encoding : chunked", body=CHUNKED),
    "a folded header": post(LONGER, b"transfer-encoding:\r\n chunked", body=CHUNKED),
    "two codings": post(LONGER, b"transfer-encoding: identity", b"transfer-encoding: chunked", body=CHUNKED),
    "a line feed alone": b"POST /open HTTP/1.1\nhost: web\n" + LONGER + b"\ntransfer-encoding: chunked\n\n" + CHUNKED,
    "a null byte in a header": post(b"x: a\x00b", LONGER, b"transfer-encoding: chunked", body=CHUNKED),
    "an enormous chunk": post(b"transfer-encoding: chunked", body=b"fffffffffffffffff\r\n" + HIDDEN),
    "a chunk extension with a request": post(
        b"transfer-encoding: chunked", body=b"0;\n" + HIDDEN + b"\r\n\r\n" + HIDDEN
    ),
    "bytes after a request to upgrade": post(
        b"connection: upgrade", b"upgrade: websocket", b"content-length: 0", body=HIDDEN
    ),
    "bytes after a request to upgrade to HTTP/2": post(
        b"connection: upgrade, http2-settings", b"upgrade: h2c", b"http2-settings: AAMAAABkAAQAAP__", body=HIDDEN
    ),
    "bytes after CONNECT": b"CONNECT web:8080 HTTP/1.1\r\nhost: web\r\n\r\n" + HIDDEN,
    "a length of GET": b"GET /open HTTP/1.1\r\nhost: web\r\ncontent-length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
}


@everywhere
async def test_http_1_hides_no_request(scenario: Scenario) -> None:
    # Each attempt says which one it is, behind its first line.
    marked = {
        name: re.sub(rb"(HTTP/1.1\r?\n)", rb"\1x-attempt: %d\r\n" % number, data, count=1)
        for number, (name, data) in enumerate(HTTP1.items())
    }
    async with world.running(scenario) as running:
        await nothing_is_hidden(running, marked)


HEADERS = [(":method", "POST"), (":path", "/open"), (":scheme", "http"), (":authority", "web")]
HTTP2: dict[str, list[tuple[str, str]]] = {
    "a length that ends first": [("content-length", "0")],
    "a coding": [("transfer-encoding", "chunked")],
    "a request in a value": [("x", "a\r\n\r\nGET /hidden HTTP/1.1\r\nhost: web\r\n\r\n")],
    "a request in a name": [("x: a\r\n\r\nGET /hidden HTTP/1.1\r\nhost", "web")],
    "a line feed in a value": [("x", "a\nhost: other")],
    "a header of HTTP/1": [("connection", "keep-alive, content-length")],
    "an upgrade": [("upgrade", "websocket")],
    "a second path": [(":path", "/hidden")],
    "a space in the method": [(":method", "GET /hidden HTTP/1.1\r\nx: ")],
}


@everywhere
async def test_http_2_hides_no_request(scenario: Scenario) -> None:
    attempts = {name: _http_2(number, HTTP2[name]) for number, name in enumerate(HTTP2)}
    async with world.running(scenario) as running:
        await nothing_is_hidden(running, attempts)


def _http_2(number: int, given: list[tuple[str, str]]) -> bytes:
    """The bytes of a connection with one request, with a header that a client's library would refuse."""
    replaced = {key for key, _ in given} & {":method"}
    headers = [*(one for one in HEADERS if one[0] not in replaced), *given, ("x-attempt", str(number))]
    config = h2.config.H2Configuration(
        client_side=True, validate_outbound_headers=False, normalize_outbound_headers=False, header_encoding=None
    )
    client = h2.connection.H2Connection(config)
    client.initiate_connection()
    client.send_headers(1, sorted(headers, key=lambda one: not one[0].startswith(":")))
    client.send_data(1, HIDDEN, end_stream=True)
    return client.data_to_send()
