"""``culvert proxy-config`` on the admin pages of a real Envoy that the control plane's code configures."""

import contextlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from google.protobuf import json_format
from typer.testing import CliRunner

from meshapi import names
from meshctl import describe
from meshctl.description import facts
from meshctl.proxy_config import clusters, commands, dump, endpoints, listeners, log_levels, routes, secrets, sources
from meshctl.proxy_config.dump import Dump
from meshctl.proxy_config.spelling import camel_case
from meshkit import kube
from tests.scenarios import files, world
from tests.support.fake_kubernetes import FakeKubernetes
from tests.support.kubernetes_objects import pod, service

HOST = "web.default.svc.cluster.local"


WAYPOINT = {names.GATEWAY_MANAGED_LABEL: names.WAYPOINT_MANAGED, names.GATEWAY_NAME_LABEL: "waypoint"}
ZTUNNEL = {
    "workloads": [
        {
            "uid": "web-1", "name": "web-1", "namespace": "default", "protocol": "HBONE",
            "waypoint": {"destination": "default/waypoint.default.svc.cluster.local"},
        }
    ],
    "services": [
        {
            "name": "web", "namespace": "default", "hostname": HOST, "ports": {"8080": 8080},
            "endpoints": {"web-1": {"workloadUid": "web-1", "port": {"8080": 8080}}},
            "waypoint": {"destination": "default/waypoint.default.svc.cluster.local"},
        }
    ],
}  # fmt: skip
"""A ztunnel's dump as far as a service of the scenario goes."""


class Pages:
    """The pages of one Envoy, saved."""

    def __init__(self, config: bytes, with_endpoints: bytes, clusters_page: bytes) -> None:
        self.with_endpoints = with_endpoints
        self.clusters = clusters_page
        self.dump: Dump = dump.read(json.loads(config), json.loads(clusters_page))


@pytest.fixture
async def pages() -> AsyncIterator[Pages]:
    async with world.running(files.load("destination-rule/subset-policy")) as running:
        connector = aiohttp.UnixConnector(str(running.folder / "admin"))
        async with aiohttp.ClientSession(connector=connector) as client:

            async def page(path: str) -> bytes:
                async with client.get(f"http://envoy{path}") as answer:
                    return await answer.read()

            yield Pages(
                await page("/config_dump"),
                await page("/config_dump?include_eds"),
                await page("/clusters?format=json"),
            )


async def test_the_tables_of_a_waypoint(pages: Pages) -> None:
    found = clusters.table(clusters.Filter(fqdn="web.").chosen(pages.dump)).rows
    assert (HOST, "8080", "http/a", "inbound-vip", "EDS", "") in found
    assert {row[0] for row in found} == {HOST}

    chains = listeners.table(listeners.Filter().chosen(pages.dump)).rows
    name = f"inbound-vip|8080|http|{HOST}"
    assert ("envoy://main_internal", name, "Addr: 10.96.0.1/32:8080", f"Route: {name}") in chains
    assert ("connect_terminate", "default", "ALL", "Inline Route: CONNECT") in chains
    assert listeners.types(listeners.Filter(port=15008).chosen(pages.dump)).rows == [("::", "15008", "HTTP")]

    [line] = routes.table(routes.Filter(name=name).chosen(pages.dump)).rows
    assert line == (name, "inbound|http|8080", "*", "/*", "web.default")

    cluster = f"inbound-vip|8080|http/a|{HOST}"
    assert facts.routes_of(pages.dump, HOST) == [
        {"port": "8080", "match": "/*", "from": "web.default", "rule": "spec.http[0]", "to": cluster}
    ]
    assert endpoints.table(endpoints.Filter(cluster=cluster).chosen(pages.dump)).rows == [
        ("10.0.1.1:8080", "HEALTHY", "OK", cluster),
        ("10.0.1.2:8080", "HEALTHY", "OK", cluster),
    ]


async def test_the_certificates_of_a_waypoint(pages: Pages) -> None:
    now = datetime.now(UTC)
    rows = secrets.table(pages.dump.secrets, now).rows
    assert [row[:4] for row in rows] == [
        ("default", "Cert Chain", "ACTIVE", "true"),
        ("ROOTCA", "CA", "ACTIVE", "true"),
    ]
    assert {row[3] for row in secrets.table(pages.dump.secrets, now + timedelta(days=9)).rows} == {"false"}
    assert all(int(row[4], 16) for row in rows)


async def test_a_saved_dump_has_the_same_endpoints_as_the_page_about_them(pages: Pages) -> None:
    wanted = endpoints.Filter(port=8080)
    saved = dump.read(json.loads(pages.with_endpoints))
    rows = endpoints.table(wanted.chosen(pages.dump)).rows
    assert endpoints.table(wanted.chosen(saved)).rows == rows
    assert len(rows) == 5  # three pods of the service, and two of them in the subset


async def test_documents_are_spelled_as_protobuf_spells_them(pages: Pages) -> None:
    def spelled(items: Any, message: Any) -> list[Any]:
        return [json_format.MessageToDict(json_format.ParseDict(_plain(one), message())) for one in items]

    for items, message in (
        (pages.dump.clusters, cluster_pb2.Cluster),
        (pages.dump.listeners, listener_pb2.Listener),
        (pages.dump.routes, route_pb2.RouteConfiguration),
    ):
        assert items
        assert _keys(camel_case([_plain(one) for one in items])) == _keys(spelled(items, message))


