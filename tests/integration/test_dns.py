"""DNS inside a captured pod, between real network namespaces."""

import asyncio
import struct
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from meshapi import names
from meshapi.proto import engine_pb2, workload_pb2
from tests.support import dns, namespaced
from tests.support.namespaced import route_everything
from tests.support.waiting import until

pytestmark = pytest.mark.root

HOST = "web.shop.svc.cluster.local"


async def a_client(mesh: namespaced.Mesh, name: str = "client", **fields) -> namespaced.Pod:
    client = await mesh.pod(name, **fields)
    client.plan = replace(client.plan, dns=True)
    client.capture()
    return client


async def a_resolver(mesh: namespaced.Mesh, reply: dns.Reply) -> tuple[str, dns.Resolver]:
    pod = await mesh.pod("resolver", node=1, captured=False)
    resolver = dns.Resolver(reply)
    await resolver.serve(pod)
    return pod.ip, resolver


async def unknown(query: bytes, _: str) -> bytes:
    return dns.response(query, rcode=dns.NXDOMAIN)


def counted(node: namespaced.Node, family: str) -> Counter[tuple[str, ...]]:
    families = engine_pb2.MetricFamilies.FromString(node.engine.metrics()).families
    return Counter({tuple(s.label_values): s.value for one in families if one.name == family for s in one.samples})


async def test_names_of_the_mesh_are_answered_without_a_query_to_the_resolver(mesh) -> None:
    ip, resolver = await a_resolver(mesh, unknown)
    client = await a_client(mesh)
    mesh.service("web", "10.99.0.1", {80: 8080})
    mesh.apply("shop/*.example.com", workload_pb2.Address(service=workload_pb2.Service(
        namespace="shop", hostname="*.example.com",
        addresses=[workload_pb2.NetworkAddress(address=bytes([10, 99, 0, 9]))],
    )))  # fmt: skip

    for name in ("web", "web.shop", "web.shop.svc", HOST, f"{HOST}.", "WEB.Shop.svc.cluster.LOCAL"):
        answer = await dns.query_udp(client, ip, dns.query(name, ident=77))
        assert (answer.ident, answer.rcode, answer.addresses, answer.ttls) == (77, 0, ["10.99.0.1"], {30}), name
    answer = await dns.query_udp(client, ip, dns.query("api.example.com.shop.svc.cluster.local"))
    assert answer.addresses == ["10.99.0.9"]
    # A family that the service does not have is no missing name.
    answer = await dns.query_udp(client, ip, dns.query(HOST, dns.AAAA))
    assert (answer.rcode, answer.addresses) == (dns.NOERROR, [])
    (answer,) = await dns.query_tcp(client, ip, dns.query(HOST))
    assert answer.addresses == ["10.99.0.1"]
    assert resolver.seen == []
    labels = ("A", "udp", "client", "v1")
    assert counted(client.node, "istio_dns_requests")[labels] == 7
    assert counted(client.node, "istio_dns_upstream_requests").total() == 0
    line = await client.node.logged(scope="dns", src__workload="client", domain="web", query="A")
    assert (line["result"], line["endpoints"]) == ("NoError", 1)


async def test_other_names_are_forwarded_to_the_pods_resolver_and_answers_are_unchanged(mesh) -> None:
    tail = bytes(range(200, 230))

    async def reply(query: bytes, transport: str) -> bytes:
        # Parts that a proxy which parses and re-encodes answers would change: unknown flags, bytes after the records.
        return dns.response(query, "1.2.3.4", "2001:db8::1", extra=0x0060, tail=tail)

    ip, resolver = await a_resolver(mesh, reply)
    client = await a_client(mesh)
    query = dns.query("Example.COM", size=1400, ident=4711)
    answer = await dns.query_udp(client, ip, query)
    assert answer.raw == dns.response(query, "1.2.3.4", "2001:db8::1", extra=0x0060, tail=tail)
    (answer,) = await dns.query_tcp(client, ip, query)
    assert answer.raw == dns.response(query, "1.2.3.4", "2001:db8::1", extra=0x0060, tail=tail)
    # The query came from the pod's address, with the same bytes but another ID.
    assert [(source, transport) for source, transport, _ in resolver.seen] == [(client.ip, "udp"), (client.ip, "tcp")]
    assert all(data[2:] == query[2:] for _, _, data in resolver.seen)
    for transport in ("udp", "tcp"):
        labels = ("A", transport, "client", "v1")
        assert counted(client.node, "istio_dns_upstream_requests")[labels] == 1
        assert counted(client.node, "istio_dns_upstream_request_duration_seconds")[labels] == 1
    await client.node.logged(scope="dns", domain="example.com", result="Forwarded")


