"""The values of several collections as one."""

from collections.abc import Hashable
from typing import Generic, TypeVar

from controlplane.graph.collection import Collection
from controlplane.graph.scheduler import Graph

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Union(Collection[K, V], Generic[K, V]):
    """All values of collections whose keys are different; it changes in the moment in which one of them does.

    Args:
        graph: the scheduler.
        name: for logs and debug pages.
        parts: the collections; no key is in two of them.
    """

    def __init__(self, graph: Graph, name: str, *parts: Collection[K, V]) -> None:
        super().__init__(graph, name)
        for part in parts:
            part.add_handler(lambda key, _, new: self._set(key, new))
