"""``status.parents`` of routes: what became of a route at each of its parents in the mesh.

Source: Gateway API v1, ``RouteParentStatus``. The list is one value to the API server, and several controllers write to
it: entries of others are kept, and a write that another one has overtaken is made again.
"""

import asyncio
import functools
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

from controlplane.envoy.layer7 import Layer7
from controlplane.graph.collection import Collection
from controlplane.graph.derived import Derived, Fetch
from controlplane.routing.gateway_collections import MODELS
from controlplane.routing.route_references import Attachment, RouteRules, Verdict
from controlplane.stages import CONDITIONS
from controlplane.workqueue import WorkQueue
from meshapi import names
from meshapi.resources import base
from meshkit.kube import Client, Json, Key, Kind, PatchType, kinds, transitions

_KINDS: Final[dict[str, Kind]] = {
    kind.name: kind for kind in (kinds.HTTP_ROUTE, kinds.GRPC_ROUTE, kinds.TCP_ROUTE, kinds.TLS_ROUTE)
}


class RouteParents:
    """The entries that routes shall have.

    Attributes:
        by_kind: by kind, the entries of each route, without times.
    """

    def __init__(self, layer7: Layer7) -> None:
        self._layer7 = layer7
        self.by_kind: dict[str, Collection[Key, tuple[Json, ...]]] = {
            name: Derived(
                layer7.model.graph,
                f"parents of {kind.plural}",
                layer7.model.inputs.of(MODELS[name]),
                CONDITIONS,
                functools.partial(self._parents, name),
            )
            for name, kind in _KINDS.items()
        }

    def _parents(self, kind: str, route: base.Object, fetch: Fetch) -> tuple[Json, ...] | None:
        made = fetch.find(self._layer7.routing.gateway.by_kind[kind], route.key)
        if made is None:
            return None
        return tuple(self._entry(route, made, one, fetch) for one in made.attachments) or None

    def _entry(self, route: base.Object, made: RouteRules, one: Attachment, fetch: Fetch) -> Json:
        accepted = one.accepted
        if accepted.is_true and (hint := self._without_effect(made, one, fetch)):
            accepted = Verdict(True, accepted.reason, f"{accepted.message}; {hint}")
        generation = route.metadata.generation
        return {
            "parentRef": one.parent.model_dump(by_alias=True, exclude_unset=True),
            "controllerName": names.WAYPOINT_CONTROLLER,
            "conditions": [
                _condition("Accepted", accepted, generation),
                _condition("ResolvedRefs", made.resolved, generation),
            ],
        }

    def _without_effect(self, made: RouteRules, one: Attachment, fetch: Fetch) -> str:
        """Return why an accepted route does nothing; empty: it does."""
        waypoints = self._layer7.model.waypoints
        of_parent = waypoints.of_entry if one.kind == "ServiceEntry" else waypoints.of_service
        if of_parent(one.service, fetch) is None:
            shown = "service" if one.kind == "Service" else one.kind
            return f"{shown} {'/'.join(one.service)} uses no waypoint, so the route has no effect yet"
        rival = self._layer7.routing.gateway.rival(made, one, fetch)
        return "" if rival is None else f"TCPRoute {'/'.join(rival)} is older and takes all connections"


class RouteParentsWriter:
    """Writes the entries. Run ``run`` as a task while this replica leads.

    Args:
        client: an open client.
        parents: the entries that routes shall have.
        synced: waits until they are complete.
        clock: the present time.
    """

    def __init__(
        self,
        client: Client,
        parents: RouteParents,
        synced: asyncio.Event,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client
        self._parents = parents
        self._synced = synced
        self._clock = clock
        self._queue: WorkQueue[tuple[str, Key]] = WorkQueue("status of a route")
        for kind, collection in parents.by_kind.items():
            collection.add_handler(functools.partial(self._changed, kind))

    async def run(self) -> NoReturn:
        """Write what differs until cancelled."""
        await self._synced.wait()
        for kind, collection in self._parents.by_kind.items():
            present = collection.keys()
            for key in present:
                self._queue.add((kind, key))
        await self._queue.run(self._reconcile)

    def _changed(self, kind: str, key: Key, _: Any, __: Any) -> None:
        self._queue.add((kind, key))

    async def _reconcile(self, name: tuple[str, Key]) -> None:
        kind, (namespace, route) = _KINDS[name[0]], name[1]
        item = await self._client.find(kind, route, namespace)
        if item is None:
            return
        present = (item.get("status") or {}).get("parents") or []
        ours = [one for one in present if one.get("controllerName") == names.WAYPOINT_CONTROLLER]
        wanted = self._parents.by_kind[name[0]].find(name[1]) or ()
        if _comparable(ours) == _comparable(wanted):
            return
        others = [one for one in present if one.get("controllerName") != names.WAYPOINT_CONTROLLER]
        timed = [self._timed(one, ours) for one in wanted]
        # With the version that was read: the server refuses the write if another controller has changed the list since.
        metadata = {"resourceVersion": item["metadata"]["resourceVersion"]}
        body: Json = {"metadata": metadata, "status": {"parents": [*others, *timed]}}
        await self._client.patch(kind, route, body, namespace, patch_type=PatchType.MERGE, subresource="status")

    def _timed(self, wanted: Json, present: Iterable[Json]) -> Json:
        """Return an entry with times: those of conditions that stay what they are do not change."""
        now = transitions.stamp(self._clock())
        held = next((one for one in present if one.get("parentRef") == wanted["parentRef"]), {})
        return {**wanted, "conditions": transitions.timed(wanted["conditions"], held.get("conditions") or (), now)}


def _condition(kind: str, verdict: Verdict, generation: int) -> Json:
    return transitions.condition(kind, verdict.is_true, verdict.reason, verdict.message, generation)


def _comparable(entries: Iterable[Json]) -> list[Json]:
    return [{**entry, "conditions": transitions.without_times(entry.get("conditions") or ())} for entry in entries]
