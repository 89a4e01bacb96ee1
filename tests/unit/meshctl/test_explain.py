"""``culvert explain``: which way a connection goes, by what a ztunnel knows, and the sentences about it.

What a live mesh answers: ``tests/cluster/test_explain.py``; the verdict: ``tests/unit/ztunnel/test_pages.py``.
"""

from ipaddress import ip_address
from typing import Any

import pytest

from meshctl import explain, pages
from meshctl.components import Part
from meshctl.explanation import counts, paths, question, text
from meshctl.explanation.paths import Path, World
from meshctl.explanation.question import Destination, Name
from meshctl.pages import Process, Sample
from meshctl.session import CommandError

WAYPOINT = {"destination": "infra/way.infra.svc.cluster.local", "hboneMtlsPort": 15008}


def workload(name: str, address: str, **more: Any) -> dict[str, Any]:
    return {
        "uid": f"Kubernetes//Pod/shop/{name}", "name": name, "namespace": "shop", "workloadIps": [address],
        "protocol": "HBONE", "node": "node1", "trustDomain": "cluster.local", "serviceAccount": name,
        "workloadName": name, "services": [], **more,
    }  # fmt: skip


def service(name: str, address: str, *endpoints: dict[str, Any], **more: Any) -> dict[str, Any]:
    held = {one["uid"]: {"workloadUid": one["uid"], "port": {"80": 0}} for one in endpoints}
    return {
        "namespace": "shop", "name": name, "hostname": f"{name}.shop.svc.cluster.local", "vips": [f"net/{address}"],
        "ports": {"80": 8080}, "endpoints": held, **more,
    }  # fmt: skip


CLIENT = workload("client", "10.0.0.1")
WEB = workload("web", "10.0.0.2")
OUTSIDE = workload("outside", "10.0.0.3", protocol="TCP")
WAY = {**workload("way", "10.0.0.9", services=[WAYPOINT["destination"]]), "namespace": "infra"}
WAY_SERVICE = {
    **service("way", "10.96.0.9", WAY), "namespace": "infra", "hostname": "way.infra.svc.cluster.local",
}  # fmt: skip
DUMP = {
    "workloads": [CLIENT, WEB, OUTSIDE, WAY, workload("node", "10.0.0.8", networkMode="HostNetwork")],
    "services": [
        service("web", "10.96.0.2", WEB, OUTSIDE),
        service("guarded", "10.96.0.3", WEB, waypoint=WAYPOINT),
        service("empty", "10.96.0.4"),
        WAY_SERVICE,
        {"name": "range", "cidrVips": [{"network": "", "cidr": "198.51.100.0/24"}], "ports": {"443": 443}},
    ],
}


def ways(asked: str, *, source: dict[str, Any] = CLIENT, is_captured: bool = True) -> paths.Paths:
    return World(DUMP, source, is_captured=is_captured).paths(question.destination(asked, "shop"))


def seen(found: paths.Paths) -> list[tuple[Path, str, int, str]]:
    return [
        (leg.path, (leg.workload or {}).get("name", ""), leg.port, (leg.caller or {}).get("name", ""))
        for leg in found.legs
    ]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("web:80", Destination(Name("", "shop", "web", "web"), 80)),
        ("web.dev:80", Destination(Name("", "dev", "web", "web.dev"), 80)),
        ("dev/web:80", Destination(Name("", "dev", "web", "web"), 80)),
        ("svc/web:80", Destination(Name("service", "shop", "web", "web"), 80)),
        ("pod/web.dev:80", Destination(Name("pod", "dev", "web", "web.dev"), 80)),
        ("web.dev.svc.cluster.local:80", Destination(Name("", "dev", "web", "web.dev.svc.cluster.local"), 80)),
        ("10.0.0.2:80", Destination(ip_address("10.0.0.2"), 80)),
        ("[fd00::2]:80", Destination(ip_address("fd00::2"), 80)),
    ],
)
def test_a_destination_is_written_as_users_of_other_tools_write_it(asked: str, expected: Destination) -> None:
    assert question.destination(asked, "shop") == expected


@pytest.mark.parametrize("asked", ["web", "web:", "web:http", "web:0", "web:65536", ":80", "a/b/c:80"])
def test_a_destination_without_a_port_or_name_is_refused_with_the_right_form(asked: str) -> None:
    with pytest.raises(CommandError, match="write"):
        question.destination(asked, "shop")


def test_a_source_is_a_pod() -> None:
    assert question.source("dev/client", "shop").key == question.source("client.dev", "shop").key == ("dev", "client")
    with pytest.raises(CommandError, match="comes from a pod"):
        question.source("svc/web", "shop")


