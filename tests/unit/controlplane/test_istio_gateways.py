"""Gateways of Istio's API: which pods are one place, how servers merge, and who sees what is made of them."""

from typing import Any

import pytest

from controlplane.ambient.model import Model, create
from controlplane.envoy import layer7
from controlplane.gateways import place, servers
from controlplane.gateways.listener import EdgeGateway
from controlplane.gateways.references import References
from controlplane.gateways.secrets import MISSING
from controlplane.inputs.mesh import MeshContext
from controlplane.inputs.sources import TlsSecret
from controlplane.status.outcomes import Outcomes
from controlplane.xds import worlds
from meshapi import names
from meshapi.errors import InvalidResource
from meshapi.resources import base, core
from meshapi.resources.istio_gateway import Gateway
from meshkit.kube import Key, kinds
from meshkit.xds.peer import Peer
from tests.support import kubernetes_objects

Json = dict[str, Any]
LABELS = {"istio": "ingressgateway"}


def pod(name: str = "edge-1", namespace: str = "istio-system", **options: Any) -> core.Pod:
    given = {"account": "edge", "labels": LABELS, **options}
    return base.read(core.Pod, kubernetes_objects.pod(name, namespace, **given))


def server(number: int = 80, protocol: str = "HTTP", name: str = "", **more: Any) -> Json:
    port = {"number": number, "protocol": protocol, "name": name or f"{protocol}-{number}"}
    return {"port": port, "hosts": ["*"], **more}


def gateway(*given: Json, name: str = "edge", created: str = "2026-01-01T00:00:00Z", **spec: Any) -> Gateway:
    metadata = {"name": name, "namespace": "default", "creationTimestamp": created, "generation": 1}
    return base.read(Gateway, {"metadata": metadata, "spec": {"selector": LABELS, "servers": list(given), **spec}})


def merged(*gateways: Gateway, secrets: dict[str, TlsSecret] | None = None, **ports: int) -> EdgeGateway:
    found = {("istio-system", name): one for name, one in (secrets or {}).items()}
    resolve = References(
        lambda key: found.get(key, MISSING.secret), lambda _: None, lambda who, _, key: who.namespace == key[0]
    )
    targets = {int(port.removeprefix("p")): frozenset({target}) for port, target in ports.items()}
    return servers.merged(place.of_pod(pod()), gateways, targets, resolve)


def refused(found: EdgeGateway) -> list[tuple[str, str, str]]:
    return [(one.owner[1], one.name, one.accepted.message) for one in found.listeners if not one.accepted.is_true]


def test_pods_of_a_workload_are_one_place_whatever_revision_they_are_of() -> None:
    owner = {"kind": "ReplicaSet", "name": "edge-abc", "controller": True}
    first = place.of_pod(pod("edge-1", owner=owner, labels={**LABELS, "pod-template-hash": "abc"}))
    second = place.of_pod(
        pod("edge-2", owner={**owner, "name": "edge-def"}, labels={**LABELS, "pod-template-hash": "def"})
    )
    assert first == second
    assert first.workload == "edge"
    assert first.key == second.key


@pytest.mark.parametrize(
    "options",
    [{"labels": {**LABELS, "a": "b"}}, {"account": "other"}, {"namespace": "shop"}],
    ids=["labels", "account", "namespace"],
)
def test_pods_that_differ_in_what_decides_are_different_places(options: Json) -> None:
    assert place.of_pod(pod()).key != place.of_pod(pod(**options)).key


def test_pods_with_different_proxies_in_front_are_different_places() -> None:
    raw = kubernetes_objects.pod("edge-1", "istio-system", account="edge", labels=LABELS)
    raw["metadata"]["annotations"] = {"a": "b"}
    assert place.of_pod(base.read(core.Pod, raw)).key == place.of_pod(pod()).key
    raw["metadata"]["annotations"] = {names.PROXY_CONFIG_ANNOTATION: "gatewayTopology: {}"}
    assert place.of_pod(base.read(core.Pod, raw)).key != place.of_pod(pod()).key


def test_no_place_has_the_name_of_an_object() -> None:
    assert ":" in place.of_pod(pod()).key[1], "names of objects have no colon"


def test_an_older_gateway_has_a_port_and_of_one_age_the_name_decides() -> None:
    young = gateway(server(80, "TCP"), name="young", created="2026-01-02T00:00:00Z")
    old = gateway(server(80, "HTTP"), name="old")
    assert [name for name, _, _ in refused(merged(young, old))] == ["young"]
    assert [name for name, _, _ in refused(merged(gateway(server(80, "TCP"), name="a"), old))] == ["old"]
    assert merged(young, old).merged == (("default", "old"), ("default", "young"))