async def test_a_query_is_forwarded_to_the_resolver_that_it_was_sent_to(mesh) -> None:
    client = await a_client(mesh)
    ips = []
    for number in range(2):

        async def reply(query: bytes, _: str, number: int = number) -> bytes:
            return dns.response(query, f"192.0.2.{number}")

        pod = await mesh.pod(f"resolver-{number}", node=1, captured=False)
        await dns.Resolver(reply).serve(pod)
        ips.append(pod.ip)
    for number in (0, 1, 0):
        answer = await dns.query_udp(client, ips[number], dns.query("example.com"))
        assert answer.addresses == [f"192.0.2.{number}"]


async def test_nxdomain_and_truncation_of_the_resolver_are_passed_on(mesh) -> None:
    async def reply(query: bytes, transport: str) -> bytes:
        if b"large" in query:
            many = [f"192.0.2.{number}" for number in range(100)]
            return dns.response(query, extra=0x0200) if transport == "udp" else dns.response(query, *many)
        return dns.response(query, rcode=dns.NXDOMAIN)

    ip, _ = await a_resolver(mesh, reply)
    client = await a_client(mesh)
    mesh.service("web", "10.99.0.1", {80: 8080})
    assert (await dns.query_udp(client, ip, dns.query("nowhere.example"))).rcode == dns.NXDOMAIN
    # The resolver may not know a name that the mesh does; then it is not missing.
    answer = await dns.query_udp(client, ip, dns.query(HOST, dns.HTTPS))
    assert (answer.rcode, answer.addresses) == (dns.NOERROR, [])
    large = dns.query("large.example")
    assert (await dns.query_udp(client, ip, large)).truncated
    (answer,) = await dns.query_tcp(client, ip, large)
    assert len(answer.addresses) == 100


async def test_a_headless_service_is_its_endpoints_and_too_many_for_a_datagram_come_by_tcp(mesh) -> None:
    ip, _ = await a_resolver(mesh, unknown)
    client = await a_client(mesh)
    host = "db.shop.svc.cluster.local"
    service = workload_pb2.Service(name="db", namespace="shop", hostname=host, ports=[{"service_port": 80}])
    mesh.apply(f"shop/{host}", workload_pb2.Address(service=service))
    assert (await dns.query_udp(client, ip, dns.query("db"))).rcode == dns.NXDOMAIN, "the resolver's answer"
    for number in range(60):
        workload = workload_pb2.Workload(
            uid=f"Kubernetes//Pod/shop/db-{number}", name=f"db-{number}", namespace="shop",
            addresses=[bytes([10, 1, 0, number])], services={f"shop/{host}": workload_pb2.PortList()},
            status=workload_pb2.UNHEALTHY if number == 0 else workload_pb2.HEALTHY,
        )  # fmt: skip
        mesh.apply(workload.uid, workload_pb2.Address(workload=workload))
    small = await dns.query_udp(client, ip, dns.query("db"))
    assert small.truncated
    assert 0 < len(small.addresses) < 59
    assert len(small.raw) <= 512
    expected = {f"10.1.0.{number}" for number in range(1, 60)}
    large = await dns.query_udp(client, ip, dns.query("db", size=4096))
    assert (large.truncated, set(large.addresses)) == (False, expected)
    first, second = await dns.query_tcp(client, ip, dns.query("db"), dns.query("db"))
    assert set(first.addresses) == set(second.addresses) == expected
    assert first.addresses != second.addresses, "in another order each time"


