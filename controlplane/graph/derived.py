"""Values computed from other values by a pure function, again whenever something that the function has read changes."""

from collections.abc import Callable, Hashable
from typing import Any, Generic, Protocol, TypeVar

from controlplane.graph.collection import Collection, Setting
from controlplane.graph.label_index import LabelIndex
from controlplane.graph.lookups import Claims, Index, Labels, SelectorIndex
from controlplane.graph.reads import Read
from controlplane.graph.scheduler import Graph
from controlplane.graph.task import Stage, Task

K = TypeVar("K", bound=Hashable)
G = TypeVar("G", bound=Hashable)
I = TypeVar("I")  # noqa: E741
V = TypeVar("V")
K_contra = TypeVar("K_contra", bound=Hashable, contravariant=True)
I_co = TypeVar("I_co", covariant=True)


class Items(Protocol[K_contra, I_co]):
    """What values can be derived from: a collection, or the groups of an index."""

    def find(self, key: K_contra, /) -> I_co | None:
        """Return an item."""
        ...

    def add_derived(self, derived: Any) -> None:
        """Compute a value of ``derived`` for each item."""
        ...


class Fetch:
    """The way in which a transform reads; every read is recorded."""

    __slots__ = ("_derived", "_key", "reads")

    def __init__(self, derived: "Derived[Any, Any]", key: Hashable) -> None:
        self._derived = derived
        self._key = key
        self.reads: dict[Read, None] = {}

    def find(self, collection: Collection[K, V], key: K) -> V | None:
        """Return a value by its key."""
        self.reads[collection.reads.of(key)] = None
        return collection.find(key)

    def matching(self, index: SelectorIndex[K, V], scope: str, labels: Labels) -> tuple[V, ...]:
        """Return the values of a scope whose selectors match ``labels``, in no order."""
        found = index.read(scope, labels)
        if found is None:
            return ()
        self.reads[found[0]] = None
        return found[1]

    def selected(self, index: LabelIndex[K, V], scope: str, selector: Labels) -> tuple[tuple[K, V], ...]:
        """Return the values of a scope that a selector matches, with their keys, in no order."""
        found = index.read(scope, selector)
        if found is None:
            return ()
        self.reads[found[0]] = None
        return tuple(found[1].items())

    def members(self, index: Index[G, K, V], group: G) -> tuple[V, ...]:
        """Return the values of a group, in no order."""
        self.reads[index.reads.of(group)] = None
        return tuple(index.members(group).values())

    def holds(self, claims: Claims[G, K, V], name: G) -> bool:
        """Return whether the item that is transformed has ``name``: of all items that claim it, it is the first."""
        return claims.read_by(self._derived, name) == self._key

    def setting(self, setting: Setting[V]) -> V:
        """Return the value of a setting."""
        return setting.read_by(self._derived)


class Derived(Collection[K, V], Generic[K, V]):
    """One computed value for each item of another collection, or none.

    Args:
        graph: the scheduler.
        name: for logs and debug pages.
        over: where the items are.
        stage: when its values are computed; not earlier than the collections that its transform reads.
        transform: computes a value from an item; pure, reads through its second argument only. ``None`` is no value.
    """

    def __init__(
        self,
        graph: Graph,
        name: str,
        over: Items[K, I],
        stage: Stage,
        transform: Callable[[I, Fetch], V | None],
    ) -> None:
        super().__init__(graph, name)
        self.stage = stage
        self._over = over
        self._transform: Callable[[Any, Fetch], V | None] = transform
        self._tasks: dict[K, tuple[Task, tuple[Read, ...]]] = {}
        """By key of an item: the task, and what it has read the last time."""
        graph.add_stage(stage)
        over.add_derived(self)

    def tasks(self) -> list[Task]:
        """Return the tasks of all items."""
        return [task for task, _ in self._tasks.values()]

    def compute(self, key: K) -> None:
        """Compute the value of an item again. Raises what the transform raises; the last value then stays."""
        item = self._over.find(key)
        if item is None:
            self._record(key, {})
            self._tasks.pop(key)
            self._set(key, None)
            return
        fetch = Fetch(self, key)
        try:
            value = self._transform(item, fetch)
        finally:
            self._record(key, fetch.reads)
        self._set(key, value)

    def _record(self, key: K, reads: dict[Read, None]) -> None:
        """Replace what the value of an item has read."""
        task, before = self._tasks.get(key) or ((self, key), ())
        after = tuple(reads)
        self._tasks[key] = (task, after)
        if before == after:
            return
        for read in after:
            read.dependents.add(task)
        for read in before:
            if read not in reads:
                read.discard(task)