def test_a_service_has_a_way_to_each_endpoint_at_its_own_port() -> None:
    expected = [(Path.TUNNEL, "web", 8080, "client"), (Path.PLAIN, "outside", 8080, "")]
    assert seen(ways("web:80")) == seen(ways("10.96.0.2:80")) == expected
    assert seen(ways("web.shop.svc.cluster.local:80")) == expected


def test_a_waypoint_comes_before_the_endpoints_which_see_it_as_the_caller() -> None:
    found = ways("guarded:80")
    assert found.waypoint == ("infra", "way")
    assert seen(found) == [(Path.WAYPOINT, "web", 8080, "way")]


def test_a_waypoint_calls_the_endpoints_itself() -> None:
    assert seen(ways("guarded:80", source=WAY)) == [(Path.TUNNEL, "web", 8080, "way")]


def test_from_a_pod_that_is_not_captured_everything_goes_in_plain_text() -> None:
    assert seen(ways("guarded:80", is_captured=False)) == [(Path.PLAIN, "web", 8080, "")]
    assert seen(ways("pod/web:9", is_captured=False)) == [(Path.PLAIN, "web", 9, "")]


def test_a_pod_is_called_at_the_port_that_is_asked_for() -> None:
    assert seen(ways("pod/web:9000")) == seen(ways("10.0.0.2:9000")) == [(Path.TUNNEL, "web", 9000, "client")]


def test_what_the_caller_connects_to_directly_is_said() -> None:
    client = {"info": {"name": "client", "namespace": "shop"}, "directDestinations": ["10.0.0.2:8080"]}
    other = {"info": {"name": "web", "namespace": "shop"}, "directDestinations": ["10.0.0.2:9000"]}
    dump = {**DUMP, "workloadState": {"a": other, "b": client}}
    world = World(dump, CLIENT, is_captured=True)
    to = lambda asked: seen(world.paths(question.destination(asked, "shop")))  # noqa: E731
    assert to("web:80") == [(Path.DIRECT, "web", 8080, "client"), (Path.PLAIN, "outside", 8080, "")]
    assert to("pod/web:9000") == [(Path.TUNNEL, "web", 9000, "client")]
    assert to("guarded:80") == [(Path.WAYPOINT, "web", 8080, "way")]


def test_an_address_outside_of_the_mesh_is_called_as_it_is() -> None:
    found = ways("192.0.2.1:443")
    assert (found.kind, found.legs) == ("address", [paths.Leg(Path.PLAIN, address="192.0.2.1", port=443)])


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        ("192.0.2.1:443", Path.NOWHERE),
        ("10.0.0.8:443", Path.NOWHERE),  # its node's network has the address
        ("198.51.100.7:443", Path.PLAIN),
        ("198.51.100.7:80", Path.NOWHERE),
        ("10.0.0.2:9000", Path.TUNNEL),
    ],
)
def test_a_pod_that_may_reach_only_the_registry_is_refused_other_addresses(asked: str, path: Path) -> None:
    source = {**CLIENT, "egress": "registry-only"}
    [leg] = ways(asked, source=source).legs
    assert leg.path is path
    if path is Path.NOWHERE:
        assert (
            leg.why
            == f"{asked.partition(':')[0]} is not in the service registry and culvert.io/egress is registry-only"
        )
        assert ways(asked).legs[0].path is Path.PLAIN


@pytest.mark.parametrize(
    ("asked", "why"), [("web:81", "has no port 81"), ("empty:80", "has no endpoint that is ready and has the port")]
)
def test_where_there_is_no_way_the_reason_is_said(asked: str, why: str) -> None:
    [leg] = ways(asked).legs
    assert leg.path is Path.NOWHERE
    assert why in leg.why


def test_what_nobody_knows_is_an_error() -> None:
    with pytest.raises(CommandError, match="ztunnel knows no service or pod shop/nothing"):
        ways("nothing:80")


def test_connections_are_counted_by_workload_and_by_what_secured_them() -> None:
    labels = {
        "source_workload": "client", "source_workload_namespace": "shop",
        "destination_workload": "web", "destination_workload_namespace": "shop",
    }  # fmt: skip
    samples = [
        Sample("istio_tcp_connections_opened_total", {**labels, "connection_security_policy": "mutual_tls"}, 3),
        Sample("istio_tcp_connections_opened_total", {**labels, "connection_security_policy": "mutual_tls"}, 2),
        Sample("istio_tcp_connections_opened_total", {**labels, "source_workload": "other"}, 7),
        Sample("istio_tcp_connections_closed_total", {**labels, "response_flags": "-"}, 4),
        Sample("istio_tcp_connections_closed_total", {**labels, "response_flags": "DENY"}, 1),
    ]
    assert counts.of(counts.pair(CLIENT, WEB), samples) == {"opened": {"mutual_tls": 5}, "failed": {"DENY": 1}}


