"""What a discovery server serves: named, versioned, already serialized resources that change."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Set
from dataclasses import dataclass, field
from typing import Protocol

from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2
from google.protobuf.message import Message


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource, ready for the wire.

    Attributes:
        name: its primary name, unique within its type.
        version: changes exactly when ``body`` does (a hash of it).
        body: the serialized message.
        aliases: other names that clients may subscribe by.
        parents: primary names of resources whose subscribers also want this one (a service brings its workloads).
    """

    name: str
    version: str
    body: bytes
    aliases: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    _entries: dict[str, bytes] = field(default_factory=dict, init=False, compare=False, repr=False)

    def entry(self, type_url: str) -> bytes:
        """Return the resource as an entry of a delta response, ready to be joined with others.

        Made once: what changes for a thousand streams is encoded for the first of them.
        """
        entry = self._entries.get(type_url)
        if entry is None:
            entry = self._entries[type_url] = discovery_pb2.DeltaDiscoveryResponse(
                resources=[
                    discovery_pb2.Resource(
                        name=self.name,
                        version=self.version,
                        aliases=self.aliases,
                        resource=any_pb2.Any(type_url=type_url, value=self.body),
                    )
                ]
            ).SerializeToString()
        return entry


def versioned(name: str, message: Message, *, aliases: tuple[str, ...] = (), parents: tuple[str, ...] = ()) -> Resource:
    """Return a message as a resource; its version is the hash of its bytes, so all replicas give it the same."""
    return hashed(name, message.SerializeToString(deterministic=True), aliases=aliases, parents=parents)


def hashed(name: str, body: bytes, *, aliases: tuple[str, ...] = (), parents: tuple[str, ...] = ()) -> Resource:
    """Return a serialized message as a resource, as ``versioned`` does."""
    version = hashlib.blake2b(body, digest_size=8).hexdigest()
    return Resource(name=name, version=version, body=body, aliases=aliases, parents=parents)


Listener = Callable[[str, frozenset[str]], None]
"""Called with a type URL and the primary names that were added, changed or removed. Must not block."""


class ResourceSource(Protocol):
    """Gives resources by name and says when they change. Used on one event loop only.

    Attributes:
        announces_missing: whether a subscription to an unknown name is answered at once that it does not exist
            (workload discovery: callers wait for that answer) or gets it when it exists (secrets: it will be made).
    """

    announces_missing: bool

    def serves(self, type_url: str) -> bool:
        """Return whether the type is known here."""
        ...

    def lookup(self, type_url: str, name: str) -> Resource | None:
        """Return a resource by its primary name."""
        ...

    def resolve(self, type_url: str, name: str) -> Iterable[Resource]:
        """Return the resources for a subscription to ``name``: by primary name or alias, with dependent resources."""
        ...

    def all(self, type_url: str) -> Collection[Resource]:
        """Return every resource of the type: what a wildcard subscription gets."""
        ...

    def watch(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` at every change until the returned function is called."""
        ...

    def wanted(self, type_url: str, names: Set[str]) -> None:
        """A client has subscribed to ``names``; a source may start to create them."""
        ...
