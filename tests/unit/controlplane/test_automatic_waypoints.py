"""Waypoints that come to be where a service needs one, and go when none does."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from controlplane.ambient.model import Model, create
from controlplane.envoy import layer7
from controlplane.graph.derived import Derived
from controlplane.inputs.mesh import MeshContext
from controlplane.proxies.automatic import AutomaticWaypoints
from controlplane.stages import CONDITIONS
from controlplane.status.layer7 import Layer7Conditions
from controlplane.waypoints.attachment import Attachment
from meshapi import names
from meshapi.analysis.enrolment import EnrolmentRules
from meshapi.resources import base, core, gateway, gateway_routes, networking
from meshapi.resources.backend_policies import BackendTLSPolicy, XBackendTrafficPolicy
from meshapi.resources.destination_rule import DestinationRule
from meshapi.resources.envoy_filter import EnvoyFilter
from meshapi.resources.request_authentication import RequestAuthentication
from meshapi.resources.security import AuthorizationPolicy
from meshapi.resources.telemetry import Telemetry
from meshapi.resources.virtual_service import VirtualService
from meshkit import kube
from tests.support import kubernetes_objects as objects
from tests.support.ambient_model import put, remove
from tests.support.fake_kubernetes import FakeKubernetes, Json
from tests.support.waiting import until

NAME = names.AUTOMATIC_WAYPOINT
USE = names.USE_WAYPOINT_LABEL
AMBIENT = {names.DATAPLANE_MODE_LABEL: "ambient"}
INJECTED = {names.INJECTION_LABEL: "enabled"}
AUTOMATIC = MeshContext(automatic_waypoints=True)
ROUTE = {"route": [{"destination": {"host": "web"}}]}


def item(model: type[base.Object], namespace: str = "shop", **spec: Any) -> base.Object:
    return base.read(model, {"metadata": {"name": "x", "namespace": namespace}, "spec": spec})


def routed(host: str = "web", namespace: str = "shop", **spec: Any) -> base.Object:
    return item(VirtualService, namespace, hosts=[host], http=[ROUTE], **spec)


def attached(
    group: str = "",
    kind: str = "Service",
    name: str = "web",
    model: type[base.Object] = gateway_routes.HTTPRoute,
    **more: str,
) -> base.Object:
    parents = [{"group": group, "kind": kind, "name": name, **more}]
    return item(model, parentRefs=parents, rules=[{"backendRefs": [{"name": "web", "port": 80}]}])


def targeting(model: type[base.Object], kind: str = "Service", name: str = "web", **spec: Any) -> base.Object:
    group = "networking.istio.io" if kind == "ServiceEntry" else ""
    return item(model, targetRefs=[{"group": group, "kind": kind, "name": name}], **spec)


def service(labels: dict[str, str] | None = None, **spec: Any) -> core.Service:
    found = objects.service("web", ports=[{"port": 80}], **spec)
    found["metadata"]["labels"] = labels or {}
    return base.read(core.Service, found)


def entry() -> networking.ServiceEntry:
    ports = [{"number": 80, "name": "http", "protocol": "HTTP"}]
    found = objects.service_entry("out", hosts=["out.test"], ports=ports, resolution="DNS")
    return base.read(networking.ServiceEntry, found)


def label(model: Model, labels: dict[str, str]) -> None:
    found = base.read(core.Namespace, objects.namespace("shop", labels))
    model.inputs.namespaces.set(found.key, found)


def world(*items: base.Object, mesh: MeshContext = AUTOMATIC, shop: dict[str, str] = AMBIENT) -> Model:
    model = create(mesh)
    label(model, shop)
    put(model, service(), entry(), *items)
    model.flush()
    return model


@pytest.mark.parametrize(
    ("needed", "reason"),
    [
        (routed(), "VirtualService shop/x"),
        (routed("web.shop.svc.cluster.local"), "VirtualService shop/x"),
        (routed("*.local"), "VirtualService shop/x"),
        (routed(gateways=["edge", "mesh"]), "VirtualService shop/x"),
        (item(DestinationRule, host="Web."), "DestinationRule shop/x"),
        (attached(), "HTTPRoute shop/x"),
        (attached(group="core"), "HTTPRoute shop/x"),
        (attached(model=gateway_routes.TCPRoute), "TCPRoute shop/x"),
        (attached(model=gateway_routes.TLSRoute), "TLSRoute shop/x"),
        (targeting(EnvoyFilter, configPatches=[]), "EnvoyFilter shop/x"),
        (targeting(BackendTLSPolicy, validation={"hostname": "web.test"}), "BackendTLSPolicy shop/x"),
        (targeting(XBackendTrafficPolicy), "XBackendTrafficPolicy shop/x"),
        (targeting(AuthorizationPolicy), "AuthorizationPolicy shop/x"),
        (targeting(RequestAuthentication), "RequestAuthentication shop/x"),
        (targeting(Telemetry), "Telemetry shop/x"),
    ],
)
def test_a_service_that_something_of_layer_7_is_meant_for_needs_a_waypoint(needed: base.Object, reason: str) -> None:
    assert world(needed).waypoints.needs.reasons("shop") == [reason]


@pytest.mark.parametrize(
    "other",
    [
        routed("webshop"),
        routed(gateways=["edge"]),
        routed("web.shop.svc.cluster.local", namespace="dev"),
        item(DestinationRule, host="other"),
        attached(kind="Gateway", group="gateway.networking.k8s.io"),
        attached(name="other"),
        attached(namespace="dev"),
        targeting(AuthorizationPolicy, name="other"),
        item(AuthorizationPolicy, selector={"matchLabels": {"app": "web"}}),
        item(AuthorizationPolicy),
    ],
)
def test_what_is_meant_for_others_is_no_need(other: base.Object) -> None:
    assert world(other).waypoints.needs.reasons("shop") == []


def test_a_host_of_a_service_entry_needs_one_too() -> None:
    assert world(routed("out.test")).waypoints.needs.reasons("shop") == ["VirtualService shop/x"]
    policy = targeting(AuthorizationPolicy, "ServiceEntry", "out")
    assert world(policy).waypoints.needs.entries.find(("shop", "out")) == "AuthorizationPolicy shop/x"


@pytest.mark.parametrize(
    ("mesh", "shop"),
    [
        (MeshContext(), AMBIENT),
        (AUTOMATIC, {}),
        (AUTOMATIC, INJECTED),
        (AUTOMATIC, {**AMBIENT, USE: "none"}),
        (AUTOMATIC, {**AMBIENT, USE: "mine"}),
        (replace(AUTOMATIC, enrolment=EnrolmentRules(frozenset({"shop"}))), AMBIENT),
    ],
    ids=["setting is off", "not enrolled", "injection is ignored", "opted out", "named", "excluded"],
)
def test_there_are_none_where_they_are_not_wanted(mesh: MeshContext, shop: dict[str, str]) -> None:
    model = world(routed(), mesh=mesh, shop=shop)
    assert model.waypoints.needs.reasons("shop") == []
    found = model.waypoints.services.find(("shop", "web"))
    assert found is None or found.problem is not None


@pytest.mark.parametrize("labels", [{USE: "none"}, {USE: "mine"}])
def test_a_services_own_label_counts_alone(labels: dict[str, str]) -> None:
    assert world(routed(), service(labels)).waypoints.needs.reasons("shop") == []


def test_an_external_name_has_no_address_that_a_waypoint_could_stand_for() -> None:
    assert world(routed(), service(type="ExternalName")).waypoints.needs.reasons("shop") == []


def test_istios_label_for_sidecars_enrols_where_the_installation_says_so() -> None:
    rules = EnrolmentRules(injection_enrols=True)
    model = world(routed(), mesh=replace(AUTOMATIC, enrolment=rules), shop=INJECTED)
    assert model.waypoints.needs.reasons("shop") == ["VirtualService shop/x"]


def test_services_in_need_use_the_waypoint_when_it_is_ready_and_leave_it_with_the_need() -> None:
    route = routed()
    model = world(route)
    found = model.waypoints.services.find(("shop", "web"))
    assert found is not None
    assert found.problem is not None
    assert found.problem.reason == "WaypointIsNotReady"
    put(model, base.read(gateway.Gateway, objects.gateway(NAME, addresses=objects.hostname_of(NAME))))
    model.flush()
    assert model.waypoints.services.find(("shop", "web")) == Attachment(("shop", NAME))
    assert model.waypoints.served.find(("shop", "web")) == Attachment(("shop", NAME))
    assert model.waypoints.entries.find(("shop", "out")) is None
    remove(model, route)
    model.flush()
    assert model.waypoints.services.find(("shop", "web")) is None


class Cluster:
    """An API server with a leader; what it stores reaches the leader's graph."""

    def __init__(self, api: FakeKubernetes, model: Model) -> None:
        self.api = api
        self.model = model
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def held(self) -> Json | None:
        return self.api.get("gateways", NAME, "shop")

    def unneeded_since(self) -> str | None:
        found = self.held() or {"metadata": {}}
        return (found["metadata"].get("annotations") or {}).get(names.UNNEEDED_SINCE_ANNOTATION)

    def see(self) -> None:
        """Bring the Gateway as it is stored into the graph."""
        found = self.held()
        read = None if found is None else base.read(gateway.Gateway, found)
        self.model.inputs.of(gateway.Gateway).set(("shop", NAME), read)
        self.model.flush()


