"""Which services and workloads are attached to which waypoint, and what proxies get of it."""

from typing import Any

import pytest

from controlplane.ambient.model import Model, create
from controlplane.inputs.mesh import MeshContext
from controlplane.waypoints.attachment import Attachment
from controlplane.waypoints.waypoint import Handles
from controlplane.xds import worlds
from meshapi import names
from meshapi.proto import workload_pb2 as pb
from meshapi.resources import base, core, gateway, networking
from meshkit.kube import Key
from meshkit.xds.peer import Peer
from tests.support import kubernetes_objects as objects
from tests.support.ambient_model import put, remove

USE = names.USE_WAYPOINT_LABEL
OTHER = names.USE_WAYPOINT_NAMESPACE_LABEL
FOR = names.WAYPOINT_FOR_LABEL
SERVICE = "shop/web.shop.svc.cluster.local"
POD = "Kubernetes//Pod/shop/web-1"
WAYPOINT = pb.GatewayAddress(
    hostname=pb.NamespacedHostname(namespace="shop", hostname="waypoint.shop.svc.cluster.local"), hbone_mtls_port=15008
)


def waypoint(name: str = "waypoint", namespace: str = "shop", **options: Any) -> gateway.Gateway:
    options.setdefault("addresses", objects.hostname_of(name, namespace))
    return base.read(gateway.Gateway, objects.gateway(name, namespace, **options))


def service(labels: dict[str, str] | None = None, namespace: str = "shop", name: str = "web") -> core.Service:
    item = objects.service(name, namespace, ports=[{"port": 80}])
    item["metadata"]["labels"] = labels or {}
    return base.read(core.Service, item)


def pod(labels: dict[str, str] | None = None) -> core.Pod:
    return base.read(core.Pod, objects.pod("web-1", labels={"app": "web", **(labels or {})}))


def entry(labels: dict[str, str] | None = None, namespace: str = "shop") -> networking.ServiceEntry:
    ports = [{"number": 80, "name": "http", "protocol": "HTTP"}]
    endpoints = [{"address": "192.0.2.1"}]
    item = objects.service_entry(
        "out", namespace, hosts=["out.test"], ports=ports, resolution="STATIC", endpoints=endpoints
    )
    item["metadata"]["labels"] = labels or {}
    return base.read(networking.ServiceEntry, item)


def world(*items: base.Object, shop: dict[str, str] | None = None, dev: dict[str, str] | None = None) -> Model:
    model = create(MeshContext())
    for name, labels in (("shop", shop), ("dev", dev)):
        label_namespace(model, name, labels)
    put(model, *items)
    model.flush()
    return model


def label_namespace(model: Model, name: str, labels: dict[str, str] | None) -> None:
    item = base.read(core.Namespace, objects.namespace(name, labels))
    model.inputs.namespaces.set(item.key, item)


def sent(model: Model, name: str) -> Any:
    """The workload or service that proxies get under a name."""
    address = pb.Address.FromString(model.all(names.ADDRESS_TYPE)[name].body)
    return address.service if address.HasField("service") else address.workload


def problem(found: Attachment | None) -> str:
    return found.problem.reason if found is not None and found.problem is not None else ""


def test_a_namespaces_label_attaches_its_services_and_not_its_pods() -> None:
    model = world(waypoint(), service(), pod(), shop={USE: "waypoint"})
    assert sent(model, SERVICE).waypoint == WAYPOINT
    assert not sent(model, POD).HasField("waypoint")
    assert model.waypoints.services.find(("shop", "web")) == Attachment(("shop", "waypoint"))


@pytest.mark.parametrize(
    ("kind", "of_service", "of_pod"),
    [("service", True, False), ("workload", False, True), ("all", True, True), ("none", False, False), ("x", 0, 0)],
)
def test_waypoint_for_says_what_goes_through_it(kind: str, of_service: bool, of_pod: bool) -> None:
    model = world(waypoint(labels={FOR: kind}), service(), pod(), shop={USE: "waypoint"})
    assert sent(model, SERVICE).HasField("waypoint") == of_service
    assert sent(model, POD).HasField("waypoint") == of_pod
    assert problem(model.waypoints.services.find(("shop", "web"))) == ("" if of_service else "UnsupportedTrafficType")


def test_a_class_says_what_its_waypoints_handle_and_a_gateway_goes_first() -> None:
    item = {"metadata": {"name": "istio-waypoint", "labels": {FOR: "all"}}, "spec": {"controllerName": "x/y"}}
    model = world(waypoint(), waypoint("own", labels={FOR: "workload"}), base.read(gateway.GatewayClass, item))
    found = {one.key[1]: one.handles for one in model.waypoints.ready}
    assert found == {"waypoint": Handles.ALL, "own": Handles.WORKLOAD}


def test_an_objects_own_label_goes_first_and_none_opts_out() -> None:
    model = world(
        waypoint(),
        waypoint("mine"),
        service({USE: "mine"}),
        service({USE: "none"}, name="out"),
        service(name="rest"),
        shop={USE: "waypoint"},
    )
    found = {key[1]: one.waypoint for key, one in model.waypoints.services.items()}
    assert found == {"web": ("shop", "mine"), "rest": ("shop", "waypoint")}
    served = {key: one.waypoint for key, one in model.waypoints.served.items()}
    assert served == {("shop", "web"): ("shop", "mine"), ("shop", "rest"): ("shop", "waypoint")}


