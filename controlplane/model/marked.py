"""What must be computed again, in the order in which it is done."""

import itertools
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

from controlplane.model.index import Key
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


Mark = tuple[str, Key]


class Marked:
    """Three queues: policies, objects that single events marked, objects that one event marked by the hundreds.

    Policies go first because a workload that names a new one must not arrive before it. Within a queue the order is
    that of the marks, and nothing is in two of them.
    """

    def __init__(self) -> None:
        # A plain dictionary is slow to find its first key after many that were removed.
        self._policies: OrderedDict[Mark, None] = OrderedDict()
        self._single: OrderedDict[Mark, None] = OrderedDict()
        self._many: OrderedDict[Mark, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._policies) + len(self._single) + len(self._many)

    def add(self, kind: str, key: Key, *, is_one_of_many: bool = False) -> None:
        """Mark an object; one that is marked already may only move forward."""
        mark = (kind, key)
        if kind in POLICY_KINDS or kind == SETTINGS_KIND:
            self._policies[mark] = None
        elif not is_one_of_many:
            self._many.pop(mark, None)
            self._single[mark] = None
        elif mark not in self._single:
            self._many[mark] = None

    def take(self, limit: int | None) -> list[Mark]:
        """Remove and return the first ``limit`` marks, or all."""
        return list(itertools.islice(self._drain(), limit))

    def _drain(self) -> Iterator[Mark]:
        for queue in (self._policies, self._single, self._many):
            while queue:
                yield queue.popitem(last=False)[0]