async def test_a_thousand_queries_at_once_are_all_answered(mesh) -> None:
    async def reply(query: bytes, _: str) -> bytes:
        return dns.response(query, "192.0.2.1")

    ip, resolver = await a_resolver(mesh, reply)
    client = await a_client(mesh)
    mesh.service("web", "10.99.0.1", {80: 8080})
    wanted = [("web", "10.99.0.1"), ("example.com", "192.0.2.1")] * 500
    answers = await asyncio.gather(
        *(dns.query_udp(client, ip, dns.query(name, ident=n), within_s=10) for n, (name, _) in enumerate(wanted))
    )
    assert [(a.ident, a.addresses) for a in answers] == [(n, [address]) for n, (_, address) in enumerate(wanted)]
    # Each under a number that cannot be guessed from the one before.
    idents = [struct.unpack_from("!H", data)[0] for _, _, data in resolver.seen]
    assert len(set(idents)) > 450
    assert sum(b == a + 1 for a, b in pairwise(idents)) < 10


async def test_forged_answers_are_ignored_and_a_timeout_is_a_failure(mesh) -> None:
    async def reply(query: bytes, _: str) -> bytes | None:
        if b"forged" in query:
            pod = mesh.pods[0]
            forged = dns.response(bytes([query[0] ^ 1]) + query[1:], "6.6.6.6")
            resolver._transport.sendto(forged, (pod.ip, resolver.last_port))
            other = dns.response(dns.query("other.example", ident=struct.unpack_from("!H", query)[0]), "6.6.6.6")
            resolver._transport.sendto(other, (pod.ip, resolver.last_port))
            return dns.response(query, "192.0.2.1")
        return None

    class Noting(dns.Resolver):
        last_port = 0

        def datagram_received(self, data, addr) -> None:
            self.last_port = addr[1]
            super().datagram_received(data, addr)

    client = await a_client(mesh)
    pod = await mesh.pod("resolver", node=1, captured=False)
    resolver = Noting(reply)
    await resolver.serve(pod)
    answer = await dns.query_udp(client, pod.ip, dns.query("forged.example"))
    assert answer.addresses == ["192.0.2.1"]

    query = dns.query("silent.example", ident=9)
    answer = await dns.query_udp(client, pod.ip, query, within_s=8)
    assert (answer.ident, answer.rcode) == (9, dns.SERVFAIL)
    # ztunnel retransmits lost datagrams itself: the application would only do so after its own timeout.
    assert sum(b"silent" in data for _, _, data in resolver.seen) >= 3
    assert counted(client.node, "istio_dns_upstream_failures").total() == 1


async def test_malformed_queries_are_refused_or_ignored(mesh) -> None:
    ip, resolver = await a_resolver(mesh, unknown)
    client = await a_client(mesh)
    mesh.service("web", "10.99.0.1", {80: 8080})
    good = dns.query("web")
    head, question = good[:12], good[12:]
    loop_ = head + b"\xc0\x0c" + question[-4:]
    long_name = head + (b"\x3f" + b"a" * 63) * 4 + b"\0" + question[-4:]
    for bad in (loop_, long_name, good[:-1], head):
        assert (await dns.query_udp(client, ip, bad)).rcode == dns.FORMERR
    assert (await dns.query_udp(client, ip, good[:2] + b"\x28" + good[3:])).rcode == dns.NOTIMP
    for silent in (dns.response(good, "6.6.6.6"), b"", b"\0"):
        with pytest.raises(TimeoutError):
            await dns.query_udp(client, ip, silent, within_s=0.3)
    assert resolver.seen == []
    assert (await dns.query_udp(client, ip, good)).addresses == ["10.99.0.1"]


async def test_services_of_other_namespaces_are_seen_as_far_as_they_are_visible(mesh) -> None:
    ip, _ = await a_resolver(mesh, unknown)
    client = await a_client(mesh)
    stranger = await a_client(mesh, "stranger", namespace="other")
    mesh.service("web", "10.99.0.1", {80: 8080}, visibility=workload_pb2.Service.NAMESPACE)
    assert (await dns.query_udp(client, ip, dns.query(HOST))).addresses == ["10.99.0.1"]
    assert (await dns.query_udp(stranger, ip, dns.query(HOST))).rcode == dns.NXDOMAIN


