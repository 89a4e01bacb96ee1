"""What each waypoint and gateway sees: a snapshot of its own, made of the resources that are placed in its view."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from controlplane.ambient.model import Model
from controlplane.ambient.outputs import Maker, Outputs
from controlplane.envoy.layer7 import Layer7
from controlplane.envoy.placing import TYPES, Placed
from controlplane.gateways import place
from controlplane.graph.derived import Derived
from controlplane.xds.following import Following
from controlplane.xds.snapshot import Snapshot
from meshapi import names
from meshapi.resources.core import Pod, Service
from meshapi.resources.gateway import Gateway
from meshkit.kube import Key
from meshkit.xds.peer import Peer
from meshkit.xds.source import Resource

V = TypeVar("V")


class _World:
    def __init__(self) -> None:
        self.outputs = Outputs(TYPES)
        self.snapshot = Snapshot(TYPES)
        self.is_changed = False


class Worlds:
    """The snapshots of all views."""

    def __init__(self) -> None:
        self._nothing = Snapshot(TYPES)
        self._worlds: dict[Key, _World] = {}
        self._followers: dict[object, Callable[[], None]] = {}

    def add(self, derived: Derived[Any, V], placed: Callable[[V], Iterable[Placed]]) -> None:
        """Take resources from a collection; ``placed`` returns those of a value."""

        def changed(key: Any, old: V | None, new: V | None) -> None:
            before = () if old is None else tuple(placed(old))
            after = () if new is None else tuple(placed(new))
            self._put((derived.name, key), before, after)

        derived.add_handler(changed)

    def view(self, key: Key | None) -> Snapshot:
        """Return what a proxy sees, by the key of its Gateway; nothing for ``None``."""
        return self._nothing if key is None else self._world(key).snapshot

    def following(self, choose: Callable[[], Key | None]) -> Following:
        """Return what a proxy sees whose Gateway may change; ``choose`` returns its key."""
        return Following(lambda: self.view(choose()), self._on_publish, TYPES)

    def _on_publish(self, follower: Callable[[], None]) -> Callable[[], None]:
        token = object()
        self._followers[token] = follower
        return lambda: self._followers.pop(token, None) and None

    def maker(self, key: Key, type_url: str, name: str) -> Maker | None:
        """Return the value that a resource of a view belongs to."""
        world = self._worlds.get(key)
        return None if world is None else world.outputs.maker(type_url, name)

    def publish(self, *, is_settled: bool) -> None:
        """Give out what has changed; ``is_settled``: nothing is left to compute."""
        for world in self._worlds.values():
            if world.is_changed:
                world.is_changed = not is_settled
                if changes := world.outputs.take(is_settled=is_settled):
                    world.snapshot.apply(changes)
        if is_settled:
            for follower in list(self._followers.values()):
                follower()

    def _world(self, key: Key) -> _World:
        world = self._worlds.get(key)
        if world is None:
            world = self._worlds[key] = _World()
        return world

    def _put(self, maker: Maker, before: Iterable[Placed], after: Iterable[Placed]) -> None:
        sorted_in: dict[tuple[Key, str], tuple[list[Resource], list[Resource]]] = {}
        for position, placed in ((0, before), (1, after)):
            for one in placed:
                sorted_in.setdefault((one.view, one.type_url), ([], []))[position].append(one.resource)
        for (view, type_url), (old, new) in sorted_in.items():
            world = self._world(view)
            world.outputs.put(type_url, maker, old, new)
            world.is_changed = True


def create(layer7: Layer7) -> Worlds:
    """Return the worlds of a mesh."""
    worlds = Worlds()
    for derived in layer7.envoy.made:
        worlds.add(derived, lambda made: made.placed)
    return worlds


def view_of(peer: Peer, model: Model) -> Key | None:
    """Return the Gateway whose configuration a proxy may see; ``None``: none.

    The proxy names the Gateway in its metadata. It gets the configuration if its token proves the identity of that
    Gateway's pods: the Gateway's namespace and service account (``namespace/account``). Where users run the pods, what
    these are for is read from the pod, whose name the proxy says; it has to have the token's identity.
    """
    namespace, _, account = peer.identity.partition("/")
    labels = peer.metadata.get("LABELS")
    name = labels.get(names.GATEWAY_NAME_LABEL, "") if isinstance(labels, dict) else ""
    key = (namespace, str(name))
    if peer.node_type != names.GATEWAY_NODE:
        waypoint = model.waypoints.known.find(key)
        return waypoint.key if waypoint is not None and waypoint.service_account == account else None
    gateway = model.gateways.of_gateway_api.find(key)
    if gateway is not None and gateway.service is None and gateway.service_account == account:
        return gateway.key
    pod = model.inputs.of(Pod).find((namespace, peer.name.rpartition(".")[0]))
    if pod is None or pod.spec.service_account_name != account:
        return None
    return _manual_view_of(pod, model) or _place_of(pod, model)


def _place_of(pod: Pod, model: Model) -> Key | None:
    """Return the place of a pod that Gateways of Istio's API select."""
    key = place.of_pod(pod).key
    return None if model.gateways.istio.known.find(key) is None else key


def _manual_view_of(pod: Pod, model: Model) -> Key | None:
    """Return the Gateway whose user runs a pod: the oldest one that names a Service which selects it."""
    namespace, found = pod.metadata.namespace, []
    for gateway in model.gateways.of_gateway_api:
        service = None if gateway.service is None else model.inputs.of(Service).find(gateway.service)
        if service is None or gateway.key[0] != namespace or not service.spec.selector:
            continue
        item = model.inputs.of(Gateway).find(gateway.key)
        if item is not None and service.spec.selector.items() <= pod.metadata.labels.items():
            found.append(item)
    return min(found, key=lambda one: one.metadata.age).key if found else None
