"""Which resources proxies refuse now, as a source of the graph: conditions of objects depend on it.

A proxy is connected to one replica of the control plane, and another one may be the leader that writes conditions. So
each replica also publishes what its own proxies refuse (``status.shared_rejections``), and takes in what the others
publish.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Final

from controlplane.graph.collection import Source
from controlplane.inputs.sources import Rejection
from meshkit.kube import Key
from meshkit.xds.peer import Peer

Name = tuple[str, str]
"""Type URL and name of a resource, as ``name_in`` returns it."""
_TRIGGER: Final = "rejection"


def name_in(view: Key | None, name: str) -> str:
    """Return the name of a resource among those of all proxies: those of waypoints and gateways have equal names.

    Args:
        view: the Gateway of the proxy; ``None``: the proxy is no waypoint and no gateway.
        name: of the resource.
    """
    return name if view is None else f"{'/'.join(view)}|{name}"


class Rejections:
    """Keeps the source of rejections.

    Args:
        source: where they are kept.
        touch: called when they have changed.
        view_of: returns the Gateway of a proxy.
    """

    def __init__(
        self,
        source: Source[Name, Rejection],
        touch: Callable[[str], None],
        view_of: Callable[[Peer], Key | None] = lambda _: None,
    ) -> None:
        self._source = source
        self._touch = touch
        self._view_of = view_of
        self._by_origin: dict[Hashable, dict[Name, Rejection]] = {}
        self._by_name: dict[Name, dict[Hashable, Rejection]] = {}
        self._own: set[Hashable] = set()
        self._listeners: list[Callable[[], None]] = []

    def on_own_change(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` when what proxies of this replica refuse has changed."""
        self._listeners.append(listener)

    def put_peer(self, peer: Peer, type_url: str, reasons: Mapping[str, str]) -> None:
        """Take what a connected proxy refuses now of a type."""
        origin = (id(peer), type_url)
        self._own.add(origin)
        view = self._view_of(peer) if reasons else None
        found = {
            (type_url, name_in(view, name)): Rejection(peer.name, reason, others=False)
            for name, reason in reasons.items()
        }
        self._put(origin, found)
        for listener in self._listeners:
            listener()

    def drop_peer(self, peer: Peer) -> None:
        """Forget a proxy that has disconnected: its next stream shows what it refuses then."""
        for type_url in peer.subscriptions:
            if (id(peer), type_url) in self._own:
                self.put_peer(peer, type_url, {})
                self._own.discard((id(peer), type_url))

    def put_replica(self, instance: str, found: Mapping[Name, Rejection]) -> None:
        """Take what another replica publishes."""
        self._put(instance, dict(found))

    def own(self) -> dict[Name, Rejection]:
        """Return what proxies of this replica refuse."""
        result = {}
        for name, by_origin in self._by_name.items():
            own = {origin: rejection for origin, rejection in by_origin.items() if origin in self._own}
            if own:
                result[name] = _merged(own.values())
        return result

    def _put(self, origin: Hashable, found: dict[Name, Rejection]) -> None:
        before = self._by_origin.pop(origin, {})
        if found:
            self._by_origin[origin] = found
        for name in before.keys() | found.keys():
            held = self._by_name.setdefault(name, {})
            if name in found:
                held[origin] = found[name]
            else:
                held.pop(origin, None)
            if not held:
                del self._by_name[name]
            self._source.set(name, _merged(held.values()) if held else None)
        if before != found:
            self._touch(_TRIGGER)


def _merged(rejections: Iterable[Rejection]) -> Rejection:
    """Return one for all: of the proxy whose name comes first, so that it changes rarely while many proxies answer."""
    found = sorted(rejections, key=lambda rejection: rejection.proxy)
    others = len(found) > 1 or found[0].others
    return Rejection(found[0].proxy, found[0].reason, others=others)
