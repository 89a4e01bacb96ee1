"""What a computed value has read, and which values must be computed again when the answer may have changed."""

from collections.abc import Hashable, Iterable
from typing import Any, Protocol

from controlplane.graph.task import Task


class Owner(Protocol):
    """Where a look-up is made."""

    def forget(self, name: Any, /) -> None:
        """Forget a look-up without dependents."""
        ...


class Read:
    """One look-up, shared by all values that have made it.

    Attributes:
        dependents: the values that have made it, each to be computed again when the answer may have changed.
    """

    __slots__ = ("_name", "_owner", "dependents")

    def __init__(self, owner: Owner, name: Hashable) -> None:
        self.dependents: set[Task] = set()
        self._owner = owner
        self._name = name

    def discard(self, task: Task) -> None:
        """Remove a dependent; a look-up without any is forgotten."""
        self.dependents.discard(task)
        if not self.dependents:
            self._owner.forget(self._name)


class Reads:
    """The look-ups of one kind in one collection, by their argument."""

    def __init__(self) -> None:
        self._held: dict[Hashable, Read] = {}

    def of(self, name: Hashable) -> Read:
        """Return the look-up with this argument; the same object for as long as it has a dependent."""
        read = self._held.get(name)
        if read is None:
            read = self._held[name] = Read(self, name)
        return read

    def dependents(self, name: Hashable) -> Iterable[Task]:
        """Return the values that have looked ``name`` up."""
        read = self._held.get(name)
        return () if read is None else read.dependents

    def forget(self, name: Hashable) -> None:
        """Forget a look-up without dependents."""
        self._held.pop(name, None)

    def __len__(self) -> int:
        return len(self._held)
