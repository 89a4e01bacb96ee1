"""ServiceEntries by host. Several may claim the same host: here is decided whose it is."""

import bisect
from collections.abc import Callable, Hashable
from typing import TypeVar

from controlplane.graph.index import Index, Key
from meshapi.resources.networking import ServiceEntry

_Age = tuple[str, Key]
_NameT = TypeVar("_NameT", bound=Hashable)


class Entries(Index[ServiceEntry]):
    """Holds the ServiceEntries. Of those that claim a host, the oldest has it (by creation, then by name)."""

    def __init__(self) -> None:
        super().__init__()
        self._by_host: dict[str, list[_Age]] = {}
        self._within: dict[Key, list[_Age]] = {}
        """By namespace and host. Lists are sorted by age: the owner of a host is read more often than changed."""

    def put(self, old: ServiceEntry | None, new: ServiceEntry | None) -> None:
        """Replace ``old`` by ``new``."""
        super().put(old, new)
        if old is not None:
            for host in set(old.spec.hosts):
                _remove(self._by_host, host, _age(old))
                _remove(self._within, (old.metadata.namespace, host), _age(old))
        if new is not None:
            for host in set(new.spec.hosts):
                bisect.insort(self._by_host.setdefault(host, []), _age(new))
                bisect.insort(self._within.setdefault((new.metadata.namespace, host), []), _age(new))

    def claimants(self, host: str) -> list[ServiceEntry]:
        """Return the entries that claim a host, the oldest first."""
        found = (self.find(key) for _, key in self._by_host.get(host, ()))
        return [entry for entry in found if entry is not None]

    def owners(self, entry: ServiceEntry) -> set[Key]:
        """Return the entries that have a host of ``entry``'s, in its namespace or for all others. It is two for each
        host, however many claim it."""
        lists = [
            ages
            for host in entry.spec.hosts
            for ages in (self._by_host.get(host), self._within.get((entry.metadata.namespace, host)))
        ]
        return {ages[0][1] for ages in lists if ages}

    def served(self, entry: ServiceEntry, is_taken: Callable[[str], bool]) -> list[str]:
        """Return the hosts that ``entry`` has within its namespace; ``is_taken``: by a service of Kubernetes there."""
        namespace, age = entry.metadata.namespace, _age(entry)
        return [
            host
            for host in dict.fromkeys(entry.spec.hosts)
            if self._within[namespace, host][0] == age and not is_taken(host)
        ]

    def is_first(self, entry: ServiceEntry, host: str) -> bool:
        """Return whether ``entry`` is the oldest of all namespaces that claims ``host``."""
        return self._by_host[host][0] == _age(entry)


def _age(entry: ServiceEntry) -> _Age:
    return (entry.metadata.creation_timestamp, entry.key)


def _remove(lists: dict[_NameT, list[_Age]], name: _NameT, age: _Age) -> None:
    ages = lists.get(name, [])
    place = bisect.bisect_left(ages, age)
    if ages[place : place + 1] == [age]:
        del ages[place]
    if not ages:
        lists.pop(name, None)