def test_servers_conflict_where_pods_listen_not_where_the_service_does() -> None:
    other = gateway(server(8080, "TCP"), name="other", created="2026-01-02T00:00:00Z")
    assert refused(merged(gateway(server(80)), other)) == []
    [(name, path, message)] = refused(merged(gateway(server(80)), other, p80=8080))
    assert (name, path) == ("other", "servers[0]")
    assert "at port 8080 of the pods is older and speaks HTTP" in message


def test_a_refused_server_takes_no_place() -> None:
    """The second server is refused by the first, and so does not refuse the third."""
    tls = {"mode": "PASSTHROUGH"}
    found = merged(gateway(server(80), server(80, "TLS", tls=tls), server(80, "HTTP2")))
    assert [path for _, path, _ in refused(found)] == ["servers[1]"]


def test_routes_have_the_names_that_istios_tools_know() -> None:
    tls = {"mode": "SIMPLE", "credentialName": "web"}
    found = merged(
        gateway(server(80), server(81, bind="10.0.0.1"), server(443, "HTTPS", "https", tls=tls), server(9000, "TCP")),
        secrets={"web": TlsSecret("chain", "key")},
        p80=8080,
    )
    wanted = ["http.8080", "http.81.10.0.0.1", "https.443.https.edge.default", "tcp.9000.TCP-9000.edge.default"]
    assert [one.routes_name for one in found.served] == wanted


def test_roots_that_have_not_been_read_yet_serve_nobody() -> None:
    """auth-bypass: until it is known whether there is a Secret with roots, those of another one are not taken."""
    tls = {"mode": "MUTUAL", "credentialName": "web"}
    both = TlsSecret("chain", "key", roots="roots")
    unread: dict[Key, TlsSecret] = {("istio-system", "web"): both}
    resolve = References(unread.get, lambda _: None, lambda *_: True)
    found = servers.merged(place.of_pod(pod()), [gateway(server(443, "HTTPS", tls=tls))], {}, resolve)
    assert found.served == ()
    assert ("istio-system", "web-cacert") in found.secrets
    served = merged(gateway(server(443, "HTTPS", tls=tls)), secrets={"web": both}).served
    assert [one.clients.secret for one in served if one.clients] == [("istio-system", "web")]


def test_a_secret_of_another_namespace_is_not_even_read() -> None:
    tls = {"mode": "SIMPLE", "credentialName": "kubernetes://shop/web"}
    found = merged(gateway(server(443, "HTTPS", tls=tls)))
    assert found.secrets == frozenset()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (server(80, "HTTPS"), "spec.servers[0]: port has protocol HTTPS but there is no tls; write tls.mode"),
        (server(80, "UDP"), "spec.servers[0].port.protocol: is not a protocol of gateways"),
        (server(0), "spec.servers[0].port.number: is not a port"),
        ({**server(), "hosts": []}, "spec.servers[0].hosts"),
        ({**server(), "hosts": ["a b"]}, "spec.servers[0].hosts[0]: is not a host"),
        ({**server(), "hosts": ["~/a"]}, "spec.servers[0].hosts[0]: is not a host"),
        (server(bind="edge"), "spec.servers[0].bind: is not an IP address"),
        (server(tls={"mode": "SIMPLE", "credentialName": "a"}), "spec.servers[0]: tls is given for protocol HTTP"),
        (server(80, "TCP", tls={"httpsRedirect": True}), "spec.servers[0]: tls.httpsRedirect is for HTTP"),
        (server(443, "HTTPS", tls={"mode": "SIMPLE"}), "spec.servers[0].tls: mode SIMPLE has no certificate"),
        (
            server(443, "HTTPS", tls={"mode": "MUTUAL", "serverCertificate": "a", "privateKey": "b"}),
            "spec.servers[0].tls: mode MUTUAL has no roots for clients' certificates",
        ),
        (
            server(443, "HTTPS", tls={"mode": "SIMPLE", "serverCertificate": "a"}),
            "spec.servers[0].tls: serverCertificate and privateKey belong together",
        ),
        (
            server(443, "HTTPS", tls={"mode": "SIMPLE", "credentialName": "a", "credentialNames": ["b"]}),
            "spec.servers[0].tls: credentialName and credentialNames exclude each other",
        ),
        (
            server(443, "HTTPS", tls={"mode": "ISTIO_MUTUAL", "credentialName": "a"}),
            "spec.servers[0].tls: credentialName is given with mode ISTIO_MUTUAL",
        ),
        (
            server(443, "TLS", tls={"minProtocolVersion": "TLSV1_3", "maxProtocolVersion": "TLSV1_2"}),
            "spec.servers[0].tls: minProtocolVersion is newer than maxProtocolVersion",
        ),
        (server(defaultEndpoint="127.0.0.1:80"), "spec.servers[0]: defaultEndpoint is not supported"),
    ],
)
def test_a_wrong_server_is_refused_with_its_field_and_the_fix(given: Json, said: str) -> None:
    with pytest.raises(InvalidResource) as caught:
        gateway(given)
    assert said in str(caught.value)


