"""Mesh settings that ztunnel applies: destinations outside the registry, and the form of the access log."""

import json
import re

import pytest

from meshapi import names
from meshapi.proto import engine_pb2, mesh_config_pb2, workload_pb2
from meshengine import ConfigRejected
from tests.support import namespaced
from tests.support.waiting import until

pytestmark = pytest.mark.root

Policy = mesh_config_pb2.MeshConfig.OutboundTrafficPolicy
REGISTRY_ONLY = mesh_config_pb2.MeshConfig(outbound_traffic_policy=Policy(mode=Policy.REGISTRY_ONLY))


@pytest.fixture(params=["10.77.0.0/24", "fd77::/64"], ids=["ipv4", "ipv6"])
async def mesh(request: pytest.FixtureRequest):
    async with namespaced.mesh(request.param, settings={"access_log": engine_pb2.MESH}) as made:
        yield made


def configure(mesh: namespaced.Mesh, config: mesh_config_pb2.MeshConfig) -> None:
    for node in mesh.nodes:
        node.engine.apply(names.MESH_CONFIG_TYPE, [(names.MESH_CONFIG_RESOURCE, config.SerializeToString())], [])


async def test_registry_only_refuses_only_destinations_unknown_to_the_mesh(mesh) -> None:
    known, stranger = await mesh.pod("known", node=1), await mesh.pod("stranger", node=1, captured=False)
    client = await mesh.pod("client")
    seen = [await server.serve_peer(8080) for server in (known, stranger)]
    resolver = await stranger.serve_peer(53)
    mesh.withdraw(stranger)
    assert (await client.request(stranger.ip, 8080)).endswith(b" hello"), "by default any destination is allowed"

    configure(mesh, REGISTRY_ONLY)
    with pytest.raises(OSError):
        await client.request(stranger.ip, 8080)
    assert (await client.request(known.ip, 8080)).endswith(b" hello")
    assert (await client.request(stranger.ip, 53)).endswith(b" hello"), "DNS over TCP to any resolver"
    assert (len(seen[0]), len(seen[1]), len(resolver)) == (1, 1, 1)

    def refusals() -> list[str]:
        return [line for line in client.node.lines if "outboundTrafficPolicy is REGISTRY_ONLY" in line]

    await until(refusals)
    assert len(refusals()) == 1
    failed = client.node.metric("istio_tcp_connections_failed", response_flags="NOT_IN_REGISTRY", reporter="source")
    assert failed == 1

    mesh.announce(stranger)
    assert (await client.request(stranger.ip, 8080)).endswith(b" hello"), "known now"
    mesh.withdraw(stranger)
    for node in mesh.nodes:
        node.engine.apply(names.MESH_CONFIG_TYPE, [], [names.MESH_CONFIG_RESOURCE])
    assert (await client.request(stranger.ip, 8080)).endswith(b" hello"), "without a mesh configuration any is allowed"


async def test_a_connection_that_is_open_goes_on_under_registry_only(mesh) -> None:
    stranger = await mesh.pod("stranger", node=1, captured=False)
    client = await mesh.pod("client")
    await stranger.serve_peer(8080)
    mesh.withdraw(stranger)
    reader, writer = await client.connect(stranger.ip, 8080)
    assert await reader.readuntil(b" ")
    configure(mesh, REGISTRY_ONLY)
    with pytest.raises(OSError):
        await client.request(stranger.ip, 8080)
    writer.write(b"still here")
    assert await reader.readexactly(10) == b"still here"
    writer.close()


FORMAT = (
    "%START_TIME% in=%BYTES_RECEIVED% out=%BYTES_SENT% %RESPONSE_FLAGS% from=%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% "
    "to=%DOWNSTREAM_LOCAL_ADDRESS% up=%UPSTREAM_HOST% peer=%DOWNSTREAM_PEER_URI_SAN%/%UPSTREAM_PEER_URI_SAN% %REQ(X)%"
)


def at(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


async def test_lines_of_the_access_log_have_the_configured_format(mesh) -> None:
    server, client = await mesh.pod("server", node=1), await mesh.pod("client")
    await server.serve_peer(8080)
    vip = "fd99::1" if ":" in mesh.subnet else "10.99.0.1"
    client.in_namespace(namespaced.route_everything)
    mesh.service("web", vip, {80: 8080})
    ports = {
        "shop/web.shop.svc.cluster.local": workload_pb2.PortList(ports=[{"service_port": 80, "target_port": 8080}])
    }
    mesh.announce(server, services=ports)
    configure(mesh, mesh_config_pb2.MeshConfig(access_log_format=FORMAT))
    answer = await client.request(vip, 80)

    def written(node: namespaced.Node) -> list[str]:
        return [line for line in node.lines if " in=5 " in line]

    await until(lambda: written(client.node) and written(server.node))
    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    start = rf"{time} in=5 out={len(answer)} - from={re.escape(client.ip)} "
    [line] = written(client.node)
    way = f"to={at(vip, 80)} up={at(server.ip, 15008)} peer=-/{server.identity} -"
    assert re.fullmatch(start + re.escape(way), line), line
    [line] = written(server.node)
    own = at(server.ip, 8080)
    assert re.fullmatch(start + re.escape(f"to={own} up={own} peer={client.identity}/- -"), line), line


async def test_the_access_log_changes_its_format_and_is_disabled_without_a_restart(mesh) -> None:
    server, client = await mesh.pod("server", node=1), await mesh.pod("client")
    await server.serve_peer(8080)
    lines = client.node.lines

    async def last(part: str) -> str:
        known = len(lines)
        await client.request(server.ip, 8080)
        await until(lambda: len(lines) > known and part in lines[-1])
        return lines[-1]

    Config = mesh_config_pb2.MeshConfig
    assert "connection complete" in await last("src.workload")
    configure(mesh, Config(access_log_encoding=Config.JSON))
    assert json.loads(await last('"direction":"outbound"'))["src.workload"] == "client"
    form = {"bytes": "%BYTES_RECEIVED%", "method": "%REQ(:METHOD)%"}
    configure(mesh, Config(access_log_encoding=Config.JSON, access_log_format=json.dumps(form)))
    assert json.loads(await last('"method"')) == {"bytes": 5, "method": None}

    bad = Config(access_log_format="%DURATION").SerializeToString()
    with pytest.raises(ConfigRejected, match=r"mesh: accessLogFormat: .*is not an operator"):
        client.node.engine.apply(names.MESH_CONFIG_TYPE, [(names.MESH_CONFIG_RESOURCE, bad)], [])
    assert "method" in await last('"method"'), "the last good one stays"

    configure(mesh, Config(access_log_file="/dev/null"))
    before = len(lines)
    await client.request(server.ip, 8080)
    await until(lambda: not client.node.engine.connections())
    configure(mesh, Config())
    await last("connection complete")
    assert len(lines) == before + 1
