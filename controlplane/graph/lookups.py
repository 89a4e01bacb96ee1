"""Declared ways to look values up.

Each knows two things: how to answer, and whose answer a change of one value can have changed. The second is the inverse
of the first, and lives beside it: nothing else in the control plane writes dependencies down.
"""

import bisect
from collections.abc import Callable, Hashable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, Generic, NamedTuple, TypeVar

from controlplane.graph.collection import Collection
from controlplane.graph.reads import Read, Reads
from controlplane.graph.task import Task

K = TypeVar("K", bound=Hashable)
G = TypeVar("G", bound=Hashable)
V = TypeVar("V")
Labels = frozenset[tuple[str, str]]
"""Labels, or a selector of them, as pairs: a selector matches the labels that it is a subset of."""
_EMPTY: Final[Mapping[Any, Any]] = MappingProxyType({})


class Group(NamedTuple, Generic[G, K, V]):
    """The values of one group of an index: the item of what is derived from the index."""

    key: G
    members: Mapping[K, V]


class Index(Generic[G, K, V]):
    """Values by groups that they belong to.

    Args:
        over: the collection.
        groups: returns the groups of a value; pure.

    Attributes:
        reads: look-ups by group.
    """

    def __init__(self, over: Collection[K, V], groups: Callable[[V], Iterable[G]]) -> None:
        self._groups = groups
        self._members: dict[G, dict[K, V]] = {}
        self._derived: list[Any] = []
        self.reads = Reads()
        over.add_lookup(self)

    def find(self, group: G) -> Group[G, K, V] | None:
        """Return a group; ``None`` for an empty one."""
        members = self._members.get(group)
        return None if members is None else Group(group, members)

    def members(self, group: G) -> Mapping[K, V]:
        """Return the values of a group by key."""
        return self._members.get(group, _EMPTY)

    def add_derived(self, derived: Any) -> None:
        """Compute a value of ``derived`` for each group."""
        self._derived.append(derived)

    def update(self, key: K, old: V | None, new: V | None, concerned: dict[Task, None]) -> None:
        """See ``Lookup``: the members of every group that the value was in or is in have changed."""
        before: dict[G, None] = {} if old is None else dict.fromkeys(self._groups(old))
        after: dict[G, None] = {} if new is None else dict.fromkeys(self._groups(new))
        for group in before:
            if group not in after:
                members = self._members[group]
                members.pop(key, None)
                if not members:
                    del self._members[group]
        if new is not None:
            for group in after:
                self._members.setdefault(group, {})[key] = new
        for group in {*before, *after}:
            concerned.update(dict.fromkeys((derived, group) for derived in self._derived))
            concerned.update(dict.fromkeys(self.reads.dependents(group)))


class Subject(Generic[V]):
    """Labels that selectors are matched against, shared by all values that look up with the same ones.

    Attributes:
        read: the look-up.
        found: its answer; ``None`` when it has to be found again.
    """

    __slots__ = ("found", "read")

    def __init__(self, read: Read) -> None:
        self.read = read
        self.found: tuple[V, ...] | None = None


