"""``culvert proxy-config`` of a pod without a proxy of its own: what its ztunnel has, in the tables of Envoy."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from meshapi.proto import authorization_pb2, workload_pb2
from meshctl.description import facts
from meshctl.proxy_config import clusters, endpoints, secrets, ztunnels
from meshkit.kube import Json
from tests.support import namespaced
from ztunnel import pages
from ztunnel.settings import ZtunnelSettings

pytestmark = pytest.mark.root

HOST = "web.shop.svc.cluster.local"
CLUSTER = f"outbound|80||{HOST}"


@pytest.fixture
async def served() -> AsyncIterator[tuple[namespaced.Pod, namespaced.Pod, Json]]:
    """A server, a client of it, and the dump of the client's ztunnel."""
    async with namespaced.mesh() as mesh:
        server, client = await mesh.pod("server", node=1), await mesh.pod("client")
        await server.serve_peer(8080)
        mesh.service("web", "10.96.0.7", {80: 8080})
        ports = workload_pb2.PortList(ports=[workload_pb2.Port(service_port=80, target_port=8080)])
        mesh.announce(server, services={f"shop/{HOST}": ports})
        assert await client.request(server.ip, 8080) == f"{client.ip} hello".encode()

        account = authorization_pb2.ServiceAccountMatch(namespace="dev", serviceAccount="x")
        mesh.deny("not-x", service_accounts=[account])
        document = json.loads(
            await asyncio.to_thread(pages.config_dump, client.node.engine, ZtunnelSettings(node_name="n"))
        )
        yield server, client, document


async def test_the_dump_of_a_ztunnel_in_the_tables_of_envoy(
    served: tuple[namespaced.Pod, namespaced.Pod, Json],
) -> None:
    server, client, document = served
    account = client.identity.rpartition("/")[2]
    found = ztunnels.read(document, ztunnels.Pod("shop", account))
    assert clusters.table(clusters.Filter(fqdn="web").chosen(found)).rows == [(HOST, "80", "-", "outbound", "EDS", "")]
    rows = endpoints.table(endpoints.Filter(cluster=CLUSTER).chosen(found)).rows
    assert rows == [(f"{server.ip}:8080", "HEALTHY", "OK", CLUSTER)]
    held = secrets.table(found.secrets, datetime.now(UTC)).rows
    assert [row[:4] for row in held] == [
        ("default", "Cert Chain", "ACTIVE", "true"),
        ("ROOTCA", "CA", "ACTIVE", "true"),
    ]
    [own] = [one for one in document["certificates"] if one["identity"] == client.identity]
    assert int(held[0][4], 16) == int(own["certChain"][0]["serialNumber"])

    stranger = ztunnels.read(document, ztunnels.Pod("shop", "somebody-else"))
    assert secrets.table(stranger.secrets, datetime.now(UTC)).rows == []


async def test_what_a_ztunnel_says_of_a_pod_and_a_service(
    served: tuple[namespaced.Pod, namespaced.Pod, Json],
) -> None:
    server, _, document = served
    workload = facts.find(document["workloads"], "shop", "server")
    assert workload is not None
    pod = facts.of_pod(document, workload)
    assert pod["identity"] == server.identity
    assert pod["services"] == [f"shop/{HOST}"]
    assert pod["mutualTLS"] == "PERMISSIVE"
    assert pod["policies"] == [{"kind": "AuthorizationPolicy", "name": "shop/not-x", "action": "DENY"}]

    found = facts.find(document["services"], "shop", "web")
    assert found is not None
    service = facts.of_service(document, found)
    assert (service["ports"], service["endpoints"]) == ({"80": 8080}, {"healthy": 1, "all": 1})
    assert (service["policies"], service["waypoint"]) == (pod["policies"], "")
