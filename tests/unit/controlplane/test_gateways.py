"""Gateways at the edge: what is made for them, who gets their configuration, and which listeners conflict."""

from typing import Any

import pytest

from controlplane.ambient.model import create
from controlplane.envoy import layer7
from controlplane.gateways import reading
from controlplane.gateways.classes import EDGE
from controlplane.gateways.listener import EdgeListener, intersection, owner_of
from controlplane.gateways.references import References
from controlplane.graph.collection import Source
from controlplane.graph.scheduler import Graph
from controlplane.inputs.mesh import MeshContext
from controlplane.inputs.sources import Inputs
from controlplane.proxies import edge_status, objects
from controlplane.proxies import status as proxy_status
from controlplane.proxies.status import Observed
from controlplane.status import gateways
from controlplane.xds import worlds
from meshapi import names
from meshapi.resources import base, core, gateway
from meshkit.kube import Json, Key
from meshkit.xds.peer import Peer
from tests.support import kubernetes_objects
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


def test_a_proxy_that_its_user_runs_is_known_by_its_pod_behind_the_service() -> None:
    model = create(MeshContext())
    by_hand = item(listener("http"), addresses=[{"type": "Hostname", "value": "edge.shop.svc.cluster.local"}])
    model.inputs.of(gateway.Gateway).set(by_hand.key, by_hand)
    for found in (
        base.read(core.Service, kubernetes_objects.service("edge", "shop", selector={"istio": "ingress"})),
        base.read(core.Service, kubernetes_objects.service("all", "shop", selector={})),
    ):
        model.inputs.of(core.Service).set(found.key, found)
    for name, labels in (("edge-1", {"istio": "ingress"}), ("web-1", {"app": "web"})):
        pod = base.read(core.Pod, kubernetes_objects.pod(name, "shop", account="edge", labels=labels))
        model.inputs.of(core.Pod).set(pod.key, pod)
    model.flush()

    def view(pod: str, identity: str = "shop/edge") -> Key | None:
        said = {"LABELS": {"istio": "ingress"}}
        peer = Peer(identity, 0.0, f"router~10.0.0.1~{pod}.shop~shop.svc.cluster.local", said)
        return worlds.view_of(peer, model)

    assert view("edge-1") == ("shop", "web")
    assert view("web-1") is None, "its pod has other labels than it says"
    assert view("edge-1", "shop/default") is None, "another service account"
    assert view("edge-1", "other/edge") is None, "another namespace"
    assert view("gone-1") is None

    def trusted() -> int | None:
        model.flush()
        found = model.gateways.known.find(("shop", "web"))
        return None if found is None or found.topology is None else found.topology.num_trusted_proxies

    assert trusted() is None
    for name, number in (("edge-1", 2), ("edge-2", 3)):
        raw = kubernetes_objects.pod(name, "shop", account="edge", labels={"istio": "ingress"})
        raw["metadata"]["annotations"] = {
            names.PROXY_CONFIG_ANNOTATION: f"gatewayTopology: {{numTrustedProxies: {number}}}"
        }
        pod = base.read(core.Pod, raw)
        model.inputs.of(core.Pod).set(pod.key, pod)
    assert trusted() == 2, "the first pod by name says it"


def test_a_service_of_another_namespace_is_no_gateway_of_this_one() -> None:
    """tenant-crossing: pods of another namespace get no certificates of this one."""
    one = item(listener("http"), addresses=[{"type": "Hostname", "value": "edge.other.svc.cluster.local"}])
    found = reading.read(one, (), References(lambda _: None, lambda _: None, lambda *_: False), lambda _: {})
    assert found.service == ("shop", "")


def test_a_remote_gateway_has_the_addresses_that_its_user_writes() -> None:
    spec = {
        "gatewayClassName": "istio-remote",
        "listeners": [listener("mesh", 15008, "HBONE")],
        "addresses": [{"type": "Hostname", "value": "east.example"}],
    }
    one = base.read(gateway.Gateway, {"metadata": {"name": "east", "namespace": "shop"}, "spec": spec})
    found = proxy_status.of_remote(one, {}, NOW)
    assert conditions(found) == {"Accepted": ("True", "Accepted"), "Programmed": ("True", "Programmed")}
    assert found["addresses"] == [{"type": "Hostname", "value": "east.example"}]
    none = proxy_status.of_remote(
        one.model_copy(update={"spec": one.spec.model_copy(update={"addresses": ()})}), {}, NOW
    )
    assert conditions(none)["Programmed"] == ("False", "AddressNotAssigned")


