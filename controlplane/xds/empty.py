"""The world of an Envoy that nothing is computed for: every type is known, and there is nothing of it.

An answer is needed all the same: Envoy is ready once it has had its clusters and listeners, be they none.
"""

from collections.abc import Callable, Collection, Iterable, Set
from typing import Final

from meshapi import names
from meshkit.xds.source import Listener, Resource

_TYPES: Final = frozenset({names.CLUSTER_TYPE, names.ENDPOINT_TYPE, names.LISTENER_TYPE, names.ROUTE_TYPE})


class EmptyWorld:
    """A ``ResourceSource`` without resources."""

    announces_missing = True

    def serves(self, type_url: str) -> bool:
        """See ``ResourceSource.serves``."""
        return type_url in _TYPES

    def lookup(self, type_url: str, name: str) -> Resource | None:  # noqa: ARG002
        """See ``ResourceSource.lookup``."""
        return None

    def resolve(self, type_url: str, name: str) -> Iterable[Resource]:  # noqa: ARG002
        """See ``ResourceSource.resolve``."""
        return ()

    def all(self, type_url: str) -> Collection[Resource]:  # noqa: ARG002
        """See ``ResourceSource.all``."""
        return ()

    def watch(self, listener: Listener) -> Callable[[], None]:  # noqa: ARG002
        """See ``ResourceSource.watch``."""
        return lambda: None

    def wanted(self, type_url: str, names: Set[str]) -> None:
        """See ``ResourceSource.wanted``."""
