"""Services some of whose endpoints are direct: shares, choices and failures are those of the tunnel."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from meshapi.proto import authorization_pb2, workload_pb2
from tests.support import namespaced
from tests.support.direct import DirectMesh, connected, direct_mesh
from tests.support.waiting import until

pytestmark = pytest.mark.root

HOST = "web.shop.svc.cluster.local"
PORTS = {f"shop/{HOST}": workload_pb2.PortList(ports=[{"service_port": 80, "target_port": 8080}])}
ROUNDS = 200


@pytest.fixture
async def direct(subnet: str) -> AsyncIterator[DirectMesh]:
    async with direct_mesh(subnet) as made:
        yield made


@pytest.fixture
def vip(subnet: str) -> str:
    return "fd99::1" if ":" in subnet else "10.99.0.1"


class Web:
    """A service with endpoints on the client's node and on another one."""

    def __init__(self, client: namespaced.Pod, servers: dict[str, namespaced.Pod], seen: dict[str, list[str]]) -> None:
        self.client = client
        self.servers = servers
        self.seen = seen

    def shares(self) -> dict[str, int]:
        """Connections of each endpoint since the last call."""
        counts = {name: len(seen) for name, seen in self.seen.items()}
        for seen in self.seen.values():
            seen.clear()
        return counts


async def web(direct: DirectMesh, vip: str, **weights: int) -> Web:
    """Endpoints by name, with their weights; the one that is named ``remote`` is on another node."""
    servers, seen = {}, {}
    direct.mesh.service("web", vip, {80: 8080})
    for name, weight in weights.items():
        servers[name] = await direct.mesh.pod(name, node=int(name == "remote"))
        seen[name] = await servers[name].serve_peer(8080)
        direct.mesh.announce(servers[name], services=PORTS, capacity={"value": weight})
    client = await direct.mesh.pod("client")
    client.in_namespace(namespaced.route_everything)
    await direct.learn(client, vip, 80)
    made = Web(client, servers, seen)
    made.shares()
    return made


async def requests(web: Web, vip: str, number: int = ROUNDS) -> None:
    for _ in range(number):
        assert (await web.client.request(vip, 80)) == f"{web.client.ip} hello".encode()


async def test_a_services_connections_are_direct_and_still_name_the_service(direct: DirectMesh, vip: str) -> None:
    made = await web(direct, vip, one=1)
    one = await asyncio.to_thread(connected, made.client, vip, 80)
    with one:
        assert one.getpeername()[:2] == (vip, 80)
        assert one.getsockname()[0] == made.client.ip
        assert (await asyncio.to_thread(one.recv, 100)).decode().strip() == made.client.ip
    assert direct.count("connected") == 1
    labels = {"connection_security_policy": "kernel", "destination_service": HOST}
    await until(lambda: direct.mesh.nodes[0].metric("istio_tcp_connections_closed", **labels) == 2)


async def test_endpoints_get_their_shares_by_weight(direct: DirectMesh, vip: str) -> None:
    made = await web(direct, vip, one=1, two=3)
    await requests(made, vip)
    assert direct.count("connected") == ROUNDS
    shares = made.shares()
    assert 0.15 < shares["one"] / ROUNDS < 0.36, shares


async def test_endpoints_of_other_nodes_get_theirs_through_the_tunnel(direct: DirectMesh, vip: str) -> None:
    made = await web(direct, vip, local=1, remote=1)
    await requests(made, vip)
    shares = made.shares()
    assert 0.36 < shares["local"] / ROUNDS < 0.64, shares
    assert direct.count("connected") == shares["local"]


async def test_an_endpoint_that_policy_closes_keeps_its_share_of_refusals(direct: DirectMesh, vip: str) -> None:
    made = await web(direct, vip, one=1, two=1)
    closed = authorization_pb2.Address(address=_packed(made.servers["one"].ip), length=128 if ":" in vip else 32)
    direct.mesh.deny("one-is-closed", destination_ips=[closed])
    outcomes = {"served": 0, "refused": 0}
    for _ in range(60):
        try:
            await made.client.request(vip, 80)
            outcomes["served"] += 1
        except ConnectionError:
            outcomes["refused"] += 1
    assert 15 < outcomes["refused"] < 45, outcomes
    assert direct.count("connected") == outcomes["served"]


async def test_endpoints_that_come_and_go_are_chosen_and_forgotten_at_once(direct: DirectMesh, vip: str) -> None:
    made = await web(direct, vip, one=1, two=1)
    direct.mesh.announce(made.servers["two"], services=PORTS, status=workload_pb2.UNHEALTHY)
    await requests(made, vip, 30)
    assert made.shares() == {"one": 30, "two": 0}
    direct.mesh.announce(made.servers["two"], services=PORTS)
    await requests(made, vip, 60)
    assert made.shares()["two"] > 10
    assert direct.count("connected") == 90


async def test_a_service_with_a_waypoint_is_never_direct(direct: DirectMesh, vip: str) -> None:
    made = await web(direct, vip, one=1)
    waypoint = workload_pb2.GatewayAddress(
        hostname=workload_pb2.NamespacedHostname(namespace="shop", hostname="waypoint.shop.svc.cluster.local"),
        hbone_mtls_port=15008,
    )
    direct.mesh.service("web", vip, {80: 8080}, waypoint=waypoint)
    before = direct.count("connected")
    with pytest.raises(ConnectionError):
        await made.client.request(vip, 80)
    assert direct.count("connected") == before


async def test_an_endpoint_that_refuses_costs_one_connection_and_is_left_to_the_tunnel(
    direct: DirectMesh, vip: str
) -> None:
    made = await web(direct, vip, one=1)
    refusing = await direct.mesh.pod("refusing")
    direct.mesh.announce(refusing, services=PORTS)
    failed = 0
    for _ in range(60):
        try:
            await made.client.request(vip, 80)
        except ConnectionRefusedError:
            failed += 1
            await until(lambda: direct.open() == 0)
            await asyncio.sleep(0.1)  # its end is read from a queue
    assert failed == 1, "afterwards the tunnel tries another endpoint"
    assert len(made.seen["one"]) == 59


async def test_more_endpoints_than_the_kernel_holds_are_left_to_the_tunnel(direct: DirectMesh, vip: str) -> None:
    made = await web(direct, vip, one=1)
    assert await direct.is_direct(made.client, vip, 80)
    for number in range(40):
        address = f"fd98::{number + 1:x}" if ":" in vip else f"10.98.0.{number + 1}"
        workload = workload_pb2.Workload(
            uid=f"Kubernetes//Pod/shop/far-{number}", name=f"far-{number}", namespace="shop",
            addresses=[_packed(address)], tunnel_protocol=workload_pb2.HBONE, services=PORTS, node="elsewhere",
        )  # fmt: skip
        direct.mesh.apply(workload.uid, workload_pb2.Address(workload=workload))
    before = direct.count("connected")
    one = made.client.in_namespace(lambda: socket.socket(socket.AF_INET6 if ":" in vip else socket.AF_INET))
    with one:
        one.settimeout(5)
        await asyncio.to_thread(one.connect, (vip, 80))  # the tunnel accepts, whatever it finds
    assert direct.count("connected") == before


def _packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
