"""Gateways at the edge: what is made for them, who gets their configuration, and which listeners conflict."""

from typing import Any

import pytest

from controlplane.ambient.model import create
from controlplane.gateways.listener import EdgeListener, intersection, owner_of
from controlplane.graph.collection import Source
from controlplane.graph.scheduler import Graph
from controlplane.inputs.mesh import MeshContext
from controlplane.inputs.sources import Inputs
from controlplane.proxies import edge_status, objects
from controlplane.proxies.classes import EDGE
from controlplane.proxies.status import Observed
from controlplane.status import gateways
from controlplane.xds import worlds
from meshapi import names
from meshapi.resources import base, gateway
from meshkit.kube import Json, Key
from meshkit.xds.peer import Peer
from tests.unit.controlplane.test_proxies import DEFAULTS

NOW = "2026-01-01T00:00:00Z"


def item(*listeners: Json, name: str = "web", **spec: Any) -> gateway.Gateway:
    body = {"gatewayClassName": "istio", "listeners": list(listeners), **spec}
    metadata = {"name": name, "namespace": "shop", "uid": "u", "generation": 3}
    return base.read(gateway.Gateway, {"metadata": metadata, "spec": body})


def listener(name: str, port: int = 80, protocol: str = "HTTP", hostname: str = "", **more: Any) -> Json:
    return {"name": name, "port": port, "protocol": protocol, "hostname": hostname, **more}


def listeners(*given: Json) -> dict[str, EdgeListener]:
    model = create(MeshContext())
    one = item(*given)
    model.inputs.of(gateway.Gateway).set(one.key, one)
    model.flush()
    found = model.gateways.known.find(one.key)
    assert found is not None
    return {one.name: one for one in found.listeners}


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("", "", ""),
        ("", "a.example", "a.example"),
        ("a.example", "a.example", "a.example"),
        ("*.example", "a.example", "a.example"),
        ("*.example", "*.a.example", "*.a.example"),
        ("*.example", "example", None),
        ("a.example", "b.example", None),
        ("*.a.example", "*.b.example", None),
    ],
)
def test_hosts_in_common(one: str, other: str, expected: str | None) -> None:
    assert intersection(one, other) == expected
    assert intersection(other, one) == expected


@pytest.mark.parametrize(
    ("hostname", "expected"),
    [
        ("a.b.example", "a.b.example"),
        ("x.b.example", "*.b.example"),
        ("*.b.example", "*.b.example"),
        ("x.example", "*.example"),
        ("other", ""),
        ("", ""),
    ],
)
def test_the_most_specific_listener_has_a_host(hostname: str, expected: str) -> None:
    assert owner_of(hostname, ("", "*.example", "*.b.example", "a.b.example")) == expected


def test_listeners_that_conflict_are_both_refused_and_the_rest_is_served() -> None:
    found = listeners(
        listener("a", hostname="a.example"),
        listener("plain", 8080),
        listener("secret", 8080, "HTTPS", tls={"certificateRefs": [{"name": "x"}]}),
        listener("same", hostname="A.example"),
        listener("good"),
        listener("far", 81, hostname="a.example"),
    )
    conflicts = {name: one.conflicted.reason for name, one in found.items()}
    assert conflicts == {
        "a": "HostnameConflict",
        "same": "HostnameConflict",
        "plain": "ProtocolConflict",
        "secret": "ProtocolConflict",
        "good": "NoConflicts",
        "far": "NoConflicts",
    }
    assert {name for name, one in found.items() if one.is_served} == {"good", "far"}


def test_a_listener_on_a_port_of_the_proxy_itself_is_refused() -> None:
    found = listeners(listener("probes", names.READINESS_PORT), listener("http"))
    assert found["probes"].accepted.reason == "PortUnavailable"
    assert found["http"].is_served


