"""The reverse of a ``SelectorIndex``: finds the values whose labels a given selector matches."""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from controlplane.graph.collection import Collection
from controlplane.graph.lookups import Labels
from controlplane.graph.reads import Read
from controlplane.graph.task import Task

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class _Subject(Generic[K, V]):
    """A selector that is looked up, and the values that it matches now."""

    __slots__ = ("found", "read")

    def __init__(self, read: Read, found: dict[K, V]) -> None:
        self.read = read
        self.found = found


class LabelIndex(Generic[K, V]):
    """Values with labels, found by selector.

    Answers are kept up to date: a change of a value costs one step for each selector that shares its first pair with
    the value's labels, however many values there are. A first look-up costs one step for each value that has the
    selector's first pair; the first one with a label of that name costs one for each value of the scope.

    Args:
        over: the collection.
        scope: returns the scope of a value, such as its namespace; pure.
        labels: returns its labels; pure.
    """

    def __init__(
        self, over: Collection[K, V], scope: Callable[[V], str], labels: Callable[[V], dict[str, str]]
    ) -> None:
        self._scope = scope
        self._labels = labels
        self._values: dict[str, dict[K, V]] = {}
        self._named: dict[tuple[str, str], dict[str, dict[K, V]]] = {}
        """By scope and name of a label that selectors begin with: its values, and what has them."""
        self._subjects: dict[tuple[str, Labels], _Subject[K, V]] = {}
        self._by_pair: dict[tuple[str, tuple[str, str]], dict[Labels, _Subject[K, V]]] = {}
        over.add_lookup(self)

    def read(self, scope: str, selector: Labels) -> tuple[Read, dict[K, V]] | None:
        """Return the look-up with these arguments, and its answer; ``None`` for an empty selector."""
        if not selector:
            return None
        subject = self._subjects.get((scope, selector))
        if subject is None:
            held = self._with(scope, *min(selector))
            found = {key: value for key, value in held.items() if selector <= self._labels(value).items()}
            subject = self._subjects[scope, selector] = _Subject(Read(self, (scope, selector)), found)
            self._by_pair.setdefault((scope, min(selector)), {})[selector] = subject
        return subject.read, subject.found

    def _with(self, scope: str, name: str, value: str) -> dict[K, V]:
        """Return what has a label."""
        known = self._named.get((scope, name))
        if known is None:
            known = self._named[scope, name] = {}
            for key, item in self._values.get(scope, {}).items():
                labels = self._labels(item)
                if name in labels:
                    known.setdefault(labels[name], {})[key] = item
        return known.get(value, {})

    def forget(self, name: tuple[str, Labels]) -> None:
        """Forget a look-up without dependents."""
        scope, selector = name
        if self._subjects.pop(name, None) is None:
            return
        place = (scope, min(selector))
        subjects = self._by_pair[place]
        del subjects[selector]
        if not subjects:
            del self._by_pair[place]

    def update(self, key: K, old: V | None, new: V | None, concerned: dict[Task, None]) -> None:
        """See ``Lookup``: the answer has changed for selectors that match the old or the new labels."""
        if old is not None:
            self._take(key, old, concerned)
        if new is not None:
            self._put(key, new, concerned)

    def _take(self, key: K, value: V, concerned: dict[Task, None]) -> None:
        scope = self._scope(value)
        held = self._values[scope]
        held.pop(key, None)
        if not held:
            del self._values[scope]
        for name, label in self._labels(value).items():
            if (known := self._named.get((scope, name))) is not None:
                known[label].pop(key, None)
                if not known[label]:
                    del known[label]
        for subject in self._matching(value):
            subject.found.pop(key, None)
            concerned.update(dict.fromkeys(subject.read.dependents))

    def _put(self, key: K, value: V, concerned: dict[Task, None]) -> None:
        scope = self._scope(value)
        self._values.setdefault(scope, {})[key] = value
        for name, label in self._labels(value).items():
            if (known := self._named.get((scope, name))) is not None:
                known.setdefault(label, {})[key] = value
        for subject in self._matching(value):
            subject.found[key] = value
            concerned.update(dict.fromkeys(subject.read.dependents))

    def _matching(self, value: V) -> list[_Subject[K, V]]:
        if not self._by_pair:
            return []
        scope, pairs = self._scope(value), self._labels(value).items()
        return [
            subject
            for pair in pairs
            for selector, subject in self._by_pair.get((scope, pair), {}).items()
            if selector <= pairs
        ]
