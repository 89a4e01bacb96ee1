"""The waypoint's certificate under the name that Envoy's configuration uses: ``default`` (Istio's agent)."""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Set

from meshapi import names
from meshapi.identity import SpiffeId
from meshkit.xds import sds
from meshkit.xds.source import Listener, Resource, ResourceSource


class OwnSecrets:
    """A ``ResourceSource`` with the certificate of one identity, and the roots."""

    announces_missing = False
    """A certificate that is missing will be issued; Envoy waits for it."""

    def __init__(self, issued: ResourceSource, identity: SpiffeId) -> None:
        self._issued = issued
        self._identity = str(identity)

    def serves(self, type_url: str) -> bool:
        """See ``ResourceSource.serves``."""
        return type_url == names.SECRET_TYPE

    def lookup(self, type_url: str, name: str) -> Resource | None:
        """See ``ResourceSource.lookup``."""
        if name == names.ROOT_SECRET_NAME:
            return self._issued.lookup(type_url, name)
        found = self._issued.lookup(type_url, self._identity) if name == names.WORKLOAD_SECRET_NAME else None
        if found is None:
            return None
        pair = sds.decode(found.body)
        return dataclasses.replace(found, name=name, body=pair.encode(name))

    def resolve(self, type_url: str, name: str) -> Iterable[Resource]:
        """See ``ResourceSource.resolve``."""
        found = self.lookup(type_url, name)
        return () if found is None else (found,)

    def all(self, type_url: str) -> Collection[Resource]:
        """See ``ResourceSource.all``."""
        both = (names.WORKLOAD_SECRET_NAME, names.ROOT_SECRET_NAME)
        return [found for name in both if (found := self.lookup(type_url, name)) is not None]

    def watch(self, listener: Listener) -> Callable[[], None]:
        """See ``ResourceSource.watch``."""

        def changed(type_url: str, changes: frozenset[str]) -> None:
            renamed = {names.WORKLOAD_SECRET_NAME if name == self._identity else name for name in changes}
            listener(type_url, frozenset(renamed))

        return self._issued.watch(changed)

    def wanted(self, type_url: str, names: Set[str]) -> None:
        """See ``ResourceSource.wanted``. Ignored: the certificate is requested at the start."""
