"""The resources that computed values consist of, by name, and what has changed of them since the last time.

A name may move from one value to another, such as a host from one ServiceEntry to the next. So a resource that no value
has any more is withdrawn only when everything is computed that may still take it over; until then a workload that names
a policy which is gone would be closed to everybody, too.
"""

from collections.abc import Callable, Hashable, Iterable
from typing import Any, TypeVar

from controlplane.graph.derived import Derived
from meshkit.xds.source import Resource

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
Changes = dict[str, dict[str, Resource | None]]
"""By type URL: resource name to the new resource, or ``None`` for a removed one."""
Maker = tuple[str, Any]
"""A collection's name and the key of a value that a resource belongs to."""


class Outputs:
    """The resources of some types.

    Args:
        type_urls: the types, in the order in which their changes are announced.
    """

    def __init__(self, type_urls: Iterable[str]) -> None:
        self._types = {type_url: _Type() for type_url in type_urls}

    def add(self, derived: Derived[K, V], type_url: str, resources: Callable[[V], Iterable[Resource]]) -> None:
        """Take the resources of a type from a collection; ``resources`` returns the ones of a value."""

        def changed(key: Any, old: V | None, new: V | None) -> None:
            before = () if old is None else resources(old)
            after = () if new is None else resources(new)
            self.put(type_url, (derived.name, key), before, after)

        derived.add_handler(changed)

    def put(self, type_url: str, maker: Maker, before: Iterable[Resource], after: Iterable[Resource]) -> None:
        """Replace the resources of a type that a value has made."""
        self._types[type_url].put(maker, before, after)

    def take(self, *, is_settled: bool) -> Changes:
        """Return what has changed since the last call; ``is_settled``: nothing is left to compute."""
        changes = {type_url: held.take(is_settled=is_settled) for type_url, held in self._types.items()}
        return {type_url: changed for type_url, changed in changes.items() if changed}

    def all(self, type_url: str) -> dict[str, Resource]:
        """Return the resources of a type as of the last ``take``."""
        return dict(self._types[type_url].resources)

    def maker(self, type_url: str, name: str) -> Maker | None:
        """Return the value that a resource belongs to."""
        held = self._types.get(type_url)
        return None if held is None else held.makers.get(name)


class _Type:
    def __init__(self) -> None:
        self.resources: dict[str, Resource] = {}
        self.makers: dict[str, Maker] = {}
        self._made: dict[str, Resource] = {}
        self._orphans: set[str] = set()

    def put(self, maker: Maker, before: Iterable[Resource], after: Iterable[Resource]) -> None:
        made = {resource.name: resource for resource in after}
        for resource in before:
            if resource.name not in made and self.makers.get(resource.name) == maker:
                del self.makers[resource.name]
                self._orphans.add(resource.name)
        for name, resource in made.items():
            self.makers[name] = maker
            self._orphans.discard(name)
            self._made[name] = resource

    def take(self, *, is_settled: bool) -> dict[str, Resource | None]:
        made, self._made = self._made, {}
        changed: dict[str, Resource | None] = {}
        if is_settled and self._orphans:
            orphans, self._orphans = self._orphans, set()
            changed = {name: None for name in sorted(orphans) if self.resources.pop(name, None) is not None}
            made = {name: resource for name, resource in made.items() if name not in orphans}
        for name, resource in made.items():
            if self.resources.get(name) != resource:
                self.resources[name] = changed[name] = resource
        return changed