@contextlib.asynccontextmanager
async def leading(*items: base.Object, retention_s: float = 600.0) -> AsyncIterator[Cluster]:
    model = world(*items)
    async with FakeKubernetes() as api, kube.Client(kube.explicit(api.url)) as client:
        found = Cluster(api, model)
        automatic = AutomaticWaypoints(
            client,
            model.inputs.of(gateway.Gateway),
            model.waypoints.needs,
            retention_s=retention_s,
            now=lambda: found.now,
        )
        running = asyncio.create_task(automatic.run())
        try:
            yield found
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running


async def test_a_gateway_is_made_kept_for_a_while_and_removed() -> None:
    route = routed()
    async with leading(route) as cluster:
        await until(cluster.held)
        cluster.see()
        made = dict(cluster.held() or {})
        assert made["metadata"]["labels"][names.WAYPOINT_FOR_LABEL] == "service"
        assert made["metadata"]["labels"][names.AUTOMATIC_WAYPOINT_LABEL] == "true"
        assert made["spec"]["gatewayClassName"] == "istio-waypoint"
        remove(cluster.model, route)
        cluster.model.flush()
        await until(cluster.unneeded_since)
        assert cluster.unneeded_since() == "2026-01-01T00:00:00Z"
        cluster.see()
        cluster.now += timedelta(seconds=599)
        put(cluster.model, route)
        cluster.model.flush()
        await until(lambda: cluster.unneeded_since() is None)
        cluster.see()
        remove(cluster.model, route)
        cluster.model.flush()
        await until(cluster.unneeded_since)
        cluster.now += timedelta(seconds=600)
        cluster.see()
        await until(lambda: cluster.held() is None)


