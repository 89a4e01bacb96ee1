"""Tables of a ztunnel's dump."""

from datetime import UTC, datetime

from meshctl import tables
from meshctl.output import Table

WORKLOAD = {
    "uid": "Kubernetes//Pod/shop/web-1",
    "name": "web-1",
    "namespace": "shop",
    "workloadIps": ["10.244.1.5", "fd00::5"],
    "node": "node1",
    "protocol": "HBONE",
}


def test_columns_are_aligned_and_lines_have_no_end_of_blanks() -> None:
    text = str(Table(("NAME", "X"), [("a-long-name", ""), ("b", "1")]))
    assert text.splitlines() == ["NAME          X", "a-long-name", "b             1"]


def test_workloads() -> None:
    through = {**WORKLOAD, "waypoint": {"destination": "shop/way.shop.svc.cluster.local"}}
    elsewhere = {**WORKLOAD, "name": "web-3", "waypoint": {"destination": "net1/10.0.0.9"}}
    table = tables.workloads([{**through, "name": "web-2", "protocol": "TCP"}, WORKLOAD, elsewhere])
    assert table.rows == [
        ("shop", "web-1", "10.244.1.5,fd00::5", "node1", "None", "HBONE"),
        ("shop", "web-2", "10.244.1.5,fd00::5", "node1", "way", "TCP"),
        ("shop", "web-3", "10.244.1.5,fd00::5", "node1", "net1/10.0.0.9", "HBONE"),
    ]


def test_services_count_healthy_endpoints() -> None:
    endpoints = {"a": {"status": "Healthy"}, "b": {"status": "Unhealthy"}}
    service = {"namespace": "shop", "name": "web", "vips": ["net/10.96.0.7", "/fd00::7"], "endpoints": endpoints}
    headless = {"namespace": "shop", "name": "db"}
    assert tables.services([service, headless]).rows == [
        ("shop", "db", "None", "None", "0/0"),
        ("shop", "web", "10.96.0.7,fd00::7", "None", "1/2"),
    ]


def test_policies() -> None:
    policy = {"namespace": "shop", "name": "deny", "action": "Deny", "scope": "Namespace"}
    assert tables.policies([policy]).rows == [("shop", "deny", "Deny", "Namespace")]


def test_certificates_are_leaf_intermediate_and_root() -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    good = {"serialNumber": "1", "validFrom": "2026-01-01T00:00:00Z", "expirationTime": "2026-01-03T00:00:00Z"}
    old = {**good, "serialNumber": "2", "expirationTime": "2026-01-01T12:00:00Z"}
    item = {"node": "n1", "identity": "spiffe://td/ns/shop/sa/web", "state": "Available"}
    rows = tables.certificates([{**item, "certChain": [good, old], "rootCerts": [good]}], now).rows
    assert [row[2:6] for row in rows] == [
        ("Leaf", "Available", "true", "1"),
        ("Intermediate", "Available", "false", "2"),
        ("Root", "Available", "true", "1"),
    ]


def test_an_identity_without_a_certificate_is_a_row() -> None:
    item = {"node": "n1", "identity": "spiffe://td/ns/shop/sa/web", "state": "Unavailable: no answer"}
    rows = tables.certificates([item], datetime.now(UTC)).rows
    assert rows == [("n1", "spiffe://td/ns/shop/sa/web", "", "Unavailable: no answer", "", "", "", "")]


def test_connections_of_both_directions() -> None:
    flow = {"src": "10.0.0.1:4", "originalDst": "10.0.0.2:80", "actualDst": "10.0.0.2:15008", "protocol": "HBONE"}
    item = {
        "node": "n1",
        "info": {"name": "web-1", "namespace": "shop"},
        "connections": {"inbound": [], "outbound": [flow]},
    }
    expected = ("n1", "web-1.shop", "Outbound", "10.0.0.1:4", "10.0.0.2:80", "10.0.0.2:15008", "HBONE")
    assert tables.connections([item]).rows == [expected]


def test_the_namespace_of_an_item_depends_on_the_section() -> None:
    assert tables.namespace_of("workloads", WORKLOAD) == "shop"
    assert tables.namespace_of("certificates", {"identity": "spiffe://td/ns/shop/sa/web"}) == "shop"
    assert tables.namespace_of("workloadState", {"info": {"namespace": "shop"}}) == "shop"
