"""What one client wants of one type, and what it has: the delta protocol's bookkeeping, without any I/O.

Rules (xDS protocol, "Incremental xDS" and "How the client specifies what resources to return"):

1.  A first request that subscribes to nothing is a wildcard; so is the name ``*``. Unsubscribing from ``*`` ends it.
    A first request that subscribes to and unsubscribes from ``*`` therefore subscribes to nothing (on-demand
    discovery).
2.  ``initial_resource_versions`` of the first request are what the client holds: equal versions are not sent again,
    names that exist no more are answered as removed (unless the source will make them yet, as a certificate), and
    without a wildcard they count as subscribed.
3.  A subscription by name is always answered, even if the resource was sent before. The first request is always
answered too,
    if only with an empty response: clients take it as "you now have everything".
4.  A NACK changes nothing here: the client keeps its last good resource, and the same bytes would fail again. The
    next version is sent as usual.
5.  What a client with a wildcard holds is what the source has, but for the changes that are on their way to it. So
    nothing is remembered for it: a thousand streams with a hundred thousand resources would cost gigabytes.
"""

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from meshkit.xds.source import Resource, ResourceSource

WILDCARD = "*"

_BETWEEN = re.compile(r"""[\s"'`,;()\[\]{}<>]+""")


@dataclass(frozen=True, slots=True)
class Delta:
    """What one response carries."""

    upserts: Sequence[Resource]
    removes: Sequence[str]
    must_send: bool = False

    def __bool__(self) -> bool:
        return self.must_send or bool(self.upserts) or bool(self.removes)


