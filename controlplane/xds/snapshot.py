"""The resources as they are served: by name, by alias, by parent, with listeners for every change."""

from collections.abc import Callable, Collection, Iterable, Set

from controlplane.ambient.outputs import Changes
from meshkit.xds.order import ordered
from meshkit.xds.source import Listener, Resource


class Snapshot:
    """A ``meshkit.xds.source.ResourceSource`` over the model's resources.

    Args:
        type_urls: the types that are served.
    """

    announces_missing = True

    def __init__(self, type_urls: Iterable[str]) -> None:
        types = tuple(type_urls)
        self._resources: dict[str, dict[str, Resource]] = {type_url: {} for type_url in types}
        self._by_alias: dict[str, dict[str, set[str]]] = {type_url: {} for type_url in types}
        self._by_parent: dict[str, dict[str, set[str]]] = {type_url: {} for type_url in types}
        self._listeners: dict[int, Listener] = {}
        self._next_listener = 0

    def apply(self, changes: Changes) -> None:
        """Apply changed resources and notify the listeners."""
        for type_url in ordered(changes):
            changed = changes[type_url]
            for name, resource in changed.items():
                self._put(type_url, name, resource)
            names = frozenset(changed)
            for listener in list(self._listeners.values()):
                listener(type_url, names)

    def serves(self, type_url: str) -> bool:
        """Return whether the type is known here."""
        return type_url in self._resources

    def lookup(self, type_url: str, name: str) -> Resource | None:
        """Return a resource by its primary name."""
        return self._resources[type_url].get(name)

    def resolve(self, type_url: str, name: str) -> Iterable[Resource]:
        """Return the resources for ``name`` or an alias; a service includes its workloads."""
        held = self._resources[type_url]
        primary = {name} & held.keys() or self._by_alias[type_url].get(name, set())
        found = {item: held[item] for item in primary}
        for parent in primary:
            found.update({item: held[item] for item in self._by_parent[type_url].get(parent, ())})
        return found.values()

    def all(self, type_url: str) -> Collection[Resource]:
        """Return every resource of the type."""
        return self._resources[type_url].values()

    def watch(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` at every change until the returned function is called."""
        number = self._next_listener
        self._next_listener += 1
        self._listeners[number] = listener
        return lambda: self._listeners.pop(number, None) and None

    def wanted(self, type_url: str, names: Set[str]) -> None:
        """Do nothing: every resource exists already."""

    def _put(self, type_url: str, name: str, resource: Resource | None) -> None:
        held = self._resources[type_url]
        old = held.pop(name, None)
        if old is not None:
            _unlink(self._by_alias[type_url], old.aliases, name)
            _unlink(self._by_parent[type_url], old.parents, name)
        if resource is not None:
            held[name] = resource
            _link(self._by_alias[type_url], resource.aliases, name)
            _link(self._by_parent[type_url], resource.parents, name)


def _link(index: dict[str, set[str]], keys: Iterable[str], name: str) -> None:
    for key in keys:
        index.setdefault(key, set()).add(name)


def _unlink(index: dict[str, set[str]], keys: Iterable[str], name: str) -> None:
    for key in keys:
        linked = index.get(key, set())
        linked.discard(name)
        if not linked:
            index.pop(key, None)
