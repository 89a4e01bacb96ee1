"""What is found in routes and in settings of hosts: each code at its place, and nothing in those that are good."""

from typing import Any

import pytest

from meshapi import names
from tests.support import kubernetes_objects as objects
from tests.unit.meshctl.test_analyze import codes, findings, mesh_config

Json = dict[str, Any]
WAYPOINT = {names.USE_WAYPOINT_LABEL: "waypoint"}
PORTS = [{"port": 80, "name": "http"}]


def item(kind: str, name: str = "web", namespace: str = "shop", **spec: Any) -> Json:
    return {"kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def routes(*rules: Json, host: str = "web", **more: Any) -> list[Json]:
    return [item("VirtualService", hosts=[host], http=list(rules), **more)]


def to(host: str = "web", subset: str = "", port: int = 0, **more: Any) -> Json:
    destination: Json = {"host": host} | ({"subset": subset} if subset else {})
    destination |= {"port": {"number": port}} if port else {}
    return {"route": [{"destination": destination}], **more}


def world(**items: list[Json]) -> dict[str, list[Json]]:
    """A service with a waypoint, one without, an external host, subsets of the first one; and more."""
    here: dict[str, list[Json]] = {
        "Namespace": [{"metadata": {"name": "shop", "labels": WAYPOINT}}],
        "Service": [
            objects.service("web", ports=PORTS),
            objects.service("other", "elsewhere", ports=PORTS),
        ],
        "ServiceEntry": [objects.service_entry("e", hosts=["*.test"], resolution="NONE", ports=[{"number": 80}])],
        "DestinationRule": [item("DestinationRule", host="web", subsets=[{"name": "v1"}])],
    }
    return {kind: [*here.get(kind, []), *items.get(kind, [])] for kind in {*here, *items}}


PREFIX = {"uri": {"prefix": "/a"}}


@pytest.mark.parametrize(
    "rules",
    [
        routes(to(subset="v1", match=[PREFIX], port=80), to("web.shop.svc.cluster.local")),
        routes(to("other.elsewhere.svc.cluster.local")),
        routes(to("a.test", match=[{**PREFIX, "port": 80}]), to(match=[PREFIX])),
        routes(to(match=[PREFIX, {"uri": {"prefix": "/b"}}]), to(match=[{"uri": {"prefix": "/b"}}, {"method": {}}])),
        routes(to("a.test"), host="a.test"),
        [*routes({"delegate": {"name": "more"}}, to()), item("VirtualService", "more", http=[to()])],
    ],
)
def test_good_routes_have_no_findings(rules: list[Json]) -> None:
    assert findings(**world(VirtualService=rules)) == []


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ({"VirtualService": routes(to("wbe"))}, [("IST0101", "spec.http[0].route[0].destination.host")]),
        ({"VirtualService": routes(to("other.elsewhere"))}, [("IST0101", "spec.http[0].route[0].destination.host")]),
        ({"VirtualService": routes(to(subset="v2"))}, [("IST0101", "spec.http[0].route[0].destination.subset")]),
        ({"VirtualService": routes(to(port=81))}, [("IST0101", "spec.http[0].route[0].destination.port.number")]),
        ({"VirtualService": routes(to(mirror={"host": "wbe"}))}, [("IST0101", "spec.http[0].mirror.host")]),
        ({"VirtualService": routes(to(mirrors=[{"destination": {"host": "wbe"}}]))},
         [("IST0101", "spec.http[0].mirrors[0].destination.host")]),
        ({"VirtualService": [item("VirtualService", hosts=["web"], tcp=[to("wbe")])]},
         [("IST0101", "spec.tcp[0].route[0].destination.host")]),
        ({"VirtualService": routes({"delegate": {"name": "more"}})}, [("IST0101", "spec.http[0].delegate")]),
        ({"DestinationRule": [item("DestinationRule", "d", host="wbe")]}, [("IST0101", "spec.host")]),
        ({"VirtualService": routes(to(), to(match=[PREFIX]))}, [("IST0130", "spec.http[1]")]),
        ({"VirtualService": routes(to(match=[PREFIX]), to(match=[{**PREFIX, "name": "again"}]))},
         [("IST0130", "spec.http[1].match")]),
        ({"VirtualService": routes(to("other.elsewhere.svc.cluster.local"), host="other.elsewhere.svc.cluster.local")},
         [("CUL0160", "spec.hosts")]),
        ({"DestinationRule": [item("DestinationRule", "d", host="other", namespace="elsewhere")]},
         [("CUL0160", "spec.host")]),
        ({"VirtualService": [item("VirtualService", hosts=["web"])]}, [("IST0106", "spec")]),
        ({"VirtualService": routes(to(timeuot="1s"))}, [("CUL0101", "spec.http[0].timeuot")]),
        ({"RequestAuthentication": [item("RequestAuthentication", jwtRules=[{"issuer": "i", "jwksUri": "x"}])]},
         [("IST0106", "spec.jwtRules[0].jwksUri")]),
    ],
)  # fmt: skip
def test_findings_in_routes(items: dict[str, list[Json]], expected: list[tuple[str, str]]) -> None:
    assert codes(**world(**items)) == expected


def test_a_host_that_opts_out_is_called_without_a_waypoint() -> None:
    found = world(VirtualService=routes(to()))
    found["Service"][0]["metadata"]["labels"] = {names.USE_WAYPOINT_LABEL: names.USE_WAYPOINT_NONE}
    assert [one for one, _ in codes(**found)] == ["CUL0160", "CUL0160"]


@pytest.mark.parametrize(("mode", "expected"), [("MANUAL", ["CUL0160"]), ("automatic", [])])
def test_a_host_that_gets_a_waypoint_by_itself_has_no_finding(mode: str, expected: list[str]) -> None:
    found = world(VirtualService=routes(to()))
    found["DestinationRule"], found["ServiceEntry"] = [], []
    found["Namespace"] = [objects.namespace("shop", {names.DATAPLANE_MODE_LABEL: names.DATAPLANE_MODE_AMBIENT})]
    found["ConfigMap"] = mesh_config(f"waypoints: {mode}")
    assert [one for one, _ in codes(**found)] == expected
