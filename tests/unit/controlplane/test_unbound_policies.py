"""Policies for services that use no waypoint: layer 4 enforces them at the services' pods, and the status says so."""

from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from controlplane.ambient.model import Model, create
from controlplane.envoy import layer7
from controlplane.inputs.mesh import MeshContext
from controlplane.status.outcomes import Outcomes
from meshapi import names
from meshapi.proto import authorization_pb2
from meshapi.proto import workload_pb2 as pb
from meshapi.resources import base, core, gateway, networking, security
from meshkit.kube import kinds
from tests.support import kubernetes_objects as objects
from tests.support.ambient_model import put, remove

POD = "Kubernetes//Pod/shop/web-1"
WEB = {"kind": "Service", "name": "web"}
MATCHED = {"rules": [{"from": [{"source": {"namespaces": ["dev"]}}]}]}
ADMIN = {"rules": [{"to": [{"operation": {"paths": ["/admin"]}}]}]}
PORT = {"rules": [{"from": [{"source": {"namespaces": ["dev"]}}], "to": [{"operation": {"ports": ["80"]}}]}]}


def policy(*targets: dict[str, str], name: str = "p", **spec: Any) -> security.AuthorizationPolicy:
    return base.read(security.AuthorizationPolicy, objects.policy(name, targetRefs=list(targets or (WEB,)), **spec))


def service(labels: dict[str, str] | None = None, name: str = "web", **spec: Any) -> core.Service:
    item = objects.service(name, ports=[{"port": 80, "targetPort": 8080}], **spec)
    item["metadata"]["labels"] = labels or {}
    return base.read(core.Service, item)


def pod(app: str = "web") -> core.Pod:
    return base.read(core.Pod, objects.pod(f"{app}-1", labels={"app": app}))


def waypoint() -> gateway.Gateway:
    return base.read(gateway.Gateway, objects.gateway(addresses=objects.hostname_of("waypoint", "shop")))


def world(*items: base.Object, mesh: MeshContext | None = None) -> Model:
    model = create(mesh or MeshContext())
    namespace = base.read(core.Namespace, objects.namespace("shop", {names.DATAPLANE_MODE_LABEL: "ambient"}))
    model.inputs.namespaces.set(namespace.key, namespace)
    put(model, service(), pod(), *items)
    model.flush()
    return model


def named(model: Model, uid: str = POD) -> list[str]:
    """The policies that a workload names, all of which there are."""
    found = list(pb.Address.FromString(model.all(names.ADDRESS_TYPE)[uid].body).workload.authorization_policies)
    assert set(found) <= set(model.all(names.AUTHORIZATION_TYPE))
    return found


def rules(model: Model, name: str = "shop/p@web") -> Any:
    sent = authorization_pb2.Authorization.FromString(model.all(names.AUTHORIZATION_TYPE)[name].body)
    assert sent.scope == authorization_pb2.WORKLOAD_SELECTOR
    return MessageToDict(sent).get("rules", [])


def test_it_counts_for_the_pods_of_the_service_and_no_others() -> None:
    model = world(policy(**MATCHED), pod("other"), service(name="other", selector={"app": "other"}))
    assert named(model) == ["shop/p@web"]
    assert named(model, "Kubernetes//Pod/shop/other-1") == []
    assert rules(model) == [{"clauses": [{"matches": [{"namespaces": [{"exact": "dev"}]}]}]}]


def test_what_layer_4_cannot_decide_allows_nothing() -> None:
    assert rules(world(policy(**ADMIN))) == []


def test_what_layer_4_cannot_decide_denies_everything() -> None:
    assert rules(world(policy(action="DENY", **ADMIN))) == [{}]


def test_the_ports_of_a_service_are_not_those_of_its_pods() -> None:
    assert rules(world(policy(**PORT))) == []
    denied = rules(world(policy(action="DENY", **PORT)))
    assert denied == [{"clauses": [{"matches": [{"namespaces": [{"exact": "dev"}]}]}]}]


