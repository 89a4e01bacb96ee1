"""The resources of a gateway that its user runs: those of the Gateways that select the pod.

A Gateway may be made later than the pod, and a pod's labels may change. The proxy's stream stays open, and its
resources are replaced.
"""

from collections.abc import Callable, Collection, Iterable, Set

from controlplane.xds.snapshot import Snapshot
from meshkit.xds.order import ordered
from meshkit.xds.source import Listener, Resource


class Following:
    """Forwards to another ``ResourceSource``, which may be replaced; what differs then is reported as changed.

    Args:
        choose: returns the one that counts now.
        on_publish: calls a function after each publication, until the function that it returns is called.
        type_urls: the types that are served.
    """

    announces_missing = True

    def __init__(
        self,
        choose: Callable[[], Snapshot],
        on_publish: Callable[[Callable[[], None]], Callable[[], None]],
        type_urls: Iterable[str],
    ) -> None:
        self._choose = choose
        self._on_publish = on_publish
        self._types = tuple(type_urls)
        self._source = choose()

    def serves(self, type_url: str) -> bool:
        """See ``ResourceSource.serves``."""
        return type_url in self._types

    def lookup(self, type_url: str, name: str) -> Resource | None:
        """See ``ResourceSource.lookup``."""
        return self._source.lookup(type_url, name)

    def resolve(self, type_url: str, name: str) -> Iterable[Resource]:
        """See ``ResourceSource.resolve``."""
        return self._source.resolve(type_url, name)

    def all(self, type_url: str) -> Collection[Resource]:
        """See ``ResourceSource.all``."""
        return self._source.all(type_url)

    def wanted(self, type_url: str, names: Set[str]) -> None:
        """See ``ResourceSource.wanted``."""
        self._source.wanted(type_url, names)

    def watch(self, listener: Listener) -> Callable[[], None]:
        """See ``ResourceSource.watch``."""
        end = self._source.watch(listener)

        def look() -> None:
            nonlocal end
            before, now = self._source, self._choose()
            if now is before:
                return
            end()
            self._source, end = now, now.watch(listener)
            changed = {type_url: _different(before, now, type_url) for type_url in self._types}
            for type_url in ordered(changed):
                if changed[type_url]:
                    listener(type_url, changed[type_url])

        stop = self._on_publish(look)

        def ended() -> None:
            stop()
            end()

        return ended


def _different(before: Snapshot, now: Snapshot, type_url: str) -> frozenset[str]:
    old = {one.name: one.version for one in before.all(type_url)}
    new = {one.name: one.version for one in now.all(type_url)}
    return frozenset(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