def test_two_ports_of_a_gateway_may_not_have_one_name() -> None:
    with pytest.raises(InvalidResource, match=r"two servers have port.name web; give each its own"):
        gateway(server(80, name="web"), server(81, name="web"))


class Mesh:
    """A control plane's collections with pods and Gateways."""

    def __init__(self) -> None:
        self.model: Model = create(MeshContext())
        self.layer7 = layer7.create(self.model)
        self.worlds = worlds.create(self.layer7)
        self.outcomes = Outcomes(self.layer7)

    def put(self, *items: core.Pod | Gateway) -> None:
        for item in items:
            self.model.inputs.of(type(item)).set(item.key, item)
        self.publish()

    def remove(self, item: core.Pod | Gateway) -> None:
        self.model.inputs.of(type(item)).set(item.key, None)
        self.publish()

    def publish(self) -> None:
        self.model.flush()
        assert not self.model.graph.take_failures()
        self.worlds.publish(is_settled=True)

    def view(self, name: str = "edge-1", identity: str = "istio-system/edge", kind: str = "router") -> Key | None:
        peer = Peer(identity, 0.0, f"{kind}~10.0.0.1~{name}.istio-system~istio-system.svc.cluster.local", {})
        return worlds.view_of(peer, self.model)

    def condition(self, item: Gateway) -> str:
        found = self.outcomes.by_kind[kinds.ISTIO_GATEWAY].find(item.key)
        return "" if found is None else found.conditions[0].message


def test_a_proxy_gets_what_selects_its_pod_if_it_proves_the_pods_identity() -> None:
    """tenant-crossing: a pod's configuration, and its certificates, are for its own service account alone."""
    mesh = Mesh()
    mesh.put(pod(), pod("web-1", labels={"app": "web"}), gateway(server()))
    assert mesh.view() == place.of_pod(pod()).key
    assert mesh.view("web-1") is None, "no Gateway selects it"
    assert mesh.view(identity="istio-system/other") is None, "another service account"
    assert mesh.view(identity="shop/edge") is None, "another namespace"
    assert mesh.view("gone-1") is None, "no such pod"
    assert mesh.view(kind="waypoint") is None


def test_a_proxy_cannot_name_a_place_as_its_gateway() -> None:
    mesh = Mesh()
    mesh.put(pod(), gateway(server()))
    _, name = place.of_pod(pod()).key
    said = {"LABELS": {names.GATEWAY_NAME_LABEL: name}}
    peer = Peer("istio-system/edge", 0.0, "router~10.0.0.1~gone-1.istio-system~x", said)
    assert worlds.view_of(peer, mesh.model) is None


def test_pods_that_end_serve_nothing() -> None:
    mesh = Mesh()
    edge = gateway(server())
    mesh.put(pod(phase="Failed"), edge)
    assert mesh.view() is None
    assert "no pod has the labels of spec.selector (istio=ingressgateway)" in mesh.condition(edge)


def test_a_stream_that_is_older_than_its_gateway_gets_it_and_loses_it_again() -> None:
    mesh = Mesh()
    edge = gateway(server())
    mesh.put(pod())
    seen = mesh.worlds.following(mesh.view)
    assert list(seen.all(names.LISTENER_TYPE)) == []
    changes: list[tuple[str, frozenset[str]]] = []
    end = seen.watch(lambda type_url, changed: changes.append((type_url, changed)))
    mesh.put(edge)
    assert (names.LISTENER_TYPE, frozenset({"0.0.0.0_80", "connect_originate"})) in changes
    assert seen.lookup(names.LISTENER_TYPE, "0.0.0.0_80") is not None
    changes.clear()
    mesh.remove(edge)
    assert (names.LISTENER_TYPE, frozenset({"0.0.0.0_80", "connect_originate"})) in changes
    assert seen.lookup(names.LISTENER_TYPE, "0.0.0.0_80") is None
    end()
    changes.clear()
    mesh.put(edge)
    assert changes == []


def test_a_pod_whose_labels_change_moves_to_what_selects_it_now() -> None:
    mesh = Mesh()
    mesh.put(pod(), gateway(server(80)), gateway(server(81), name="other", selector={"istio": "other"}))
    seen = mesh.worlds.following(mesh.view)
    end = seen.watch(lambda *_: None)
    mesh.put(pod(labels={"istio": "other"}))
    assert [one.name for one in seen.all(names.LISTENER_TYPE) if one.name != "connect_originate"] == ["0.0.0.0_81"]
    end()
