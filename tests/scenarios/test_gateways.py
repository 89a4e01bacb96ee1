"""What a scenario's file cannot say about gateways: open connections, and who gets which secrets."""

import asyncio
import ssl
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest

from meshapi import names
from tests.scenarios import world
from tests.scenarios.files import Scenario, Service
from tests.scenarios.proxy import stat
from tests.scenarios.world import World

Json = dict[str, Any]
GROUP = "gateway.networking.k8s.io"


def gateway(*listeners: Json, name: str = "gateway") -> Json:
    spec = {"gatewayClassName": "istio", "listeners": list(listeners)}
    return {"kind": "Gateway", "metadata": {"name": name}, "spec": spec}


def https(hostname: str, secret: str, port: int = 443) -> Json:
    tls = {"certificateRefs": [{"name": secret}]}
    return {"name": secret, "port": port, "protocol": "HTTPS", "hostname": hostname, "tls": tls}


def secret(name: str, *hosts: str) -> Json:
    return {"kind": "Secret", "metadata": {"name": name}, "certificate": {"hosts": list(hosts)}}


def route(name: str, *hostnames: str, path: str = "/", to: str = "web") -> Json:
    rule = {"matches": [{"path": {"value": path}}], "backendRefs": [{"name": to, "port": 8080}]}
    spec = {"parentRefs": [{"name": "gateway"}], "hostnames": list(hostnames), "rules": [rule]}
    return {"kind": "HTTPRoute", "metadata": {"name": name}, "spec": spec}


def scenario(*resources: Json) -> Scenario:
    return Scenario(about="", gateway=True, services={"web": Service()}, resources=resources, steps=())


async def answered(pair: tuple[asyncio.StreamReader, asyncio.StreamWriter], path: str = "/") -> int:
    """Status of a request over an open connection."""
    reader, writer = pair
    writer.write(f"GET {path} HTTP/1.1\r\nhost: web.example\r\n\r\n".encode())
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    await reader.readexactly(length)
    return int(head.split()[1])


async def connected(running: World, name: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    context = ssl.create_default_context(cadata=running.authority.roots.decode())
    return await asyncio.open_connection("127.0.0.1", 443, ssl=context, server_hostname=name)


async def serial(running: World, name: str) -> str:
    """Serial number of the certificate that a new connection gets."""
    _, writer = await connected(running, name)
    shown = writer.get_extra_info("ssl_object").getpeercert()
    writer.close()
    return str(shown["serialNumber"])


async def test_certificates_routes_and_listeners_that_change_close_no_connection() -> None:
    before = gateway(https("web.example", "web"))
    async with world.running(scenario(secret("web", "web.example"), before, route("web"))) as running:
        pair = await connected(running, "web.example")
        assert await answered(pair) == 200
        first = await serial(running, "web.example")
        running.put(secret("web", "web.example"))
        running.put(secret("more", "more.example"))
        running.put(route("new", "web.example", path="/new"))
        running.put(gateway(https("web.example", "web"), https("more.example", "more")))
        running.publish()
        async with asyncio.timeout(10):
            while await serial(running, "web.example") == first:
                await asyncio.sleep(0.05)
            while await stat(running, "listener_manager.listener_in_place_updated") < 1:
                await asyncio.sleep(0.05)
        assert await stat(running, "listener_manager.total_filter_chains_draining") == 0
        assert await answered(pair) == 200, "the connection is the one of before"
        assert await answered(pair, "/new") == 200
        pair[1].close()


async def test_a_client_of_http_2_reaches_a_service_that_speaks_http_1() -> None:
    listener = {"name": "http", "port": 80, "protocol": "HTTP"}
    async with world.running(scenario(gateway(listener), route("web", "web.example"))):
        client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        client.initiate_connection()
        request = {":method": "GET", ":path": "/", ":scheme": "http", ":authority": "web.example"}
        client.send_headers(1, list(request.items()), end_stream=True)
        reader, writer = await asyncio.open_connection("127.0.0.1", 80)
        writer.write(client.data_to_send())
        found: dict[str, str] = {}
        async with asyncio.timeout(5):
            while not found:
                for event in client.receive_data(await reader.read(65_536)):
                    if isinstance(event, h2.events.ResponseReceived):
                        found = {str(name): str(value) for name, value in event.headers}
        assert (found[":status"], found["x-version"]) == ("200", "v1")
        writer.close()
        await writer.wait_closed()


async def test_a_changed_route_is_one_small_resource_and_no_listener() -> None:
    routes = [route(f"r{number}", f"h{number}.example") for number in range(50)]
    async with world.running(scenario(gateway({"name": "http", "port": 80, "protocol": "HTTP"}), *routes)) as running:
        view = running.worlds.view(running.view)
        changes: list[tuple[str, frozenset[str]]] = []
        end = view.watch(lambda type_url, names: changes.append((type_url, names)))
        running.put(route("r7", "h7.example", path="/changed"))
        running.publish()
        end()
        assert changes == [(names.ROUTE_TYPE, frozenset({"http.80"}))]


@pytest.mark.parametrize("names_it", [True, False], ids=["names it", "does not name it"])
async def test_a_gateway_gets_the_secrets_of_its_own_listeners_only(names_it: bool) -> None:
    """tenant-crossing: no proxy can ask for a certificate that its own Gateway does not use."""
    other = gateway(https("other.example", "other"), name="other")
    own = gateway(https("own.example", "other" if names_it else "own"))
    resources = (secret("own", "own.example"), secret("other", "other.example"), other, own)
    async with world.running(scenario(*resources)) as running:
        view = running.worlds.view(running.view)
        found = view.lookup(names.SECRET_TYPE, "kubernetes-gateway://default/other")
        assert (found is not None) is names_it
        assert view.lookup(names.SECRET_TYPE, "kubernetes-gateway://default/unknown") is None