@dataclass(slots=True)
class Record:
    """The conversation so far, for debug pages.

    Attributes:
        sent: nonce of the last response, 0 before the first.
        acked: the last nonce that the client accepted.
        nacked: the last nonce that it refused.
        error: what it said then.
        rejects: how many responses it has refused.
        refused: resources that it named when it refused them, and that it has not accepted since.
    """

    sent: int = 0
    acked: int = 0
    nacked: int = 0
    error: str = ""
    rejects: int = 0
    refused: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Subscription:
    """State of one type on one stream."""

    type_url: str
    source: ResourceSource
    wildcard: bool = False
    names: set[str] = field(default_factory=set)
    held: dict[str, str] = field(default_factory=dict)
    record: Record = field(default_factory=Record)
    _started: bool = False

    def request(
        self, subscribe: Iterable[str], unsubscribe: Iterable[str], initial_versions: Mapping[str, str]
    ) -> Delta:
        """Take a request's names in and return what to answer."""
        requested = set(subscribe)
        dropped = set(unsubscribe)
        first, self._started = not self._started, True
        becomes_wildcard = WILDCARD in requested or (first and not requested)
        requested.discard(WILDCARD)
        if first:
            self.held = {name: version for name, version in initial_versions.items() if version}
        starts_wildcard = becomes_wildcard and WILDCARD not in dropped and not self.wildcard
        self.wildcard = (self.wildcard or becomes_wildcard) and WILDCARD not in dropped
        self._forget(dropped - {WILDCARD})
        if first and not self.wildcard:
            self.names |= set(initial_versions)
        again = requested if not first else requested - initial_versions.keys()
        self.names |= requested
        if requested:
            self.source.wanted(self.type_url, requested)
        return self._answer(first=first, everything=starts_wildcard, requested=requested, again=again)

    def changed(self, names: Set[str]) -> Delta:
        """Return what the client must learn after ``names`` have changed in the source."""
        upserts: list[Resource] = []
        removes = []
        if self.wildcard:
            present = {name: self.source.lookup(self.type_url, name) for name in names}
            upserts = [resource for resource in present.values() if resource is not None]
            return Delta(upserts, [name for name, resource in present.items() if resource is None])
        for name in names:
            resource = self.source.lookup(self.type_url, name)
            if resource is None:
                if self.held.pop(name, None) is not None:
                    removes.append(name)
            elif self.held.get(name) != resource.version and self._wants(resource):
                # One that is new to the client brings along what hangs on it, which may have been there before it.
                found = () if name in self.held else self.source.resolve(self.type_url, name)
                news = [item for item in (resource, *found) if self._is_news(item)]
                upserts += {item.name: item for item in news}.values()
                self.held.update({item.name: item.version for item in news})
        return Delta(upserts, removes)

    def again(self, names: Set[str]) -> Delta:
        """Return those of ``names`` that the client holds, to be sent once more."""
        held = (self.source.lookup(self.type_url, name) for name in sorted(names) if name in self.held)
        return Delta([resource for resource in held if resource is not None], ())

    def concerns(self, names: Set[str]) -> bool:
        """Return whether a change of one of ``names`` may have to be sent; costs some look-ups for each."""
        if self.wildcard:
            return True
        for name in names:
            if name in self.held or name in self.names:
                return True
            resource = self.source.lookup(self.type_url, name)
            if resource is not None and self._wants(resource):
                return True
        return False

    def size(self) -> int:
        """Return how many resources the client holds, or is about to."""
        return len(self.source.all(self.type_url)) if self.wildcard else len(self.held)

    def sent(self) -> str:
        """Count one response; return its nonce."""
        self.record.sent += 1
        return str(self.record.sent)

    def answered(self, nonce: str, error: str | None, names: Iterable[str] = ()) -> None:
        """Note an ACK (``error`` is ``None``) or a NACK of the response with ``nonce``, which was about ``names``."""
        note_answer(self.record, nonce, error, names)

    def _answer(self, *, first: bool, everything: bool, requested: Set[str], again: Set[str]) -> Delta:
        upserts: dict[str, Resource] = {}
        removes = []
        if everything:
            upserts = {item.name: item for item in self.source.all(self.type_url) if self._is_news(item)}
        looked_up = requested | self.names if first else requested
        for name in looked_up:
            found = list(self.source.resolve(self.type_url, name))
            if not found and name not in self.held and self.source.announces_missing:
                removes.append(name)
            upserts.update({item.name: item for item in found if name in again or self._is_news(item)})
        if first:
            gone = [name for name in self.held if self.source.lookup(self.type_url, name) is None]
            for name in gone:
                del self.held[name]
            if self.source.announces_missing:
                removes += gone
        self.held.update({item.name: item.version for item in upserts.values()})
        if self.wildcard:
            self.held.clear()
        complete_answer = first and (self.wildcard or self.source.announces_missing)
        return Delta(list(upserts.values()), removes, must_send=complete_answer)

    def _is_news(self, resource: Resource) -> bool:
        return self.held.get(resource.name) != resource.version

    def _wants(self, resource: Resource) -> bool:
        return (
            self.wildcard
            or resource.name in self.held
            or resource.name in self.names
            or not self.names.isdisjoint(resource.aliases)
            or any(parent in self.held for parent in resource.parents)
        )

    def _forget(self, names: Iterable[str]) -> None:
        for name in names:
            self.names.discard(name)
            if not self.wildcard:
                for resource in self.source.resolve(self.type_url, name):
                    self.held.pop(resource.name, None)


def note_answer(record: Record, nonce: str, error: str | None, names: Iterable[str]) -> None:
    """Note an ACK (``error`` is ``None``) or a NACK of the response with ``nonce``, which was about ``names``."""
    number = int(nonce) if nonce.isdecimal() else 0
    names = list(names)
    if error is None:
        record.acked = max(record.acked, number)
        for name in names if record.refused else ():
            record.refused.pop(name, None)
        return
    # The protocol does not say which ones a NACK is about; clients that do so say it in the text.
    named = names if len(names) == 1 else _named(error).intersection(names)
    record.refused.update(dict.fromkeys(named, error))
    record.nacked = max(record.nacked, number)
    record.error = error
    record.rejects += 1


def _named(text: str) -> set[str]:
    """Return what a text may name, cut at what no name of a resource has: looking for each name would take as long as a
    client likes, who has as many names as it is sent and as much text as it sends."""
    parts = _BETWEEN.split(text)
    return {*parts, *(part.rstrip(".:") for part in parts)}
