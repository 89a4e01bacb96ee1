"""Istio's own command line against our ztunnel's dump and our control plane.

There is no package of it. ``CULVERT_ISTIOCTL`` is the path of a binary built beforehand; see CONTRIBUTING.md. Its
use in a cluster is described in ``docs/istioctl.md``.
"""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from controlplane.metrics import own_version
from meshapi import names
from meshapi.proto import authorization_pb2, workload_pb2
from tests.support import namespaced
from tests.support.fake_kubernetes import FakeKubernetes, token_user
from tests.support.kubernetes_objects import pod
from tests.support.running_control_plane import Recorder, Running, serving
from ztunnel import pages
from ztunnel.settings import ZtunnelSettings

BINARY = os.environ.get("CULVERT_ISTIOCTL", "")
pytestmark = pytest.mark.skipif(not BINARY, reason="CULVERT_ISTIOCTL names no binary of Istio's command line")

SERVICE = "shop/web.shop.svc.cluster.local"
WAYPOINT = workload_pb2.GatewayAddress(
    hostname=workload_pb2.NamespacedHostname(namespace="shop", hostname="way.shop.svc.cluster.local"),
    hbone_mtls_port=15008,
)

RANGE = workload_pb2.Service(
    name="range",
    namespace="shop",
    hostname="range.example.com",
    addresses=[workload_pb2.NetworkAddress(address=b"\x0a\x63\x00\x00", length=16)],
)


async def istioctl(*arguments: str, kubeconfig: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        BINARY, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"KUBECONFIG": str(kubeconfig), "HOME": str(kubeconfig.parent)},
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    return out.decode()


def kubeconfig(folder: Path, url: str) -> Path:
    cluster = {"name": "x", "cluster": {"server": url}}
    context = {"name": "x", "context": {"cluster": "x", "user": "x"}}
    file = folder / "kubeconfig"
    content = {
        "apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [cluster], "contexts": [context], "users": [{"name": "x", "user": {}}],
    }  # fmt: skip
    file.write_text(yaml.safe_dump(content))
    return file


class Dump:
    """A ztunnel's dump in a file, and what ``istioctl`` makes of it."""

    def __init__(self, folder: Path, document: str) -> None:
        self._file = folder / "dump.json"
        self._file.write_text(document)
        self._kubeconfig = kubeconfig(folder, "http://127.0.0.1:1")

    async def rows(self, what: str, *arguments: str) -> list[list[str]]:
        text = await istioctl("ztunnel-config", what, "-f", str(self._file), *arguments, kubeconfig=self._kubeconfig)
        return [line.split() for line in text.splitlines() if line]

    async def items(self, what: str, *arguments: str) -> Any:
        given = ("ztunnel-config", what, "-f", str(self._file), "-o")
        in_json = json.loads(await istioctl(*given, "json", *arguments, kubeconfig=self._kubeconfig))
        assert yaml.safe_load(await istioctl(*given, "yaml", *arguments, kubeconfig=self._kubeconfig)) == in_json
        return in_json