def test_a_gateway_is_a_deployment_and_a_load_balancer_with_istios_names() -> None:
    one = item(listener("http"), addresses=[{"type": "IPAddress", "value": "203.0.113.7"}])
    made = {
        found.kind.name: found.body
        for found in objects.render(one, EDGE, MeshContext(), DEFAULTS, objects.ports_of(one))
    }
    assert made["Deployment"]["metadata"]["name"] == "web-istio"
    assert made["ServiceAccount"]["metadata"]["name"] == "web-istio"
    labels = made["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert labels[names.GATEWAY_NAME_LABEL] == labels[names.ISTIO_GATEWAY_NAME_LABEL] == "web"
    assert labels[names.GATEWAY_MANAGED_LABEL] == "istio.io-gateway-controller"
    service = made["Service"]["spec"]
    assert service["type"] == "LoadBalancer"
    assert service["loadBalancerIP"] == "203.0.113.7"
    assert [(port["name"], port["port"]) for port in service["ports"]] == [("status-port", 15021), ("http", 80)]
    pod = made["Deployment"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["sysctls"] == [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]
    assert pod["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert {"name": "NODE_TYPE", "value": "router"} in pod["containers"][0]["env"]


def test_a_proxy_sees_the_configuration_of_its_own_gateway_only() -> None:
    """tenant-crossing: who has another identity than the Gateway's pods gets nothing, certificates least of all."""
    model = create(MeshContext())
    model.inputs.of(gateway.Gateway).set(("shop", "web"), item(listener("http")))
    model.flush()

    def view(identity: str, kind: str = "router", **labels: str) -> Key | None:
        peer = Peer(identity, 0.0, f"{kind}~10.0.0.1~w.shop~shop.svc.cluster.local", {"LABELS": labels})
        return worlds.view_of(peer, model)

    name = {names.GATEWAY_NAME_LABEL: "web"}
    assert view("shop/web-istio", **name) == ("shop", "web")
    assert view("shop/default", **name) is None, "another service account of the namespace"
    assert view("other/web-istio", **name) is None, "another namespace"
    assert view("shop/web-istio") is None, "no label"
    assert view("shop/web-istio", "waypoint", **name) is None, "it is no waypoint"


def status(one: gateway.Gateway, observed: Observed) -> Json:
    model = create(MeshContext())
    from controlplane.envoy import layer7

    reports = gateways.reports(layer7.create(model))
    model.inputs.of(gateway.Gateway).set(one.key, one)
    model.flush()
    report = reports.find(one.key)
    assert report is not None
    return edge_status.of_gateway(one, report, observed, {}, NOW)


def conditions(of: Json) -> dict[str, tuple[str, str]]:
    return {one["type"]: (one["status"], one["reason"]) for one in of["conditions"]}


READY = Observed(hostname="web-istio.shop.svc.cluster.local", addresses=("203.0.113.7",), ready=1)


def test_a_gateway_is_programmed_with_an_address_and_a_pod() -> None:
    one = item(listener("http"))
    found = status(one, READY)
    assert conditions(found) == {"Accepted": ("True", "Accepted"), "Programmed": ("True", "Programmed")}
    assert found["addresses"] == [{"type": "IPAddress", "value": "203.0.113.7"}]
    [http] = found["listeners"]
    assert http["attachedRoutes"] == 0
    assert [kind["kind"] for kind in http["supportedKinds"]] == ["HTTPRoute", "GRPCRoute"]
    assert conditions(http)["Programmed"] == ("True", "Programmed")
    assert all(one["observedGeneration"] == 3 for one in found["conditions"])
    waiting = status(one, Observed(hostname=READY.hostname))
    assert conditions(waiting)["Programmed"] == ("False", "AddressNotAssigned")
    assert conditions(waiting["listeners"][0])["Programmed"] == ("False", "Pending")


def test_a_gateway_without_a_valid_listener_is_not_accepted() -> None:
    found = status(item(listener("odd", protocol="example.com/odd")), READY)
    assert conditions(found)["Accepted"] == ("False", "ListenersNotValid")
    assert found["listeners"][0]["supportedKinds"] == []
    both = status(item(listener("odd", protocol="example.com/odd"), listener("http", 81)), READY)
    assert conditions(both)["Accepted"] == ("True", "ListenersNotValid")


def test_inputs_have_secrets_without_keys_in_their_text() -> None:
    """debug-exposure: a private key is in no log line."""
    from controlplane.inputs.sources import TlsSecret

    inputs = Inputs(Graph(), MeshContext())
    assert isinstance(inputs.secrets, Source)
    assert "PRIVATE" not in repr(TlsSecret("CHAIN", "PRIVATE"))