@pytest.mark.parametrize("key", ["destination.port", "destination.ip"])
def test_conditions_about_the_destination_are_about_the_service(key: str) -> None:
    value = {"destination.port": "80", "destination.ip": "10.0.0.1"}[key]
    when = {"rules": [{"when": [{"key": key, "values": [value]}]}]}
    assert rules(world(policy(**when))) == []
    assert rules(world(policy(action="DENY", **when))) == [{}]


def test_of_two_services_each_has_its_own() -> None:
    other = service(name="other", selector={"app": "web"})
    model = world(policy(WEB, {"kind": "Service", "name": "other"}, **MATCHED), other)
    assert named(model) == ["shop/p@other", "shop/p@web"]


def test_it_goes_with_the_waypoint_and_comes_back() -> None:
    using = service({names.USE_WAYPOINT_LABEL: "waypoint"})
    model = world(policy(**ADMIN), using)
    assert named(model) == ["shop/p@web"], "the waypoint is not there"
    put(model, waypoint())
    model.flush()
    assert named(model) == []
    assert not [name for name in model.all(names.AUTHORIZATION_TYPE) if "@" in name]
    remove(model, waypoint())
    model.flush()
    assert named(model) == ["shop/p@web"]


@pytest.mark.parametrize("gone", [policy(**ADMIN), service()])
def test_without_its_service_or_policy_nothing_is_left(gone: base.Object) -> None:
    model = world(policy(**ADMIN))
    remove(model, gone)
    model.flush()
    assert named(model) == []
    assert not [name for name in model.all(names.AUTHORIZATION_TYPE) if "@" in name]


@pytest.mark.parametrize(
    "other",
    [
        policy(action="AUDIT", **ADMIN),
        policy(action="CUSTOM", provider={"name": "x"}, **ADMIN),
        policy(annotations={names.DRY_RUN_ANNOTATION: "true"}, **ADMIN),
        policy({"kind": "Gateway", "group": "gateway.networking.k8s.io", "name": "web"}, **ADMIN),
        policy({"kind": "Service", "name": "web", "namespace": "dev"}, **ADMIN),
    ],
)
def test_others_have_no_effect_at_layer_4(other: security.AuthorizationPolicy) -> None:
    assert named(world(other)) == []


def test_a_service_whose_automatic_waypoint_starts_is_not_cut_off() -> None:
    mesh = MeshContext(automatic_waypoints=True)
    assert named(world(policy(**ADMIN), mesh=mesh)) == []


def test_a_workload_entry_of_the_service_has_it_too() -> None:
    metadata = {"name": "vm", "namespace": "shop"}
    item = {"metadata": metadata, "spec": {"address": "10.0.0.9", "labels": {"app": "web"}}}
    model = world(policy(**MATCHED), base.read(networking.WorkloadEntry, item))
    [uid] = [name for name in model.all(names.ADDRESS_TYPE) if "WorkloadEntry" in name]
    assert named(model, uid) == ["shop/p@web"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (policy(**MATCHED), "Service shop/web uses no waypoint, so layer 4 enforces this at its pods"),
        (
            policy(action="DENY", **ADMIN),
            "Service shop/web uses no waypoint, so layer 4 enforces this at its pods: "
            "spec.rules[0].to[0].operation.paths needs a waypoint (layer 7); "
            "spec.rules[0] denies every connection without a waypoint",
        ),
        (
            policy(action="CUSTOM", provider={"name": "x"}, **ADMIN),
            "Service shop/web uses no waypoint, so this has no effect there",
        ),
    ],
)
def test_the_condition_says_what_is_enforced(given: security.AuthorizationPolicy, message: str) -> None:
    model = create(MeshContext())
    outcomes = Outcomes(layer7.create(model))
    put(model, service(), pod(), given)
    model.flush()
    found = outcomes.by_kind[kinds.AUTHORIZATION_POLICY].find(given.key)
    assert found is not None
    [condition] = found.conditions
    assert (condition.accepted, condition.reason, condition.message) == (False, "AncestorNotBound", message)