@pytest.mark.root
async def test_istioctl_reads_a_ztunnels_complete_dump(tmp_path: Path) -> None:
    async with namespaced.mesh() as mesh:
        server, client = await mesh.pod("server", node=1), await mesh.pod("client")
        way = await mesh.pod("way", node=1)
        await server.serve_peer(8080)
        mesh.service("way", "10.96.0.8", {15008: 15008})
        mesh.apply("shop/range", workload_pb2.Address(service=RANGE))
        mesh.service("through", "10.96.0.9", {80: 8080}, waypoint=WAYPOINT)
        preferring = workload_pb2.LoadBalancing(
            mode=workload_pb2.LoadBalancing.FAILOVER, routing_preference=[workload_pb2.LoadBalancing.ZONE]
        )
        mesh.service("web", "10.96.0.7", {80: 8080}, load_balancing=preferring)
        ports = workload_pb2.PortList(ports=[workload_pb2.Port(service_port=80, target_port=8080)])
        mesh.announce(server, services={SERVICE: ports})
        mesh.announce(way, waypoint=WAYPOINT)
        account = authorization_pb2.ServiceAccountMatch(namespace="dev", serviceAccount="x")
        mesh.deny("not-x", service_accounts=[account])
        reader, writer = await client.connect(server.ip, 8080)
        await asyncio.wait_for(reader.readuntil(b" "), 3)
        document = await asyncio.to_thread(pages.config_dump, client.node.engine, ZtunnelSettings(node_name="node-0"))
        dump = Dump(tmp_path, document)

        rows = await dump.rows("workload")
        assert rows[0] == ["NAMESPACE", "POD", "NAME", "ADDRESS", "NODE", "WAYPOINT", "PROTOCOL"]
        assert sorted(rows[1:]) == [
            ["shop", "client", client.ip, "node-0", "None", "HBONE"],
            ["shop", "server", server.ip, "node-1", "None", "HBONE"],
            ["shop", "way", way.ip, "node-1", "way", "HBONE"],
        ]
        assert (await dump.rows("workload", "--address", server.ip))[1:] == [rows[2]]
        assert sorted((await dump.rows("service"))[1:]) == [
            ["shop", "range", "None", "0/0"],
            ["shop", "through", "10.96.0.9", "way", "0/0"],
            ["shop", "way", "10.96.0.8", "None", "0/0"],
            ["shop", "web", "10.96.0.7", "None", "1/1"],
        ]
        assert (await dump.rows("policy"))[1:] == [["shop", "not-x", "Deny", "Namespace"]]
        leaf, root = (await dump.rows("certificate"))[1:]
        assert leaf[:4] == [client.identity, "Leaf", "Available", "true"]
        assert root[:4] == [client.identity, "Root", "Available", "true"]
        assert int(leaf[4], 16) > 0
        (flow,) = (await dump.rows("connections"))[1:]
        assert flow[:2] == ["client.shop", "Outbound"]
        assert flow[3:] == ["server.shop:15008", "server.shop:8080", "HBONE"]

        assert {one["uid"] for one in await dump.items("workload")} >= {"Kubernetes//Pod/shop/server"}
        by_name = {one["name"]: one for one in await dump.items("service")}
        assert by_name["range"]["cidrVips"] == ["/10.99.0.0/16"]
        assert by_name["web"]["loadBalancer"]["mode"] == "Failover"
        assert by_name["through"]["waypoint"]["destination"] == "shop/way.shop.svc.cluster.local"
        (policy,) = await dump.items("policy")
        assert policy["rules"][0][0][0]["serviceAccounts"] == [{"namespace": "dev", "serviceAccount": "x"}]
        assert (await dump.items("certificate"))[0]["certChain"][0]["serialNumber"].isdecimal()
        (state,) = await dump.items("connections")
        assert state["info"]["serviceAccount"] == "client"
        assert await dump.items("all") == json.loads(document)
        assert ["CERTIFICATE", "NAME", "TYPE", "STATUS"] in [row[:4] for row in await dump.rows("all")]
        writer.close()
        await reader.read()


async def connected(running: Running, *arguments: str) -> str:
    return await istioctl(
        *arguments, "--xds-address", f"127.0.0.1:{running.plane.port}",
        kubeconfig=kubeconfig(running.folder, running.api.url),
    )  # fmt: skip


async def states(running: Running) -> dict[str, str]:
    (found,) = json.loads(await connected(running, "proxy-status", "-o", "json"))["resources"]
    return {one["typeUrl"]: one["configStatus"] for one in found["genericXdsConfigs"]}


async def test_istioctl_sends_debug_requests_to_the_control_plane(tmp_path: Path) -> None:
    async with FakeKubernetes() as api:
        for name in ("istio-system", "shop"):
            api.put("namespaces", {"metadata": {"name": name}, "status": {"phase": "Active"}})
        api.put("pods", pod("web", captured=True))
        api.tokens = {
            "ztunnel-token": token_user("istio-system", "ztunnel"),
            "admin-token": token_user("istio-system", "default"),
        }
        async with serving(api, tmp_path) as running, running.subscriber(Recorder()) as subscriber:
            await asyncio.wait_for(subscriber.wait_received(), 5)
            proxy = "ztunnel~10.0.0.9~ztunnel-1.istio-system~x"
            row = (await connected(running, "proxy-status")).splitlines()[1]
            assert row.split()[0] == proxy
            assert row.endswith("2 (WADS,WDS)")
            async with asyncio.timeout(20):
                while set((await states(running)).values()) != {"SYNCED"}:
                    await asyncio.sleep(0.1)
            assert (await states(running)).keys() == {names.ADDRESS_TYPE, names.AUTHORIZATION_TYPE}
            lines = (await connected(running, "experimental", "version")).splitlines()
            assert lines[1] == f"control plane version: {own_version()}"
            page = json.loads(await connected(running, "experimental", "internal-debug", "syncz"))
            assert page[0]["proxy"] == proxy
