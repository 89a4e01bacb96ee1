"""Pods that may reach only what the registry knows: which connections their tunnel carries, which names it answers."""

from dataclasses import replace

import pytest

from meshapi import names
from meshapi.proto import workload_pb2
from tests.support import backends, dns, ebpf, namespaced
from tests.support.namespaced import route_everything

pytestmark = pytest.mark.root

HELD = [workload_pb2.Extension(name=names.EGRESS_EXTENSION)]
REASON = "is not in the service registry and culvert.io/egress is registry-only"


@pytest.fixture(params=["nftables", "ebpf"])
async def mesh(request: pytest.FixtureRequest, subnet: str, tmp_path):
    backend = backends.backend(request.param, tmp_path / "lock", egress=ebpf.egress_filter()).pods
    async with namespaced.mesh(subnet, backend=backend) as made:
        yield made


async def a_held_pod(mesh: namespaced.Mesh, name: str = "client") -> namespaced.Pod:
    pod = await mesh.pod(name)
    pod.plan = replace(pod.plan, dns=True, tunnel_always=True, registry_only=True)
    pod.capture()
    mesh.announce(pod, extensions=HELD)
    return pod


def external(mesh: namespaced.Mesh, host: str, *addresses: workload_pb2.NetworkAddress, port: int) -> None:
    """Announce a ServiceEntry without endpoints: its clients choose the address."""
    service = workload_pb2.Service(
        name=host, namespace="shop", hostname=host, addresses=addresses,
        ports=[workload_pb2.Port(service_port=port, target_port=port)],
        load_balancing=workload_pb2.LoadBalancing(mode=workload_pb2.LoadBalancing.PASSTHROUGH),
    )  # fmt: skip
    mesh.apply(f"shop/{host}", workload_pb2.Address(service=service))


def address(ip: str, length: int | None = None) -> workload_pb2.NetworkAddress:
    return workload_pb2.NetworkAddress(address=namespaced.ip_address(ip).packed, length=length)


async def test_only_what_the_registry_knows_is_reached(mesh: namespaced.Mesh) -> None:
    known, stranger = await mesh.pod("known", node=1), await mesh.pod("stranger", node=1, captured=False)
    for server, port in ((known, 8080), (stranger, 8080), (stranger, 8081), (stranger, 53)):
        await server.serve_peer(port)
    mesh.withdraw(stranger)
    client, free = await a_held_pod(mesh), await mesh.pod("free")

    assert (await client.request(known.ip, 8080)).endswith(b" hello")
    assert (await free.request(stranger.ip, 8080)).endswith(b" hello"), "another pod is not held"
    with pytest.raises(OSError):
        await client.request(stranger.ip, 8080)
    line = await client.node.logged(src__workload="client", dst__addr=at(stranger.ip, 8080))
    assert str(line["error"]).endswith(REASON), line
    failed = client.node.metric("istio_tcp_connections_failed", response_flags="NOT_IN_REGISTRY", reporter="source")
    assert failed == 1

    external(mesh, "stranger.example", address(stranger.ip), port=8080)
    assert (await client.request(stranger.ip, 8080)).endswith(b" hello"), "at the address and the port of an entry"
    with pytest.raises(OSError):
        await client.request(stranger.ip, 8081)
    # As an endpoint of a ServiceEntry, it has the ports of its services.
    mesh.service("listed", "10.99.0.7", {80: 8081})
    ports = workload_pb2.PortList(ports=[workload_pb2.Port(service_port=80, target_port=8081)])
    endpoint = workload_pb2.Workload(
        uid="Kubernetes/networking.istio.io/ServiceEntry/shop/listed", name="listed", namespace="shop",
        addresses=[namespaced.ip_address(stranger.ip).packed], services={"shop/listed.shop.svc.cluster.local": ports},
    )  # fmt: skip
    for node in mesh.nodes:
        node.engine.apply(names.ADDRESS_TYPE, [], ["shop/stranger.example"])
    mesh.apply(endpoint.uid, workload_pb2.Address(workload=endpoint))
    assert (await client.request(stranger.ip, 8081)).endswith(b" hello")
    with pytest.raises(OSError):
        await client.request(stranger.ip, 8080)
    mesh.announce(client)
    assert (await client.request(stranger.ip, 8080)).endswith(b" hello"), "the workload is no longer held"


def at(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


async def test_only_names_of_the_registry_leave_and_to_the_meshs_resolver(mesh: namespaced.Mesh) -> None:
    async def reply(query: bytes, _: str) -> bytes:
        return dns.response(query, "192.0.2.7")

    resolvers = []
    for name in ("own", "chosen"):
        pod = await mesh.pod(name, node=1, captured=False)
        resolvers.append((pod.ip, dns.Resolver(reply)))
        await resolvers[-1][1].serve(pod)
    (own, seen), (chosen, unseen) = resolvers
    mesh.resolvers(own)
    client = await a_held_pod(mesh)
    client.in_namespace(route_everything)
    mesh.service("web", "10.99.0.1", {80: 8080})
    external(mesh, "*.allowed.example", port=443)

    async def rcodes(name: str) -> list[int]:
        over_udp = await dns.query_udp(client, chosen, dns.query(name))
        (over_tcp,) = await dns.query_tcp(client, chosen, dns.query(name))
        return [over_udp.rcode, over_tcp.rcode]

    assert (await dns.query_udp(client, chosen, dns.query("web"))).addresses == ["10.99.0.1"]
    for forbidden in ("c2VjcmV0.attacker.example", "1.2.0.192.in-addr.arpa", "xcluster.local"):
        assert await rcodes(forbidden) == [dns.NXDOMAIN] * 2, forbidden
    await client.node.logged(scope="dns", domain="xcluster.local", result=f"NXDomain: {REASON.removeprefix('is ')}")
    assert seen.seen == []
    for allowed in ("api.allowed.example", "_http._tcp.web.shop.svc.cluster.local"):
        assert await rcodes(allowed) == [dns.NOERROR] * 2, allowed
    assert [(source, transport) for source, transport, _ in seen.seen] == [(client.ip, "udp"), (client.ip, "tcp")] * 2
    assert unseen.seen == []


async def test_a_pod_that_the_control_plane_has_not_sent_gets_no_answer(mesh: namespaced.Mesh) -> None:
    """Whether it is held is not known yet."""

    async def reply(query: bytes, _: str) -> bytes:
        return dns.response(query, "192.0.2.7")

    pod = await mesh.pod("resolver", node=1, captured=False)
    resolver = dns.Resolver(reply)
    await resolver.serve(pod)
    client = await a_held_pod(mesh)
    mesh.withdraw(client)
    answer = await dns.query_udp(client, pod.ip, dns.query("anything.example"))
    assert answer.rcode == dns.SERVFAIL
    mesh.announce(client, extensions=HELD)
    answer = await dns.query_udp(client, pod.ip, dns.query("anything.example"))
    assert answer.rcode == dns.NXDOMAIN
    assert resolver.seen == []
