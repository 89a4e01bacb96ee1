"""``status.parents`` of routes: what became of a route at each of its parents, in the mesh and at the edge.

Source: Gateway API v1, ``RouteParentStatus``.
"""

import functools
from typing import Final

from controlplane.envoy.layer7 import Layer7
from controlplane.graph.collection import Collection
from controlplane.graph.derived import Derived, Fetch
from controlplane.inputs.verdicts import Verdict
from controlplane.routing.gateway_collections import MODELS
from controlplane.routing.route_references import Attachment, RouteRules
from controlplane.stages import CONDITIONS
from controlplane.status.conditions import ACCEPTED, NOT_BOUND, NOT_READY, OVERRIDDEN, WAYPOINT_ACCEPTED
from controlplane.status.shared_lists import SharedList, condition
from meshapi import names
from meshapi.resources import base
from meshapi.resources.gateway_routes import ParentReference
from meshkit.kube import Json, Key, Kind, kinds

_KINDS: Final[dict[str, Kind]] = {
    kind.name: kind for kind in (kinds.HTTP_ROUTE, kinds.GRPC_ROUTE, kinds.TCP_ROUTE, kinds.TLS_ROUTE, kinds.UDP_ROUTE)
}


class RouteParents:
    """The entries that routes shall have.

    Attributes:
        by_kind: by kind, the entries of each route, without times.
        lists: the same, as they are written.
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
        self.lists = tuple(
            SharedList(_KINDS[name], entries, "parents", "parentRef") for name, entries in self.by_kind.items()
        )

    def _parents(self, kind: str, route: base.Object, fetch: Fetch) -> tuple[Json, ...] | None:
        made = fetch.find(self._layer7.routing.gateway.by_kind[kind], route.key)
        if made is None:
            return None
        in_mesh = (self._entry(route, made, one, fetch) for one in made.attachments)
        at_edge = (_entry(route, made, one.parent, names.GATEWAY_CONTROLLER, one.accepted) for one in made.edges)
        return (*in_mesh, *at_edge) or None

    def _entry(self, route: base.Object, made: RouteRules, one: Attachment, fetch: Fetch) -> Json:
        entry = _entry(route, made, one.parent, names.WAYPOINT_CONTROLLER, one.accepted)
        if one.accepted.is_true:
            in_force = self._in_force(made, one, fetch)
            entry["conditions"].append(condition(WAYPOINT_ACCEPTED, in_force, route.metadata.generation))
        return entry

    def _in_force(self, made: RouteRules, one: Attachment, fetch: Fetch) -> Verdict:
        """Return whether a waypoint serves an accepted route; ``Accepted`` says nothing of that."""
        waypoints = self._layer7.model.waypoints
        of_parent = waypoints.of_entry if one.kind == "ServiceEntry" else waypoints.of_service
        waypoint = of_parent(one.service, fetch)
        if waypoint is None:
            if starting := waypoints.serving(one.kind, one.service, fetch):
                waiting = f"waypoint {starting.name} is not ready, so the route has no effect yet"
                return Verdict(False, NOT_READY, waiting)
            shown = f"{one.kind} {'/'.join(one.service)}"
            return Verdict(False, NOT_BOUND, f"{shown} uses no waypoint, so the route has no effect yet")
        rival = self._layer7.routing.gateway.rival(made, one, fetch)
        if rival is not None:
            return Verdict(False, OVERRIDDEN, f"TCPRoute {'/'.join(rival)} is older and takes all connections")
        return Verdict(True, ACCEPTED, f"in force at waypoint {waypoint.name}")


def _entry(route: base.Object, made: RouteRules, parent: ParentReference, controller: str, accepted: Verdict) -> Json:
    generation = route.metadata.generation
    return {
        "parentRef": parent.model_dump(by_alias=True, exclude_unset=True),
        "controllerName": controller,
        "conditions": [
            condition("Accepted", accepted, generation),
            condition("ResolvedRefs", made.resolved, generation),
        ],
    }