async def test_a_new_leader_removes_what_the_last_one_found_unneeded() -> None:
    async with leading(retention_s=0.05) as cluster:
        made = objects.gateway(
            NAME,
            labels={names.AUTOMATIC_WAYPOINT_LABEL: "true"},
            annotations={names.UNNEEDED_SINCE_ANNOTATION: "2026-01-01T00:00:00Z"},
        )
        cluster.api.put("gateways", made, "shop")
        cluster.see()
        cluster.now += timedelta(seconds=1)
        await until(lambda: cluster.held() is None)


async def test_a_users_gateway_of_the_name_is_left_alone() -> None:
    route = routed()
    async with leading() as cluster:
        mine = objects.gateway(NAME)
        cluster.api.put("gateways", mine, "shop")
        cluster.see()
        put(cluster.model, route)
        cluster.model.flush()
        remove(cluster.model, route)
        other = objects.service("other", "dev", ports=[{"port": 80}])
        found = base.read(core.Namespace, objects.namespace("dev", AMBIENT))
        cluster.model.inputs.namespaces.set(found.key, found)
        put(cluster.model, base.read(core.Service, other), routed("other", "dev"))
        cluster.model.flush()
        await until(lambda: cluster.api.get("gateways", NAME, "dev"))
        assert cluster.held() == mine


def test_a_route_is_not_in_force_before_its_waypoint_is_ready() -> None:
    model = create(AUTOMATIC)
    conditions = Layer7Conditions(layer7.create(model))
    said = Derived(
        model.graph, "said", model.inputs.of(VirtualService), CONDITIONS, conditions.of_virtual_service
    )  # fmt: skip
    label(model, AMBIENT)
    put(model, service(), routed(), base.read(gateway.Gateway, objects.gateway(NAME)))
    model.flush()
    found = said.find(("shop", "x"))
    assert found is not None
    assert (found.accepted, found.reason) == (False, "WaypointIsNotReady")
    put(model, base.read(gateway.Gateway, objects.gateway(NAME, addresses=objects.hostname_of(NAME))))
    model.flush()
    found = said.find(("shop", "x"))
    assert found is not None
    assert (found.accepted, found.message) == (True, f"in force at waypoint shop/{NAME}")
