"""What a discovery server of a test serves: resources that can be replaced."""

from collections.abc import Callable, Collection, Iterable, Set

from google.protobuf.message import Message

from meshkit.xds.source import Listener, Resource


class World:
    """Resources of some types, which can be replaced."""

    announces_missing = True

    def __init__(self, *type_urls: str) -> None:
        self.held: dict[str, dict[str, Resource]] = {type_url: {} for type_url in type_urls}
        self._listeners: list[Listener] = []

    def put(self, type_url: str, name: str, message: Message) -> None:
        body = message.SerializeToString(deterministic=True)
        self.held[type_url][name] = Resource(name, str(hash(body)), body)
        for listener in list(self._listeners):
            listener(type_url, frozenset({name}))

    def serves(self, type_url: str) -> bool:
        return type_url in self.held

    def lookup(self, type_url: str, name: str) -> Resource | None:
        return self.held[type_url].get(name)

    def resolve(self, type_url: str, name: str) -> Iterable[Resource]:
        found = self.held[type_url].get(name)
        return [] if found is None else [found]

    def all(self, type_url: str) -> Collection[Resource]:
        return self.held[type_url].values()

    def watch(self, listener: Listener) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def wanted(self, type_url: str, names: Set[str]) -> None:
        pass
