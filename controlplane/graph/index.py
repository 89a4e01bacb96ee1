"""Objects of one kind by key and by namespace."""

from collections.abc import Iterator
from typing import Generic, TypeVar

from meshapi.resources.base import Object

Key = tuple[str, str]
"""Namespace (empty where there is none) and name."""
ObjectT = TypeVar("ObjectT", bound=Object)


class Index(Generic[ObjectT]):
    """Holds the present objects of one kind."""

    def __init__(self) -> None:
        self._by_namespace: dict[str, dict[str, ObjectT]] = {}

    def put(self, old: ObjectT | None, new: ObjectT | None) -> None:
        """Replace ``old`` by ``new``."""
        if new is not None:
            self._by_namespace.setdefault(new.metadata.namespace, {})[new.metadata.name] = new
        elif old is not None:
            held = self._by_namespace.get(old.metadata.namespace, {})
            held.pop(old.metadata.name, None)
            if not held:
                self._by_namespace.pop(old.metadata.namespace, None)

    def find(self, key: Key) -> ObjectT | None:
        """Return one object."""
        return self._by_namespace.get(key[0], {}).get(key[1])

    def within(self, namespace: str) -> list[ObjectT]:
        """Return the objects of a namespace."""
        return list(self._by_namespace.get(namespace, {}).values())

    def namespaces(self) -> list[str]:
        """Return the namespaces that have objects."""
        return list(self._by_namespace)

    def __iter__(self) -> Iterator[ObjectT]:
        for held in self._by_namespace.values():
            yield from held.values()

    def __len__(self) -> int:
        return sum(len(held) for held in self._by_namespace.values())
