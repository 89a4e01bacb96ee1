"""Services with endpoints that fail: the application never notices, and they are soon ejected."""

import asyncio
import json
from ipaddress import ip_address

import pytest
from pyroute2 import IPRoute

from meshapi.proto import engine_pb2, workload_pb2
from tests.support import namespaced
from tests.support.waiting import until

pytestmark = pytest.mark.root

HOST = "web.shop.svc.cluster.local"
PORTS = {f"shop/{HOST}": workload_pb2.PortList(ports=[{"service_port": 80, "target_port": 8080}])}


@pytest.fixture(params=["10.77.0.0/24", "fd77::/64"], ids=["ipv4", "ipv6"])
async def mesh(request: pytest.FixtureRequest):
    async with namespaced.mesh(request.param) as made:
        yield made


@pytest.fixture
def vip(mesh) -> str:
    return "fd99::1" if ":" in mesh.subnet else "10.99.0.1"


async def a_client(mesh: namespaced.Mesh) -> namespaced.Pod:
    client = await mesh.pod("client")
    client.in_namespace(namespaced.route_everything)
    return client


def black_hole(mesh: namespaced.Mesh, client: namespaced.Pod, name: str) -> None:
    """Announce a pod whose packets are dropped silently, without an ICMP error."""
    ip = str(ip_address(client.ip) + 100)

    def swallow() -> None:
        with IPRoute() as netlink:
            index = netlink.link_lookup(ifname="eth0")[0]
            netlink.neigh("replace", dst=ip, lladdr="02:00:00:00:00:99", ifindex=index, state="permanent")

    client.in_namespace(swallow)
    workload = workload_pb2.Workload(
        uid=f"Kubernetes//Pod/shop/{name}", name=name, namespace="shop", service_account=name,
        addresses=[ip_address(ip).packed], tunnel_protocol=workload_pb2.HBONE, services=PORTS,
    )  # fmt: skip
    mesh.apply(workload.uid, workload_pb2.Address(workload=workload))


def counted(node: namespaced.Node, family: str) -> dict[tuple[str, ...], int]:
    families = engine_pb2.MetricFamilies.FromString(node.engine.metrics()).families
    return {tuple(s.label_values): s.value for one in families if one.name == family for s in one.samples}


async def test_endpoints_that_refuse_or_drop_cost_the_application_only_time(mesh, vip) -> None:
    client = await a_client(mesh)
    good = [await mesh.pod(f"good-{number}", node=1) for number in range(2)]
    seen = [await server.serve_peer(8080) for server in good]
    refusing = await mesh.pod("refusing", node=1)
    mesh.service("web", vip, {80: 8080})
    for server in (*good, refusing):
        mesh.announce(server, services=PORTS)
    black_hole(mesh, client, "swallowing")

    async def request_all() -> float:
        slowest = 0.0
        for _ in range(15):
            began = asyncio.get_running_loop().time()
            assert (await client.request(vip, 80, within_s=6)).endswith(b" hello")
            slowest = max(slowest, asyncio.get_running_loop().time() - began)
        return slowest

    slowest = max(await asyncio.gather(*(request_all() for _ in range(10))))
    assert slowest < 3.5, "a silent endpoint costs its connect timeout, twice at most"
    assert len(seen[0]) + len(seen[1]) == 150
    assert min(len(seen[0]), len(seen[1])) > 30
    assert not [line for line in client.node.log if "error" in line]
    retries = counted(client.node, "culvert_connect_retries")
    assert retries["timeout",] > 0
    assert retries["unavailable",] > 0
    assert counted(client.node, "culvert_outlier_ejections") == {(): 2}
    assert counted(client.node, "culvert_outlier_ejections_active") == {(): 2}
    services = json.loads(client.node.engine.dump("services"))
    assert {uid.rpartition("/")[2] for uid, one in services[0]["endpoints"].items() if one.get("ejected")} == {
        "refusing",
        "swallowing",
    }


async def test_refusing_plain_text_endpoints_are_ejected_too(mesh, vip) -> None:
    client = await a_client(mesh)
    good = await mesh.pod("good", node=1, captured=False)
    await good.serve_peer(8080)
    refusing = await mesh.pod("refusing", node=1, captured=False)
    mesh.service("web", vip, {80: 8080})
    mesh.announce(good, services=PORTS)
    mesh.announce(refusing, services=PORTS)
    for _ in range(40):
        assert (await client.request(vip, 80)).endswith(b" hello")
    # A new IPv6 address may be silent at first.
    assert sum(counted(client.node, "culvert_connect_retries").values()) >= 5
    assert counted(client.node, "culvert_outlier_ejections_active") == {(): 1}


async def test_a_connection_that_policy_denies_is_not_retried_at_another_endpoint(mesh, vip) -> None:
    client = await a_client(mesh)
    closed, other = [await mesh.pod(name, node=1) for name in ("closed", "other")]
    seen = [await server.serve_peer(8080) for server in (closed, other)]
    mesh.service("web", vip, {80: 8080})
    for server in (closed, other):
        mesh.announce(server, services=PORTS)
    mesh.deny("all", destination_ports=[8080])
    for _ in range(10):
        with pytest.raises(OSError):
            await client.request(vip, 80)
    assert seen == [[], []]
    assert sum(counted(client.node, "culvert_connect_retries").values()) == 0
    assert counted(client.node, "culvert_outlier_ejections") == {(): 0}


async def test_a_connection_to_a_service_without_working_endpoints_is_refused_in_time(mesh, vip) -> None:
    client = await a_client(mesh)
    mesh.service("web", vip, {80: 8080})
    for number in range(3):
        mesh.announce(await mesh.pod(f"dead-{number}", node=1), services=PORTS)
    for _ in range(4):
        with pytest.raises(OSError):
            await client.request(vip, 80)
    # One connection is one failure to the application, however many endpoints were tried.
    await client.node.logged(direction="outbound", dst__service=HOST, error="http status: 503 Service Unavailable")
    await until(lambda: len(client.node.log) >= 4)
    assert len(client.node.log) == 4
    assert counted(client.node, "culvert_connect_retries")["unavailable",] == 8