@pytest.mark.parametrize(
    ("is_captured", "expected"),
    [
        (True, {"source": "10.0.0.1", "identity": "spiffe://cluster.local/ns/shop/sa/client"}),
        (False, {"source": "10.0.0.1"}),
    ],
)
async def test_the_called_pods_ztunnel_is_asked_about_the_caller_as_it_sees_it(
    monkeypatch: pytest.MonkeyPatch, *, is_captured: bool, expected: dict[str, str]
) -> None:
    asked: list[dict[str, str]] = []

    async def verdict(_: object, process: Process, question: dict[str, str]) -> dict[str, Any]:
        assert process.part is Part.ZTUNNEL
        asked.append(question)
        return {"allowed": False, "policy": "shop/p", "reason": "r", "dryRun": []}

    async def pods(*_: object) -> list[dict[str, Any]]:
        page = {"state": "announced", "backend": "nftables", "since": "t", "reason": ""}
        return [{"namespace": "shop", "name": "web", **page}]

    async def metrics(*_: object) -> list[Sample]:
        return []

    for name, page in (("verdict", verdict), ("pods", pods), ("metrics", metrics)):
        monkeypatch.setattr(pages, name, page)
    found = [Process(part, "istio-system", "p", "node1", True, {}) for part in (Part.ZTUNNEL, Part.NODE_AGENT)]
    [leg] = ways("pod/web:9000", is_captured=is_captured).legs
    client: Any = None
    answer = await explain.Ends(client, found).endpoint(CLIENT, leg, "node1")
    assert asked == [{"workload": WEB["uid"], "destination": "10.0.0.2", "port": "9000", **expected}]
    assert (answer["allowed"], answer["verdict"]["policy"]) == (False, "shop/p")


CAPTURED = {"captured": True, "state": "announced", "backend": "ebpf", "since": "2026-01-01T00:00:00Z", "reason": ""}


def document(**endpoint: Any) -> dict[str, Any]:
    one = {
        "pod": "shop/web", "node": "node2", "address": "10.0.0.2", "port": 8080, "capture": CAPTURED,
        "path": "tunnel", "caller": "spiffe://cluster.local/ns/shop/sa/client", "why": "", "allowed": True,
        "verdict": {"allowed": True, "policy": "", "reason": "", "dryRun": []},
        "connections": {"opened": {"mutual_tls": 5}, "failed": {}}, **endpoint,
    }  # fmt: skip
    return {
        "source": {"pod": "shop/client", "node": "node1", "capture": CAPTURED, "narrowedBy": []},
        "destination": {"kind": "service", "name": "shop/web", "host": "web.shop.svc.cluster.local", "port": 80},
        "waypoint": "", "endpoints": [one],
    }  # fmt: skip


def test_the_text_about_a_connection_that_is_carried() -> None:
    assert text.render(document()).splitlines() == [
        "shop/client on node1 is captured by ebpf since 2026-01-01T00:00:00Z: its connections go through its tunnel.",
        "It calls service shop/web (web.shop.svc.cluster.local), port 80.",
        "",
        "shop/web on node2, 10.0.0.2:8080:",
        "  It is captured by ebpf since 2026-01-01T00:00:00Z.",
        "  The connection goes through the tunnel, as spiffe://cluster.local/ns/shop/sa/client.",
        "  No policy restricts it.",
        "  Between the two workloads so far: 5 by mutual TLS.",
        "",
        "Result: carried.",
    ]


def test_the_text_names_the_policy_that_refuses_and_what_ended_for_it() -> None:
    denied = {"allowed": False, "policy": "shop/p", "reason": "explicitly denied by: shop/p", "dryRun": ["shop/dry"]}
    found = text.render(
        document(
            verdict=denied, allowed=False, connections={"opened": {"kernel": 2, "mutual_tls": 1}, "failed": {"DENY": 1}}
        )
    )
    assert "Policy refuses it: explicitly denied by: shop/p" in found
    assert "Dry run would also match: shop/dry." in found
    assert "2 directly, within the node, 1 by mutual TLS; ended for a reason: 1 with DENY." in found
    assert found.endswith("Result: refused.")


def test_the_text_says_why_there_is_no_way() -> None:
    found = document(
        path="refused", pod="", node="", capture=None, verdict=None, allowed=False, connections=None, why="no port 81"
    )
    assert "The caller's ztunnel refuses: no port 81." in text.render(found)
