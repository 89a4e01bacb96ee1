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
        accepted = one.accepted
        if accepted.is_true and (hint := self._without_effect(made, one, fetch)):
            accepted = Verdict(True, accepted.reason, f"{accepted.message}; {hint}")
        return _entry(route, made, one.parent, names.WAYPOINT_CONTROLLER, accepted)

    def _without_effect(self, made: RouteRules, one: Attachment, fetch: Fetch) -> str:
        """Return why an accepted route does nothing; empty: it does."""
        waypoints = self._layer7.model.waypoints
        of_parent = waypoints.of_entry if one.kind == "ServiceEntry" else waypoints.of_service
        if of_parent(one.service, fetch) is None:
            shown = "service" if one.kind == "Service" else one.kind
            return f"{shown} {'/'.join(one.service)} uses no waypoint, so the route has no effect yet"
        rival = self._layer7.routing.gateway.rival(made, one, fetch)
        return "" if rival is None else f"TCPRoute {'/'.join(rival)} is older and takes all connections"


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
