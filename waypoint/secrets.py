"""What the waypoint's proxy gets over SDS.

Its own certificate under the name that Envoy's configuration uses, ``default`` (Istio's agent), and what is in files.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Set

from meshapi import names
from meshapi.identity import SpiffeId
from meshkit.xds import sds
from meshkit.xds.source import Listener, Resource, ResourceSource
from waypoint import file_secrets


class OwnSecrets:
    """A ``ResourceSource`` with the certificate of one identity, the roots, and secrets in files."""

    announces_missing = False
    """A certificate that is missing will be issued; Envoy waits for it."""

    def __init__(self, issued: ResourceSource, identity: SpiffeId, in_files: ResourceSource) -> None:
        self._issued = issued
        self._in_files = in_files
        self._identity = str(identity)

    def serves(self, type_url: str) -> bool:
        """See ``ResourceSource.serves``."""
        return type_url == names.SECRET_TYPE

    def lookup(self, type_url: str, name: str) -> Resource | None:
        """See ``ResourceSource.lookup``."""
        if file_secrets.is_file(name):
            return self._in_files.lookup(type_url, name)
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
        own = [found for name in both if (found := self.lookup(type_url, name)) is not None]
        return [*own, *self._in_files.all(type_url)]

    def watch(self, listener: Listener) -> Callable[[], None]:
        """See ``ResourceSource.watch``."""

        def changed(type_url: str, changes: frozenset[str]) -> None:
            renamed = {names.WORKLOAD_SECRET_NAME if name == self._identity else name for name in changes}
            listener(type_url, frozenset(renamed))

        ends = (self._issued.watch(changed), self._in_files.watch(listener))

        def end() -> None:
            for one in ends:
                one()

        return end

    def wanted(self, type_url: str, names: Set[str]) -> None:
        """See ``ResourceSource.wanted``. Its own certificate is requested at the start."""
        self._in_files.wanted(type_url, names)