class SelectorIndex(Generic[K, V]):
    """Values that have selectors: finds the values whose selectors match given labels, and the reverse.

    A value is filed under the first pair of its selector, so a look-up costs one step for each of its labels and a
    change one step for each distinct set of labels with that pair, however many values there are.

    Args:
        over: the collection.
        selector: returns the scope of a value (such as its namespace) and the labels that it selects; ``None`` or no
            labels: it selects nothing here. Pure.
    """

    def __init__(self, over: Collection[K, V], selector: Callable[[V], tuple[str, Mapping[str, str]] | None]) -> None:
        self._selector = selector
        self._values: dict[tuple[str, tuple[str, str]], dict[K, tuple[Labels, V]]] = {}
        self._subjects: dict[tuple[str, Labels], Subject[V]] = {}
        self._by_pair: dict[tuple[str, tuple[str, str]], dict[Labels, Subject[V]]] = {}
        over.add_lookup(self)

    def read(self, scope: str, labels: Labels) -> tuple[Read, tuple[V, ...]] | None:
        """Return the look-up with these arguments, and its answer: the values of a scope whose selectors match.

        ``None`` where no selector can ever match: without labels.
        """
        if not labels:
            return None
        subject = self._subjects.get((scope, labels))
        if subject is None:
            subject = self._subjects[scope, labels] = Subject(Read(self, (scope, labels)))
            for pair in labels:
                self._by_pair.setdefault((scope, pair), {})[labels] = subject
        if subject.found is None:
            subject.found = tuple(self._matching(scope, labels))
        return subject.read, subject.found

    def forget(self, name: tuple[str, Labels]) -> None:
        """Forget a look-up without dependents."""
        scope, labels = name
        if self._subjects.pop(name, None) is None:
            return
        for pair in labels:
            subjects = self._by_pair[scope, pair]
            del subjects[labels]
            if not subjects:
                del self._by_pair[scope, pair]

    def _matching(self, scope: str, labels: Labels) -> Iterable[V]:
        for pair in labels:
            for selected, value in self._values.get((scope, pair), _EMPTY).values():
                if selected <= labels:
                    yield value

    def update(self, key: K, old: V | None, new: V | None, concerned: dict[Task, None]) -> None:
        """See ``Lookup``: the answer has changed for labels that the old or the new selector matches."""
        for value in (old, new):
            chosen = None if value is None else self._selector(value)
            if value is None or chosen is None or not chosen[1]:
                continue
            selected = frozenset(chosen[1].items())
            place = (chosen[0], min(selected))
            if value is new:
                self._values.setdefault(place, {})[key] = (selected, value)
            else:
                self._drop(place, key)
            for labels, subject in self._by_pair.get(place, _EMPTY).items():
                if selected <= labels:
                    subject.found = None
                    concerned.update(dict.fromkeys(subject.read.dependents))

    def _drop(self, place: tuple[str, tuple[str, str]], key: K) -> None:
        values = self._values.get(place)
        if values is not None:
            values.pop(key, None)
            if not values:
                del self._values[place]


class Claims(Generic[G, K, V]):
    """Names that several values may claim: the first claimant in order has the name.

    A transform asks whether its own item has a name, so a change of hands concerns two values, however many claim the
    name, and nothing has to be recorded for each of them.

    Args:
        over: the collection.
        names: returns the names that a value claims; pure.
        order: returns a value's place and its key; different for different values.
    """

    def __init__(
        self, over: Collection[K, V], names: Callable[[V], Iterable[G]], order: Callable[[V], tuple[Any, K]]
    ) -> None:
        self._names = names
        self._order = order
        self._readers: dict[Any, None] = {}
        self._claims: dict[G, list[tuple[Any, K]]] = {}
        """Sorted: the first is read more often than the list changes."""
        over.add_lookup(self)

    def holder(self, name: G) -> K | None:
        """Return the key of the value that has a name."""
        claims = self._claims.get(name)
        return claims[0][1] if claims else None

    def read_by(self, derived: Any, name: G) -> K | None:
        """Return the key of the value that has a name, and record that ``derived`` asks about its own items."""
        self._readers[derived] = None
        return self.holder(name)

    def update(self, _: K, old: V | None, new: V | None, concerned: dict[Task, None]) -> None:
        """See ``Lookup``: the answer has changed for the value that had a name and the one that has it now."""
        before, had_place = self._claimed(old)
        after, place = self._claimed(new)
        for name in before | after if had_place != place else before ^ after:
            had = self.holder(name)
            if name in before:
                self._remove(name, had_place)
            if name in after:
                bisect.insort(self._claims.setdefault(name, []), place)
            has = self.holder(name)
            if had != has:
                concerned.update(
                    dict.fromkeys((derived, key) for derived in self._readers for key in (had, has) if key is not None)
                )

    def _claimed(self, value: V | None) -> tuple[set[G], Any]:
        return (set(), None) if value is None else (set(self._names(value)), self._order(value))

    def _remove(self, name: G, place: Any) -> None:
        claims = self._claims.get(name, [])
        at = bisect.bisect_left(claims, place)
        if claims[at : at + 1] == [place]:
            del claims[at]
        if not claims:
            self._claims.pop(name, None)
