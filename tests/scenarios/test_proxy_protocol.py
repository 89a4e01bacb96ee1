"""The PROXY protocol in front of a gateway, which no scenario's client speaks."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.scenarios import world
from tests.scenarios.files import Behaviour, Scenario, Service
from tests.scenarios.outside import HOST
from tests.scenarios.test_istio_gateways import gateway, https, secret, virtual_service
from tests.scenarios.world import World
from tests.support.waiting import TIMEOUT_FACTOR

Json = dict[str, Any]
V1 = b"PROXY TCP4 10.9.0.1 127.0.0.1 4711 80\r\n"
V2 = bytes.fromhex("0d0a0d0a000d0a515549540a 21 11 000c 0a090001 7f000001 1267 0050".replace(" ", ""))
"""The same, in version 2."""
TEXT = b"hello, here I am"
EXPECTING: Json = {"defaultConfig": {"gatewayTopology": {"proxyProtocol": {}}}}
PLAIN: Json = {"port": {"number": 80, "protocol": "HTTP", "name": "http"}, "hosts": ["*"]}
RAW: Json = {"port": {"number": 9400, "protocol": "TCP", "name": "tcp"}, "hosts": ["*"]}
TO_RAW: Json = {
    "kind": "VirtualService",
    "metadata": {"name": "raw"},
    "spec": {
        "hosts": ["*"],
        "gateways": ["edge"],
        "tcp": [{"route": [{"destination": {"host": "raw", "port": {"number": 9000}}}]}],
    },
}


def denied(**source: list[str]) -> Json:
    spec = {"selector": {"matchLabels": {"istio": "ingressgateway"}}, "action": "DENY"}
    rules = [{"from": [{"source": source}]}]
    metadata = {"name": "denied", "namespace": "istio-system"}
    return {"kind": "AuthorizationPolicy", "metadata": metadata, "spec": {**spec, "rules": rules}}


@contextlib.asynccontextmanager
async def expecting(*more: Json, mesh: Json = EXPECTING) -> AsyncIterator[World]:
    given = (
        secret("web", hosts=["web.example"]),
        gateway("edge", PLAIN, RAW, https("web.example", "web")),
        virtual_service("web", "*", "edge"),
        TO_RAW,
        *more,
    )
    services = {"web": Service(), "raw": Service(ports={"tcp": 9000}, pods={"v1": Behaviour()})}
    scenario = Scenario(about="", gateway="istio", services=services, resources=given, mesh=mesh, steps=())
    async with world.running(scenario) as running:
        yield running


async def asked(header: bytes, port: int = 80, tls: ssl.SSLContext | None = None) -> str:
    """What comes back for a request after a header; empty: the connection is closed."""
    async with asyncio.timeout(10 * TIMEOUT_FACTOR):
        reader, writer = await asyncio.open_connection(HOST, port)
        try:
            if tls is not None:
                writer.write(header)
                await writer.start_tls(tls, server_hostname="web.example")
                header = b""
            writer.write(header + b"GET / HTTP/1.1\r\nhost: web.example\r\nconnection: close\r\n\r\n")
            return (await reader.read()).decode()
        except (ConnectionError, ssl.SSLError):
            return ""
        finally:
            writer.close()


async def called(header: bytes) -> str:
    """What comes back over TCP."""
    async with asyncio.timeout(10 * TIMEOUT_FACTOR):
        reader, writer = await asyncio.open_connection(HOST, 9400)
        try:
            writer.write(header + TEXT)  # and no end: Envoy drops who ends before it has read a header
            return (await reader.read()).decode()
        except ConnectionError:
            return ""
        finally:
            writer.close()


def seen(answer: str) -> dict[str, str]:
    """The headers of a request as the service has seen them."""
    head, _, body = answer.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200"), answer
    found: dict[str, str] = json.loads(body[body.index("{") : body.rindex("}") + 1])["headers"]
    return found


@pytest.mark.parametrize("header", [V1, V2], ids=["version 1", "version 2"])
async def test_the_address_in_the_header_is_the_clients(header: bytes) -> None:
    async with expecting() as running:
        assert seen(await asked(header))["x-envoy-external-address"] == "10.9.0.1"
        tls = ssl.create_default_context(cadata=running.authority.roots.decode())
        assert seen(await asked(header, 443, tls))["x-forwarded-for"] == "10.9.0.1"
        assert await called(header) == f"v1 {TEXT.decode()}"


async def test_a_client_without_the_header_is_refused() -> None:
    async with expecting():
        assert not await asked(b"")
        assert not await called(b"")


async def test_without_the_setting_the_header_is_no_request() -> None:
    async with expecting(mesh={}):
        assert (await asked(V1)).startswith("HTTP/1.1 400")
        assert seen(await asked(b""))["x-envoy-external-address"] == "127.0.0.1"


async def test_remote_ip_blocks_are_about_the_address_in_the_header() -> None:
    async with expecting(denied(remoteIpBlocks=["10.9.0.0/16"])):
        assert (await asked(V1)).startswith("HTTP/1.1 403")
        assert not await called(V1)
        assert await called(V1.replace(b"10.9.", b"10.8.")) == f"v1 {TEXT.decode()}"


async def test_ip_blocks_are_about_the_proxy_that_has_called() -> None:
    async with expecting(denied(ipBlocks=["10.9.0.0/16"])):
        assert seen(await asked(V1))
        assert await called(V1) == f"v1 {TEXT.decode()}"
    async with expecting(denied(ipBlocks=["127.0.0.0/8"])):
        assert (await asked(V1)).startswith("HTTP/1.1 403")
        assert not await called(V1)