def listener_set(name: str, *listeners: Json, namespace: str = "team", created: str = NOW) -> gateway.ListenerSet:
    metadata = {"name": name, "namespace": namespace, "creationTimestamp": created}
    spec = {"parentRef": {"name": "web", "namespace": "shop"}, "listeners": list(listeners)}
    return base.read(gateway.ListenerSet, {"metadata": metadata, "spec": spec})


def test_listener_sets_give_way_to_the_gateway_and_to_older_ones() -> None:
    model = create(MeshContext())
    reports = gateways.reports(layer7.create(model))
    one = item(listener("http", hostname="a.example"), allowedListeners={"namespaces": {"from": "All"}})
    sets = (
        listener_set("late", listener("b", hostname="b.example"), created="2026-01-02T00:00:00Z"),
        listener_set("early", listener("a", hostname="a.example"), listener("b", hostname="b.example")),
    )
    model.inputs.of(gateway.Gateway).set(one.key, one)
    for found in sets:
        model.inputs.of(gateway.ListenerSet).set(found.key, found)
    model.flush()
    report = reports.find(one.key)
    assert report is not None
    late, early = (edge_status.of_listener_set(found, report, True, {}, NOW) for found in sets)
    assert conditions(early) == {"Accepted": ("True", "ListenersNotValid"), "Programmed": ("True", "Programmed")}
    assert conditions(early["listeners"][0])["Conflicted"] == ("True", "HostnameConflict")
    assert conditions(early["listeners"][1])["Programmed"] == ("True", "Programmed")
    assert conditions(late)["Accepted"] == ("False", "ListenersNotValid")
    assert conditions(late["listeners"][0])["Programmed"] == ("False", "HostnameConflict")
    assert edge_status.of_gateway(one, report, READY, {}, NOW)["attachedListenerSets"] == 1


def test_a_listener_set_that_is_not_admitted_says_so() -> None:
    model = create(MeshContext())
    reports = gateways.reports(layer7.create(model))
    one, other = item(listener("http")), listener_set("x", listener("b"))
    model.inputs.of(gateway.Gateway).set(one.key, one)
    model.inputs.of(gateway.ListenerSet).set(other.key, other)
    model.flush()
    report = reports.find(one.key)
    assert report is not None
    found = edge_status.of_listener_set(other, report, True, {}, NOW)
    assert conditions(found) == {"Accepted": ("False", "NotAllowed"), "Programmed": ("False", "NotAllowed")}
    assert found["listeners"] == []


def test_what_of_the_pods_annotation_has_no_effect_is_in_the_status() -> None:
    said = {"annotations": {names.PROXY_CONFIG_ANNOTATION: "gatewayTopology: {numTrustedProxies: x}"}}
    found = status(item(listener("http"), infrastructure=said), Observed(ready=1, hostname="h", addresses=("1.1.1.1",)))
    [accepted] = [one for one in found["conditions"] if one["type"] == "Accepted"]
    assert accepted["status"] == "True"
    assert "proxy.istio.io/config of the gateway's pods, gatewayTopology.numTrustedProxies" in accepted["message"]


def status(one: gateway.Gateway, observed: Observed) -> Json:
    model = create(MeshContext())
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


def test_an_address_that_is_asked_for_and_not_given_is_named() -> None:
    one = item(listener("http"), addresses=[{"type": "IPAddress", "value": "203.0.113.9"}])
    found = status(one, Observed(hostname=READY.hostname, ready=1))
    assert conditions(found)["Programmed"] == ("False", "AddressNotUsable")
    assert "203.0.113.9" in next(x["message"] for x in found["conditions"] if x["type"] == "Programmed")


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
