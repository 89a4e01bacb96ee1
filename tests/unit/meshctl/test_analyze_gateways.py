"""What is found of Gateways of Istio's API, and of VirtualServices that name them."""

from typing import Any

import pytest

from meshctl import analyze
from meshctl.analysis.world import World
from tests.support import kubernetes_objects as objects

Json = dict[str, Any]
LABELS = {"istio": "ingressgateway"}
LATER = "2026-01-02T00:00:00Z"


def gateway(*servers: Json, name: str = "edge", created: str = "2026-01-01T00:00:00Z", **spec: Any) -> Json:
    metadata = {"name": name, "namespace": "shop", "creationTimestamp": created}
    return {"metadata": metadata, "spec": {"selector": LABELS, "servers": list(servers), **spec}}


def server(number: int = 80, protocol: str = "HTTP", hosts: tuple[str, ...] = ("*.example.com",), **more: Any) -> Json:
    return {"port": {"number": number, "protocol": protocol, "name": f"{protocol}-{number}"}, "hosts": [*hosts], **more}


def tls(number: int, *hosts: str) -> Json:
    port = {"number": number, "protocol": "HTTPS", "name": hosts[0]}
    return {"port": port, "hosts": [*hosts], "tls": {"mode": "PASSTHROUGH"}}


def service(host: str, *gateways: str, namespace: str = "shop") -> Json:
    route = {"destination": {"host": "web.shop.svc.cluster.local"}}
    spec = {"hosts": [host], "gateways": list(gateways), "http": [{"route": [route]}]}
    return {"metadata": {"name": "v", "namespace": namespace}, "spec": spec}


def codes(*gateways: Json, services: tuple[Json, ...] = (), pods: bool = True) -> list[tuple[str, str, str]]:
    world = World(knows_pods=pods)
    world.add(objects.pod("edge-1", "istio-system", labels=LABELS), "Pod")
    ports = [{"port": 80, "targetPort": 8080, "name": "http"}, {"port": 443, "name": "https"}]
    world.add(objects.service("edge", "istio-system", selector=LABELS, ports=ports), "Service")
    world.add(objects.service("web", ports=[{"port": 80, "name": "http"}]), "Service")
    for one in gateways:
        world.add(one, "Gateway")
    for one in services:
        world.add(one, "VirtualService")
    return [(one.code.code, one.name, one.field) for one in analyze.examine(world)]


def test_a_host_of_a_gateway_needs_no_waypoint() -> None:
    assert codes(gateway(server(hosts=("nobody.test",))), services=(service("nobody.test", "edge"),)) == []


def test_a_good_gateway_and_what_names_it_have_no_findings() -> None:
    for name in ("edge", "shop/edge", "./edge", "edge.shop", "edge.shop.svc.cluster.local"):
        assert codes(gateway(server(80), server(8080, "HTTP2")), services=(service("a.example.com", name),)) == []


@pytest.mark.parametrize(
    ("gateways", "services", "expected"),
    [
        ([], [service("a.example.com", "edge")], [("IST0101", "v", "spec.gateways[0]")]),
        ([gateway(server())], [service("a.example.com", "other/edge")], [("IST0101", "v", "spec.gateways[0]")]),
        ([gateway(server(), selector={"istio": "none"})], [], [("IST0101", "edge", "spec.selector")]),
        ([gateway(server(81))], [], [("IST0162", "edge", "spec.servers[0].port.number")]),
        ([gateway(server())], [service("a.test", "edge")], [("IST0132", "v", "spec.gateways[0]")]),
        ([gateway(server(hosts=("other/*",)))], [service("a.test", "edge")], [("IST0132", "v", "spec.gateways[0]")]),
        ([gateway(server(hosts=("./*",)))], [service("a.test", "edge")], []),
        ([gateway(server(80, "TCP"), server(80))], [], [("IST0145", "edge", "spec.servers[1]")]),
        ([gateway(tls(443, "a.test", "b.test"), tls(443, "c.test"))], [], []),
        (
            [
                gateway(tls(443, "a.test")),
                gateway(tls(443, "shop/a.test"), name="young", created=LATER),
            ],
            [],
            [("IST0145", "young", "spec.servers[0]")],
        ),
        (
            [gateway(server(80)), gateway(server(80, "TCP"), name="other", selector={"istio": "other"})],
            [],
            [("IST0101", "other", "spec.selector")],
        ),
        ([gateway(server(80), server(80, "TCP", bind="10.0.0.1"))], [], []),
        ([gateway(server(sport={}))], [], [("CUL0101", "edge", "spec.servers[0].sport")]),
    ],
)
def test_each_finding_is_at_its_place(
    gateways: list[Json], services: list[Json], expected: list[tuple[str, str, str]]
) -> None:
    assert codes(*gateways, services=tuple(services)) == expected


def test_without_pods_nothing_is_said_of_them() -> None:
    assert codes(gateway(server(81), selector={"istio": "none"}), pods=False) == []


def test_an_unreadable_gateway_is_a_finding() -> None:
    assert codes(gateway(server(80, "HTTPS"))) == [("IST0106", "edge", "spec.servers[0]")]
