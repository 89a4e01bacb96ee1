"""TCPRoutes and TLSRoutes: their conditions, by parent."""

from typing import Any

import pytest

from controlplane.ambient.model import create
from controlplane.envoy import layer7
from controlplane.inputs.mesh import MeshContext
from controlplane.status.route_parents import RouteParents
from meshapi.errors import InvalidResource
from meshapi.resources import base
from meshapi.resources.core import Namespace, Service
from meshapi.resources.gateway import Gateway
from meshapi.resources.gateway_routes import TCPRoute, TLSRoute
from meshapi.resources.networking import ServiceEntry
from tests.support import kubernetes_objects as objects

Json = dict[str, Any]
MODELS = {"TCPRoute": TCPRoute, "TLSRoute": TLSRoute}
PORTS = [{"name": "http", "port": 80}, {"name": "tcp", "port": 9000}, {"name": "tls", "port": 9443}]
ENTRY = {"group": "networking.istio.io", "kind": "ServiceEntry", "name": "db"}


def parent(**more: Any) -> Json:
    return {"group": "", "kind": "Service", "name": "web", **more}


class Plane:
    """The conditions of routes beside a service, a ServiceEntry and a waypoint."""

    def __init__(self) -> None:
        self.model = create(MeshContext())
        self.parents = RouteParents(layer7.create(self.model))
        labels = {"istio.io/use-waypoint": "waypoint"}
        self.model.inputs.namespaces.set(
            ("", "shop"), base.read(Namespace, {"metadata": {"name": "shop", "labels": labels}})
        )
        self.put(Gateway, objects.gateway("waypoint", addresses=objects.hostname_of("waypoint")))
        self.put(Service, objects.service("web", ports=PORTS))
        entry = objects.service_entry(
            "db", hosts=["db.example"], ports=[{"number": 9000, "name": "t", "protocol": "TCP"}]
        )
        self.put(ServiceEntry, entry)

    def put(self, model: type[base.Object], item: Json) -> None:
        found = base.read(model, item)
        self.model.inputs.of(type(found)).set(found.key, found)

    def route(self, kind: str, spec: Json, *, name: str = "r", created: str = "2026-01-01T00:00:00Z") -> None:
        metadata = {"name": name, "namespace": "shop", "creationTimestamp": created}
        spec = {"hostnames": ["a.example"], "rules": [{"backendRefs": [{"name": "web", "port": 9000}]}], **spec}
        self.put(MODELS[kind], {"metadata": metadata, "spec": spec})

    def conditions(self, kind: str, name: str = "r") -> dict[str, tuple[str, str, str]]:
        self.model.flush()
        entries = self.parents.by_kind[kind].find(("shop", name)) or ()
        [entry] = entries
        return {one["type"]: (one["status"], one["reason"], one["message"]) for one in entry["conditions"]}


@pytest.mark.parametrize("kind", ["TCPRoute", "TLSRoute"])
@pytest.mark.parametrize("at", [parent(), parent(port=9000), parent(sectionName="tls"), ENTRY, {**ENTRY, "port": 9000}])
def test_a_route_is_accepted_at(kind: str, at: Json) -> None:
    plane = Plane()
    plane.route(kind, {"parentRefs": [at]})
    assert plane.conditions(kind)["Accepted"] == ("True", "Accepted", "the route is accepted")
    assert plane.conditions(kind)["ResolvedRefs"][:2] == ("True", "ResolvedRefs")


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (parent(name="nowhere"), "service shop/nowhere does not exist"),
        (parent(port=1), "port 1 of service shop/web does not exist"),
        (parent(sectionName="none"), "port none of service shop/web does not exist"),
        (parent(port=9000, sectionName="tls"), "port 9000 of service shop/web does not exist"),
        (parent(port=80), "speaks nothing that such a route is for on its ports: 80 (HTTP)"),
        ({**ENTRY, "name": "nowhere"}, "ServiceEntry shop/nowhere does not exist"),
    ],
)
def test_a_route_is_not_accepted_at(at: Json, message: str) -> None:
    plane = Plane()
    plane.route("TCPRoute", {"parentRefs": [at]})
    status, reason, found = plane.conditions("TCPRoute")["Accepted"]
    assert (status, reason) == ("False", "NoMatchingParent")
    assert message in found


@pytest.mark.parametrize(
    ("backend", "reason", "message"),
    [
        ({"name": "nowhere", "port": 1}, "BackendNotFound", "service shop/nowhere with port 1"),
        ({"name": "web", "namespace": "far", "port": 9000}, "RefNotPermitted", "no ReferenceGrant"),
        ({"name": "x", "kind": "Bucket", "group": "example.com"}, "InvalidKind", "example.com/Bucket is no kind"),
        (
            {"name": "no.example", "kind": "Hostname", "group": "networking.istio.io", "port": 9000},
            "BackendNotFound",
            "no ServiceEntry has the host no.example with port 9000",
        ),
    ],
)
def test_a_backend_that_cannot_be_resolved_is_named(backend: Json, reason: str, message: str) -> None:
    plane = Plane()
    plane.route("TLSRoute", {"parentRefs": [parent()], "rules": [{"backendRefs": [backend]}]})
    found = plane.conditions("TLSRoute")["ResolvedRefs"]
    assert found[:2] == ("False", reason)
    assert message in found[2]


def test_a_younger_route_for_the_same_connections_says_that_it_does_nothing() -> None:
    plane = Plane()
    plane.route("TCPRoute", {"parentRefs": [parent(port=9000)]})
    plane.route("TCPRoute", {"parentRefs": [parent()]}, name="old", created="2025-01-01T00:00:00Z")
    message = "TCPRoute shop/old is older and takes all connections"
    assert plane.conditions("TCPRoute")["WaypointAccepted"] == ("False", "Overridden", message)
    assert plane.conditions("TCPRoute", "old")["WaypointAccepted"][:2] == ("True", "Accepted")


def test_a_service_without_a_waypoint_is_told() -> None:
    plane = Plane()
    plane.model.inputs.namespaces.set(("", "shop"), base.read(Namespace, {"metadata": {"name": "shop"}}))
    plane.route("TCPRoute", {"parentRefs": [ENTRY]})
    status, reason, message = plane.conditions("TCPRoute")["WaypointAccepted"]
    assert (status, reason) == ("False", "AncestorNotBound")
    assert "ServiceEntry shop/db uses no waypoint" in message


def test_a_route_waits_for_its_waypoint() -> None:
    plane = Plane()
    plane.put(Gateway, objects.gateway("waypoint"))
    plane.route("TCPRoute", {"parentRefs": [ENTRY]})
    assert plane.conditions("TCPRoute")["Accepted"][:2] == ("True", "Accepted")
    message = "waypoint shop/waypoint is not ready, so the route has no effect yet"
    assert plane.conditions("TCPRoute")["WaypointAccepted"] == ("False", "WaypointIsNotReady", message)
    plane.put(Gateway, objects.gateway("waypoint", addresses=objects.hostname_of("waypoint")))
    assert plane.conditions("TCPRoute")["WaypointAccepted"] == (
        "True",
        "Accepted",
        "in force at waypoint shop/waypoint",
    )


@pytest.mark.parametrize("spec", [{"rules": "x"}, {"rules": [{"backendRefs": [{"port": 1}]}]}, {"hostnames": "x"}, {}])
def test_a_route_of_the_wrong_types_is_refused(spec: Any) -> None:
    with pytest.raises(InvalidResource, match="spec"):
        base.read(TLSRoute, {"metadata": {"name": "r", "namespace": "shop"}, "spec": spec})
