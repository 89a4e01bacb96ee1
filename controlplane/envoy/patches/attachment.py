"""Which EnvoyFilters count where, as collections.

One is for what its ``targetRefs`` name: a Gateway is the whole waypoint, GatewayClass ``istio-waypoint`` in the root
namespace all waypoints. With a Service or a ServiceEntry, it is for what the waypoint has for this one: its filter
chains, routes and clusters, and what is added beside them. (In Istio it is for everything else of that waypoint, too.)

One that selects pods by labels, or names nothing, is for the pods of Gateways of Istio's API: those of its namespace,
and in the root namespace those of all.

They count in the order of their ``priority``, then those of the root namespace, then the oldest first.
"""

from collections.abc import Iterable

from controlplane.envoy.patches.patch import Patch, Patching
from controlplane.envoy.patches.reading import Reading, read
from controlplane.gateways.collections import Gateways
from controlplane.graph.collection import Collection
from controlplane.graph.derived import Derived, Fetch
from controlplane.graph.lookups import Index, SelectorIndex
from controlplane.graph.scheduler import Graph
from controlplane.inputs.sources import Inputs
from controlplane.inputs.targets import Target, targets
from controlplane.routing.policies import targets_of
from controlplane.routing.services import Service
from controlplane.stages import ROUTES
from controlplane.waypoints.collections import Waypoints
from meshapi.resources.envoy_filter import ApplyTo, EnvoyFilter, PatchContext
from meshkit.kube import Key

_SERVICES = ("Service", "ServiceEntry")
_OF_GATEWAYS = frozenset({PatchContext.GATEWAY})
_OF_WAYPOINTS = frozenset({PatchContext.WAYPOINT, PatchContext.SIDECAR_INBOUND, PatchContext.SIDECAR_OUTBOUND})


class EnvoyFilters:
    """The EnvoyFilters of one mesh.

    Args:
        graph: the scheduler.
        inputs: where the objects are.
        waypoints: what uses which waypoint.
        gateways: those at the edge.
        version: of waypoints' proxies, as they report it.

    Attributes:
        readings: what each EnvoyFilter says, by key.
    """

    def __init__(self, graph: Graph, inputs: Inputs, waypoints: Waypoints, gateways: Gateways, version: str) -> None:
        self._gateways = gateways
        self._version = version
        self._mesh = inputs.mesh
        self._waypoints = waypoints
        self.readings: Collection[Key, Reading] = Derived(
            graph, "envoy filters", inputs.of(EnvoyFilter), ROUTES, self._read
        )
        self._by_target: Index[Target, Key, Reading] = Index(self.readings, lambda one: one.targets)
        self._general: Index[str, Key, Reading] = Index(
            self.readings, lambda one: (one.key[0],) if one.selector == frozenset() else ()
        )
        self._selecting: SelectorIndex[Key, Reading] = SelectorIndex(
            self.readings, lambda one: (one.key[0], dict(one.selector)) if one.selector else None
        )
        placed: Collection[Key, tuple[Reading, frozenset[Key]]] = Derived(
            graph, "waypoints of envoy filters", self.readings, ROUTES, self._views
        )
        self._by_view: Index[Key, Key, tuple[Reading, frozenset[Key]]] = Index(placed, lambda one: one[1])

    def _read(self, item: EnvoyFilter, fetch: Fetch) -> Reading:
        named = [key for _, kind, *key in targets(item) if kind == "Gateway"]
        is_edge = any(fetch.find(self._gateways.known, (namespace, name)) is not None for namespace, name in named)
        return read(item, self._version, is_edge=is_edge or not item.spec.target_refs)

    def of(self, service: Service | None, view: Key, fetch: Fetch) -> Patching:
        """Return the patches of what a waypoint has for a service, or (``None``) for none in particular."""
        return self._ordered(self._of_targets(service, view, fetch), view, fetch)

    def of_waypoint(self, view: Key, fetch: Fetch) -> Patching:
        """Return all patches at a waypoint, those for its single services too."""
        of_services = [reading for reading, _ in fetch.members(self._by_view, view)]
        return self._ordered([*self._of_targets(None, view, fetch), *of_services], view, fetch)

    def _of_targets(self, service: Service | None, view: Key, fetch: Fetch) -> list[Reading]:
        root = fetch.setting(self._mesh).root_namespace
        gateway = fetch.find(self._gateways.known, view)
        found = targets_of(service, view, root, is_waypoint=gateway is None)
        named = [one for target in found for one in fetch.members(self._by_target, target)]
        if gateway is None or not gateway.merged:
            return named
        spaces = dict.fromkeys((root, view[0]))
        general = (one for space in spaces for one in fetch.members(self._general, space))
        selecting = (one for space in spaces for one in fetch.matching(self._selecting, space, gateway.labels))
        return [*named, *general, *selecting]

    def _ordered(self, readings: Iterable[Reading], view: Key, fetch: Fetch) -> Patching:
        found = {one.key: one for one in readings}
        root = fetch.setting(self._mesh).root_namespace if found else ""
        ordered = sorted(found.values(), key=lambda one: (one.order[0], one.key[0] != root, *one.order[1:]))
        by_kind: dict[ApplyTo, list[Patch]] = {}
        others = _OF_WAYPOINTS if fetch.find(self._gateways.known, view) is not None else _OF_GATEWAYS
        for patch in (patch for one in ordered for patch in one.patches if patch.match.context not in others):
            by_kind.setdefault(patch.apply_to, []).append(patch)
        return Patching({kind: tuple(patches) for kind, patches in by_kind.items()})

    def _views(self, reading: Reading, fetch: Fetch) -> tuple[Reading, frozenset[Key]]:
        """Return the waypoints of the services that an EnvoyFilter names."""
        found = [
            self._waypoints.serving(kind, (namespace, name), fetch)
            for _, kind, namespace, name in reading.targets
            if kind in _SERVICES
        ]
        return reading, frozenset(one.key for one in found if one is not None)