async def test_the_name_of_an_endpoint_without_an_address_is_resolved_once(mesh) -> None:
    async def reply(query: bytes, _: str) -> bytes:
        matches_its_family = query[-3] == (dns.AAAA if ":" in server.ip else dns.A)
        return dns.response(query, *([server.ip] if matches_its_family else []))

    server = await mesh.pod("server", node=1, captured=False)
    await server.serve_peer(8080)
    ip, resolver = await a_resolver(mesh, reply)
    mesh.resolvers(ip)
    client = await mesh.pod("client")
    client.in_namespace(route_everything)
    vip = "fd99::1" if ":" in mesh.subnet else "10.99.0.1"
    mesh.service("db", vip, {80: 8080})
    named = workload_pb2.Workload(
        uid="Kubernetes/networking.istio.io/ServiceEntry/shop/db/db.example.com", name="db", namespace="shop",
        hostname="db.example.com", services={"shop/db.shop.svc.cluster.local": workload_pb2.PortList()},
    )  # fmt: skip
    mesh.apply(named.uid, workload_pb2.Address(workload=named))
    for _ in range(3):
        assert (await client.request(vip, 80)).endswith(b" hello")
    assert sorted(data[-3] for _, _, data in resolver.seen) == [dns.A, dns.AAAA]
    principal = "spiffe://cluster.local/ns/shop/sa/client"
    labels = ("client", "client", "v1", "shop", principal, "client", "v1", "Kubernetes", "db.example.com")
    assert counted(client.node, "istio_on_demand_dns") == {labels: 3}


async def test_a_query_that_was_not_redirected_goes_to_the_nodes_own_resolver(mesh) -> None:
    async def reply(query: bytes, _: str) -> bytes:
        return dns.response(query, "192.0.2.1")

    ip, _ = await a_resolver(mesh, reply)
    mesh.resolvers(ip)
    client = await mesh.pod("client")
    loopback = "::1" if ":" in mesh.subnet else "127.0.0.1"
    answer = await dns.query_udp(client, loopback, dns.query("example.com"), port=names.DNS_PORT)
    assert answer.addresses == ["192.0.2.1"]
    # Other pods are refused.
    with pytest.raises(ConnectionRefusedError):
        await dns.query_udp(await mesh.pod("other", captured=False), client.ip, dns.query("web"), port=names.DNS_PORT)


async def test_a_draining_pod_still_gets_the_answer_to_its_query(mesh) -> None:
    received = asyncio.Event()
    go_on = asyncio.Event()

    async def reply(query: bytes, _: str) -> bytes:
        received.set()
        await go_on.wait()
        return dns.response(query, "192.0.2.1")

    ip, _ = await a_resolver(mesh, reply)
    client = await a_client(mesh)
    waiting = asyncio.create_task(dns.query_udp(client, ip, dns.query("slow.example"), within_s=5))
    await received.wait()
    client.node.engine.drain(5)
    go_on.set()
    assert (await waiting).addresses == ["192.0.2.1"]
    await until(lambda: not client.node.engine.held())


async def test_no_query_is_lost_when_another_engine_takes_over(mesh) -> None:
    async def reply(query: bytes, _: str) -> bytes:
        return dns.response(query, "192.0.2.1")

    ip, _ = await a_resolver(mesh, reply)
    client = await a_client(mesh)
    mesh.service("web", "10.99.0.1", {80: 8080})
    done = asyncio.Event()
    answered = Counter[str]()

    async def keep_querying(name: str, address: str) -> None:
        while not done.is_set():
            answer = await dns.query_udp(client, ip, dns.query(name), within_s=2)
            assert answer.addresses == [address]
            answered[name] += 1

    async def takes_over(old: namespaced.Node) -> namespaced.Node:
        successor = mesh.node("successor")
        mesh.service("web", "10.99.0.1", {80: 8080})
        mesh.announce(client)
        await successor.add(client)
        before = answered.total()
        await until(lambda: answered.total() > before + 100)
        old.engine.drain(10)
        await until(lambda: not old.engine.held())
        before = answered.total()
        await until(lambda: answered.total() > before + 100)
        return successor

    async with asyncio.TaskGroup() as tasks:
        for _ in range(4):
            tasks.create_task(keep_querying("web", "10.99.0.1"))
            tasks.create_task(keep_querying("example.com", "192.0.2.1"))
        try:
            serving = client.node
            for _ in range(5):
                serving = await takes_over(serving)
        finally:
            done.set()
    assert min(answered.values()) > 100
