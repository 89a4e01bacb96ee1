"""Values by key, with notifications of changes; and those collections that are set from outside."""

from collections.abc import Callable, Hashable, Iterator
from typing import Any, Generic, Protocol, TypeVar

from controlplane.graph.reads import Reads
from controlplane.graph.scheduler import Graph
from controlplane.graph.task import Task

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
Handler = Callable[[K, V | None, V | None], None]
"""Called with a key, the old and the new value; ``None`` is no value. Must not block or change the graph."""


class Lookup(Protocol):
    """A declared way to look values up, kept up to date by their collection."""

    def update(self, key: Any, old: Any, new: Any, concerned: dict[Task, None]) -> None:
        """Take a change in; add the values that have read what it changes to ``concerned``."""
        ...


class Collection(Generic[K, V]):
    """Values by key.

    Attributes:
        name: for logs and debug pages.
        reads: look-ups by key.
    """

    def __init__(self, graph: Graph, name: str) -> None:
        self.name = name
        self.reads = Reads()
        self._graph = graph
        self._values: dict[K, V] = {}
        self._lookups: list[Lookup] = []
        self._handlers: list[Handler[K, V]] = []
        self._derived: list[Any] = []

    def find(self, key: K) -> V | None:
        """Return the value of a key, outside of a transform."""
        return self._values.get(key)

    def __iter__(self) -> Iterator[V]:
        return iter(self._values.values())

    def __len__(self) -> int:
        return len(self._values)

    def keys(self) -> Iterator[K]:
        """Return the keys that have a value."""
        return iter(self._values)

    def items(self) -> Iterator[tuple[K, V]]:
        """Return keys with their values."""
        return iter(self._values.items())

    def add_lookup(self, lookup: Lookup) -> None:
        """Keep ``lookup`` up to date; to be called before the first value."""
        self._lookups.append(lookup)

    def add_handler(self, handler: Handler[K, V]) -> None:
        """Call ``handler`` at each change."""
        self._handlers.append(handler)

    def add_derived(self, derived: Any) -> None:
        """Compute a value of ``derived`` for each value here."""
        self._derived.append(derived)

    def _set(self, key: K, new: V | None) -> None:
        old = self._values.get(key)
        if old == new:
            return
        if new is None:
            del self._values[key]
        else:
            self._values[key] = new
        concerned: dict[Task, None] = dict.fromkeys(self.reads.dependents(key))
        for lookup in self._lookups:
            lookup.update(key, old, new, concerned)
        # The value's own are few, however many others it concerns.
        own: list[Task] = [(derived, key) for derived in self._derived]
        if own:
            self._graph.enqueue(own)
        if concerned:
            self._graph.enqueue(concerned)
        for handler in self._handlers:
            handler(key, old, new)


class Source(Collection[K, V]):
    """Values that are set from outside."""

    def set(self, key: K, value: V | None) -> None:
        """Set the value of a key; ``None`` removes it. An equal value is no change."""
        self._set(key, value)


class Setting(Generic[V]):
    """One value that many values read, such as the mesh's configuration.

    A read is recorded once for the reading collection: a change computes all of its values again.
    """

    def __init__(self, graph: Graph, value: V) -> None:
        self._graph = graph
        self._value = value
        self._readers: dict[Any, None] = {}

    @property
    def value(self) -> V:
        """The value, outside of a transform."""
        return self._value

    def read_by(self, derived: Any) -> V:
        """Return the value, and record that ``derived`` depends on it."""
        self._readers[derived] = None
        return self._value

    def set(self, value: V) -> None:
        """Replace the value; an equal one is no change."""
        if value == self._value:
            return
        self._value = value
        for derived in self._readers:
            self._graph.enqueue(derived.tasks())