async def test_the_command_answers_from_files(pages: Pages, tmp_path: Path) -> None:
    file = tmp_path / "dump.json"
    file.write_bytes(pages.with_endpoints)

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(commands.app, [*arguments, "-f", str(file)])
        assert done.exit_code == 0, done.output
        return done.stdout

    assert run("c", "--subset", "http/a").splitlines()[1].split()[:4] == [HOST, "8080", "http/a", "inbound-vip"]
    [route] = json.loads(run("routes", "--name", f"inbound-vip|8080|http|{HOST}", "-o", "json"))
    assert route["virtualHosts"][0]["routes"][0]["metadata"]["filterMetadata"]["istio"]["rule"] == "spec.http[0]"
    node = json.loads(run("bootstrap"))["bootstrap"]["node"]
    assert node["id"].startswith("waypoint~")
    assert run("b", "-o", "short").splitlines()[0].split() == ["NODE", "CLUSTER", "ENVOY"]
    titles = [line.split("  ")[0] for line in run("all").split("\n\n")]
    assert titles == ["SERVICE FQDN", "LISTENER", "NAME", "ENDPOINT", "RESOURCE NAME"]

    file.write_bytes(pages.clusters)
    assert "10.0.1.3:8080" in run("ep", "--status", "healthy", "--address", "10.0.1.3")


def _plain(item: Any) -> Any:
    """The message without its type, as a field of its own has it."""
    return {name: value for name, value in item.items() if name != "@type"}


def _keys(item: Any) -> Any:
    """The names in a document; what is equal to its default is not written by everybody."""
    if isinstance(item, dict):
        return {name: found for name, value in item.items() if (found := _keys(value)) not in (None, {}, [])}
    if isinstance(item, list):
        return [_keys(one) for one in item]
    return item or None


@contextlib.asynccontextmanager
async def cluster(running: world.World) -> AsyncIterator[kube.Client]:
    """A cluster with the waypoint of a scenario, and a ztunnel, behind forwarded ports."""

    async def dump_of_ztunnel(_: web.Request) -> web.Response:
        return web.json_response(ZTUNNEL)

    application = web.Application()
    application.router.add_get("/config_dump", dump_of_ztunnel)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(running.folder / "ztunnel")).start()
    async with FakeKubernetes() as api, kube.Client(kube.explicit(api.url)) as client:
        api.put("pods", pod("waypoint-1", "default", labels=WAYPOINT))
        api.put("pods", pod("ztunnel-1", "istio-system", labels={"app": "ztunnel"}))
        api.put("services", service("waypoint", "default", selector={"app": "waypoint"}))
        api.put("services", service("web", "default"))
        api.put("pods", pod("web-1", "default"))
        service_target = {"group": "", "kind": "Service", "name": "web"}
        gateway_target = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "waypoint"}
        for name, action, target in (("no", "DENY", service_target), ("all", "ALLOW", gateway_target)):
            metadata = {"name": name, "namespace": "default"}
            policy = {"metadata": metadata, "spec": {"targetRefs": [target], "action": action}}
            api.put("authorizationpolicies", policy)
        admin = running.folder / "admin"
        api.sockets = {
            f"waypoint-1:{names.ENVOY_ADMIN_PORT}": admin,
            f"ztunnel-1:{names.ZTUNNEL_ADMIN_PORT}": running.folder / "ztunnel",
        }
        yield client
    await runner.cleanup()


async def test_a_waypoint_is_asked_over_a_forwarded_port() -> None:
    async with world.running(files.load("destination-rule/subset-policy")) as running, cluster(running) as client:
        wanted = sources.Target("pod", "waypoint-1", "default")
        found, proxy = await sources.from_cluster(client, wanted, "istio-system")
        assert proxy is sources.Proxy.OWN
        assert len(endpoints.table(endpoints.Filter(port=8080).chosen(found)).rows) == 5

        held = await sources.find_pod(client, wanted)
        before = await sources.envoy_page(client, held, "/logging", method="POST")
        assert b"  http: warning" in before
        for query in log_levels.queries("error,http:debug"):
            after = await sources.envoy_page(client, held, f"/logging{query}", method="POST")
        assert b"  http: debug" in after
        assert b"  admin: error" in after


async def test_a_service_is_described_by_its_waypoint_and_ztunnel() -> None:
    async with world.running(files.load("destination-rule/subset-policy")) as running, cluster(running) as client:
        found = await describe.of_service(client, ("default", "web"), "istio-system")
        assert found["waypoint"] == "default/waypoint"
        assert [(one["from"], one["port"]) for one in found["routes"]] == [("web.default", "8080")]
        assert found["waypointPolicies"] == [
            {"kind": "AuthorizationPolicy", "name": "default/no", "action": "DENY"},
            {"kind": "AuthorizationPolicy", "name": "default/all", "action": "ALLOW"},
        ]


async def test_a_pod_is_described_by_the_policies_of_its_waypoint() -> None:
    async with world.running(files.load("destination-rule/subset-policy")) as running, cluster(running) as client:
        found = await describe.of_pod(client, ("default", "web-1"), "istio-system")
        assert found["waypoint"] == "default/waypoint"
        assert found["waypointPolicies"] == [{"kind": "AuthorizationPolicy", "name": "default/all", "action": "ALLOW"}]
