"""``status.parents`` of routes: our entries, beside those of others, written once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from controlplane.ambient.model import create
from controlplane.envoy import layer7
from controlplane.inputs.mesh import MeshContext
from controlplane.status.route_parents import RouteParents
from controlplane.status.shared_lists import SharedListWriter
from meshapi import names
from meshapi.resources import base
from meshapi.resources.core import Service
from meshapi.resources.gateway_routes import HTTPRoute
from meshkit import kube
from tests.support import kubernetes_objects as objects
from tests.support.fake_kubernetes import FakeKubernetes
from tests.support.waiting import until

Json = dict[str, Any]
OTHER = {"parentRef": {"name": "edge"}, "controllerName": "example.com/other", "conditions": []}
PARENT = {"group": "", "kind": "Service", "name": "web", "port": 80}


def route(*backends: str, generation: int = 1) -> Json:
    return {
        "metadata": {"name": "r", "namespace": "shop", "generation": generation},
        "spec": {
            "parentRefs": [PARENT],
            "rules": [{"backendRefs": [{"name": name, "port": 80} for name in backends]}],
        },
    }


class Plane:
    """A graph with its writer, over a Kubernetes API."""

    def __init__(self, api: FakeKubernetes, client: kube.Client) -> None:
        self.api = api
        self.model = create(MeshContext())
        parents = RouteParents(layer7.create(self.model))
        self._synced = asyncio.Event()
        self._synced.set()
        self.writer = SharedListWriter(client, parents.lists, self._synced)
        web = objects.service("web", ports=[{"name": "http", "port": 80}])
        self._set(base.read(Service, web))

    def put(self, item: Json) -> None:
        held = self.api.get("httproutes", "r", "shop") or {}
        self.api.put("httproutes", {**item, "status": held.get("status", {"parents": [OTHER]})}, "shop")
        self._set(base.read(HTTPRoute, item))
        self.model.flush()

    def _set(self, item: base.Object) -> None:
        self.model.inputs.of(type(item)).set(item.key, item)

    def entries(self) -> list[Json]:
        status = (self.api.get("httproutes", "r", "shop") or {}).get("status") or {}
        return list(status.get("parents") or ())

    def ours(self) -> dict[str, tuple[str, str]]:
        found = [one for one in self.entries() if one["controllerName"] == names.WAYPOINT_CONTROLLER]
        return {one["type"]: (one["status"], one["reason"]) for entry in found for one in entry["conditions"]}


@contextlib.asynccontextmanager
async def leading() -> AsyncIterator[Plane]:
    async with FakeKubernetes() as api, kube.Client(kube.explicit(api.url)) as client:
        plane = Plane(api, client)
        writing = asyncio.create_task(plane.writer.run())
        yield plane
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)


async def test_a_route_says_whether_it_is_accepted_and_resolved_and_leaves_others_entries() -> None:
    async with leading() as plane:
        plane.put(route("web"))
        await until(plane.ours)
        assert plane.ours() == {
            "Accepted": ("True", "Accepted"),
            "ResolvedRefs": ("True", "ResolvedRefs"),
            "WaypointAccepted": ("False", "AncestorNotBound"),
        }
        [other, mine] = plane.entries()
        assert other == OTHER
        assert mine["parentRef"] == PARENT
        assert {one["observedGeneration"] for one in mine["conditions"]} == {1}
        assert "uses no waypoint, so the route has no effect yet" in mine["conditions"][2]["message"]


async def test_a_backend_that_does_not_exist_is_named_and_times_of_what_stays_do_not_change() -> None:
    async with leading() as plane:
        plane.put(route("web"))
        await until(plane.ours)
        [accepted, *_] = plane.entries()[1]["conditions"]
        plane.put(route("nowhere", generation=2))
        await until(lambda: plane.ours().get("ResolvedRefs") == ("False", "BackendNotFound"))
        conditions = plane.entries()[1]["conditions"]
        assert "shop/nowhere" in conditions[1]["message"]
        assert conditions[0]["lastTransitionTime"] == accepted["lastTransitionTime"]


async def test_a_status_that_is_right_is_not_written_again() -> None:
    async with leading() as plane:
        plane.put(route("web"))
        await until(plane.ours)
        written = sum(request.startswith("PATCH") for request in plane.api.requests)
        plane.put(route("web"))
        plane.put(route("web", "web"))
        plane.put(route("web"))
        await asyncio.sleep(0.1)
        assert sum(request.startswith("PATCH") for request in plane.api.requests) == written