def test_a_waypoint_that_is_not_ready_is_not_substituted_and_the_condition_says_so() -> None:
    model = world(waypoint(), waypoint("mine", addresses=[]), service({USE: "mine"}), shop={USE: "waypoint"})
    assert not sent(model, SERVICE).HasField("waypoint")
    assert problem(model.waypoints.services.find(("shop", "web"))) == "WaypointIsNotReady"
    put(model, waypoint("mine"))
    model.flush()
    assert sent(model, SERVICE).waypoint.hostname.hostname == "mine.shop.svc.cluster.local"
    remove(model, waypoint("mine"))
    model.flush()
    assert not sent(model, SERVICE).HasField("waypoint")


@pytest.mark.parametrize(
    ("allowed", "labels", "admitted"),
    [
        (None, {}, False),
        ({"from": "Same"}, {}, False),
        ({"from": "None"}, {}, False),
        ({"from": "All"}, {}, True),
        ({"from": "Selector", "selector": {"matchLabels": {"team": "a"}}}, {"team": "a"}, True),
        ({"from": "Selector", "selector": {"matchLabels": {"team": "a"}}}, {"team": "b"}, False),
        ({"from": "Selector"}, {"team": "a"}, False),
    ],
)
def test_a_waypoint_of_another_namespace_must_admit_this_one(
    allowed: dict[str, Any] | None, labels: dict[str, str], admitted: bool
) -> None:
    shared = waypoint("shared", "dev", allowed=allowed)
    model = world(shared, service(), shop={USE: "shared", OTHER: "dev", **labels})
    assert sent(model, SERVICE).HasField("waypoint") == admitted
    assert problem(model.waypoints.services.find(("shop", "web"))) == ("" if admitted else "AttachmentDenied")


def test_a_namespace_that_loses_the_selected_label_is_detached() -> None:
    chosen = {"from": "Selector", "selector": {"matchLabels": {"team": "a"}}}
    use = {USE: "shared", OTHER: "dev"}
    model = world(waypoint("shared", "dev", allowed=chosen), service(), shop={**use, "team": "a"})
    assert sent(model, SERVICE).HasField("waypoint")
    label_namespace(model, "shop", use)
    model.flush()
    assert not sent(model, SERVICE).HasField("waypoint")


@pytest.mark.parametrize(
    "labels",
    [{names.GATEWAY_MANAGED_LABEL: names.WAYPOINT_MANAGED}, {names.GATEWAY_NAME_LABEL: "waypoint"}],
)
def test_what_belongs_to_a_waypoint_has_none(labels: dict[str, str]) -> None:
    every = waypoint(labels={FOR: "all"})
    model = world(every, service(labels), pod(labels), shop={USE: "waypoint"})
    assert not sent(model, SERVICE).HasField("waypoint")
    assert not sent(model, POD).HasField("waypoint")


def test_a_service_entry_is_attached_with_its_hosts_and_its_endpoints() -> None:
    model = world(waypoint(labels={FOR: "all"}), entry({USE: "waypoint"}))
    assert sent(model, "shop/out.test").waypoint == WAYPOINT
    uid = "Kubernetes/networking.istio.io/ServiceEntry/shop/out/192.0.2.1"
    assert sent(model, uid).waypoint == WAYPOINT
    for entries in (model.waypoints.entries, model.waypoints.served_entries):
        assert {key: one.waypoint for key, one in entries.items()} == {("shop", "out"): ("shop", "waypoint")}


def test_a_waypoint_with_an_ip_address_only_is_named_by_it() -> None:
    address = [{"type": "IPAddress", "value": "10.96.0.77"}]
    model = world(waypoint(addresses=address), service(), shop={USE: "waypoint"})
    expected = pb.GatewayAddress(address=pb.NetworkAddress(address=bytes([10, 96, 0, 77])), hbone_mtls_port=15008)
    assert sent(model, SERVICE).waypoint == expected


@pytest.mark.parametrize(
    ("of_service", "of_namespace", "wanted"),
    [("true", None, True), (None, "true", True), ("false", "true", False), (None, None, False)],
)
def test_ingress_uses_the_waypoint_where_a_label_says_so(
    of_service: str | None, of_namespace: str | None, wanted: bool
) -> None:
    label = names.INGRESS_USE_WAYPOINT_LABEL
    own = {label: of_service} if of_service else {}
    of_all = {label: of_namespace} if of_namespace else {}
    model = world(waypoint(), service(own), shop={USE: "waypoint", **of_all})
    assert sent(model, SERVICE).ingress_use_waypoint == wanted


def test_a_changed_label_of_a_namespace_is_sent_once_and_only_for_what_it_concerns() -> None:
    model = world(waypoint(), service(), service(namespace="dev"), pod())
    label_namespace(model, "shop", {USE: "waypoint"})
    assert set(model.flush()[names.ADDRESS_TYPE]) == {SERVICE}
    label_namespace(model, "shop", {USE: "waypoint", "unrelated": "x"})
    assert model.flush() == {}


def test_a_proxy_sees_the_configuration_of_its_own_waypoint_only() -> None:
    model = create(MeshContext())
    put(model, base.read(gateway.Gateway, objects.gateway("waypoint", "shop")))
    model.flush()

    def view(identity: str, **labels: str) -> Key | None:
        peer = Peer(identity, 0.0, "waypoint~10.0.0.1~w.shop~shop.svc.cluster.local", {"LABELS": labels})
        return worlds.view_of(peer, model)

    name = {names.GATEWAY_NAME_LABEL: "waypoint"}
    assert view("shop/waypoint", **name) == ("shop", "waypoint"), "before it is ready: it has to become so"
    assert view("shop/web", **name) is None, "another service account of the namespace"
    assert view("other/waypoint", **name) is None, "another namespace"
    assert view("shop/waypoint") is None, "no label"
    assert worlds.view_of(Peer("shop/waypoint", 0.0, "waypoint~x", {"LABELS": "text"}), model) is None
