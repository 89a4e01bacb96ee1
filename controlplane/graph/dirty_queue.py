"""Objects to recompute, in order of priority."""

import itertools
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

from controlplane.graph.index import Key
from meshapi import names

POLICY_KINDS: Final = frozenset({"policy", "peer", "static"})
"""Kinds of objects that make policies."""
SETTINGS_KIND: Final = "settings"
"""The kind that makes the settings of proxies. All others make addresses."""


def type_of(kind: str) -> str:
    """Return the type URL of the resources that a kind of objects makes."""
    if kind == SETTINGS_KIND:
        return names.MESH_CONFIG_TYPE
    return names.AUTHORIZATION_TYPE if kind in POLICY_KINDS else names.ADDRESS_TYPE


Dirty = tuple[str, Key]


class DirtyQueue:
    """Three queues: policies, objects enqueued by single events, objects enqueued in bulk.

    Policies go first because a workload that names a new one must not arrive before it. Within a queue the order is
    first in, first out; no object is in two of them.
    """

    def __init__(self) -> None:
        # A plain dictionary finds its first key slowly after many removals.
        self._policies: OrderedDict[Dirty, None] = OrderedDict()
        self._single: OrderedDict[Dirty, None] = OrderedDict()
        self._many: OrderedDict[Dirty, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._policies) + len(self._single) + len(self._many)

    def add(self, kind: str, key: Key, *, bulk: bool = False) -> None:
        """Enqueue an object; one that is queued already may only move forward."""
        item = (kind, key)
        if kind in POLICY_KINDS or kind == SETTINGS_KIND:
            self._policies[item] = None
        elif not bulk:
            self._many.pop(item, None)
            self._single[item] = None
        elif item not in self._single:
            self._many[item] = None

    def take(self, limit: int | None) -> list[Dirty]:
        """Remove and return the first ``limit`` objects, or all."""
        return list(itertools.islice(self._drain(), limit))

    def _drain(self) -> Iterator[Dirty]:
        for queue in (self._policies, self._single, self._many):
            while queue:
                yield queue.popitem(last=False)[0]
