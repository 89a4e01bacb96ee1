"""The state-of-the-world variant of a discovery stream: every response has all that the client is subscribed to.

Rules (xDS protocol, "Resource updates" and "How the client specifies what resources to return"):

1.  A request with the nonce of the last response and no error is an ACK, with ``error_detail`` a NACK. A request with
    an older nonce is stale and ignored, its names too.
2.  A first request without names is a wildcard, except for the types that are subscribed to by name only; so is ``*``.
3.  What is missing from a response to a wildcard is gone; of the types by name, absence says nothing.
4.  Envoy holds a changed cluster back until it has its endpoints, and does not request endpoints again that
    it has (envoyproxy/envoy issue 13009): endpoints are sent again after clusters.
"""

import hashlib
from collections.abc import Awaitable, Callable, Iterable, Sequence, Set
from dataclasses import dataclass, field

from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2

from meshapi import names as known
from meshkit.xds.admission import Admission
from meshkit.xds.order import BY_NAME, ordered
from meshkit.xds.peer import Observer
from meshkit.xds.source import Resource, ResourceSource
from meshkit.xds.stream import Stream, View, reason_of
from meshkit.xds.subscription import WILDCARD, Delta, Record, note_answer


@dataclass(slots=True)
class WholeSubscription:
    """State of one type on one stream, without any I/O."""

    type_url: str
    source: ResourceSource
    wildcard: bool = False
    names: set[str] = field(default_factory=set)
    record: Record = field(default_factory=Record)
    _last: dict[str, str] | None = None
    """Versions of the last response; ``None`` before the first."""

    def request(self, names: Iterable[str], nonce: str) -> Sequence[Resource] | None:
        """Take a request's names in; return what to send, ``None`` for nothing."""
        if self.is_stale(nonce):
            return None
        wanted = set(names)
        is_first = self._last is None and not self.names and not self.wildcard
        becomes_wildcard = WILDCARD in wanted or (is_first and not wanted and self.type_url not in BY_NAME)
        was_wildcard, self.wildcard = self.wildcard, becomes_wildcard or (self.wildcard and not wanted)
        wanted.discard(WILDCARD)
        added = wanted - self.names
        self.names = wanted
        if self._last is not None and not self.wildcard:
            self._last = {name: version for name, version in self._last.items() if name in wanted}
        if added:
            self.source.wanted(self.type_url, added)
        return self.everything() if added or self.wildcard is not was_wildcard else None

    def is_stale(self, nonce: str) -> bool:
        """Return whether a request answers an older response than the last one."""
        return bool(nonce) and nonce != str(self.record.sent)

    def changed(self, names: Set[str]) -> Sequence[Resource] | None:
        """Return what to send after ``names`` have changed in the source, ``None`` for nothing."""
        return self.everything() if self.concerns(names) else None

    def concerns(self, names: Set[str]) -> bool:
        """Return whether a change of one of ``names`` may have to be sent."""
        return self.wildcard or not self.names.isdisjoint(names)

    def size(self) -> int:
        """Return how many resources the client holds, or is about to."""
        return len(self._last or ())

    def sent(self, resources: Sequence[Resource]) -> tuple[str, str]:
        """Count one response; return its version and nonce."""
        self.record.sent += 1
        digest = hashlib.blake2b(digest_size=8)
        for resource in resources:
            digest.update(f"{resource.name}={resource.version};".encode())
        return digest.hexdigest(), str(self.record.sent)

    def answered(self, nonce: str, error: str | None, names: Iterable[str] = ()) -> None:
        """Note an ACK (``error`` is ``None``) or a NACK of the response with ``nonce``, which was about ``names``."""
        note_answer(self.record, nonce, error, names)

    def everything(self, *, again: bool = False) -> Sequence[Resource] | None:
        """Return all that is subscribed to, ``None`` where that was sent already and not ``again`` is wanted."""
        if self.wildcard:
            existing = sorted(self.source.all(self.type_url), key=lambda item: item.name)
        else:
            found = (self.source.lookup(self.type_url, name) for name in sorted(self.names))
            existing = [resource for resource in found if resource is not None]
        versions = {resource.name: resource.version for resource in existing}
        if (versions == self._last and not again) or (not existing and not self.wildcard):
            return None
        self._last = versions
        return existing


class WholeStream(Stream[discovery_pb2.DiscoveryRequest, discovery_pb2.DiscoveryResponse]):
    """Serves one state-of-the-world stream. Administrators' tools use this variant, and must not wait for an answer."""

    _must_serve = True

    def __init__(self, view: View, observer: Observer, identity: str, admission: Admission | None = None) -> None:
        super().__init__(view, observer, identity, admission)
        self._answers: dict[str, Sequence[Resource]] = {}
        self._replies: list[discovery_pb2.DiscoveryResponse] = []

    def reply(self, response: discovery_pb2.DiscoveryResponse) -> None:
        """Write a response that belongs to no subscription."""
        self._replies.append(response)
        self._wake.set()

    def _take(self, source: ResourceSource, request: discovery_pb2.DiscoveryRequest) -> None:
        type_url = request.type_url
        subscription: WholeSubscription | None = self.peer.subscriptions.get(type_url)
        if subscription is None:
            subscription = self.peer.subscriptions[type_url] = WholeSubscription(type_url, source)
        elif request.response_nonce and not subscription.is_stale(request.response_nonce):
            self._acknowledged(type_url, request.response_nonce, reason_of(request))
        answer = subscription.request(request.resource_names, request.response_nonce)
        if answer is not None:
            self._answers[type_url] = answer
            self._wake.set()

    async def _flush(self, write: Callable[[discovery_pb2.DiscoveryResponse], Awaitable[None]]) -> None:
        replies, self._replies = self._replies, []
        for reply in replies:
            await write(reply)
        answers, self._answers = self._answers, {}
        changed, self._changed = self._changed, {}
        since, self._changed_at = self._changed_at, {}
        has_clusters = False
        for type_url in ordered(self.peer.subscriptions):
            subscription: WholeSubscription = self.peer.subscriptions[type_url]
            resources = answers.get(type_url)
            if type_url in changed:
                resources = subscription.changed(changed[type_url][0].union(*changed[type_url][1:])) or resources
            elif type_url == known.ENDPOINT_TYPE and has_clusters:
                resources = subscription.everything(again=True)
            if resources is not None:
                has_clusters = has_clusters or type_url == known.CLUSTER_TYPE
                await self._send_whole(write, subscription, resources, since.get(type_url))

    async def _send_whole(
        self,
        write: Callable[[discovery_pb2.DiscoveryResponse], Awaitable[None]],
        subscription: WholeSubscription,
        resources: Sequence[Resource],
        since: float | None,
    ) -> None:
        type_url = subscription.type_url
        version, nonce = subscription.sent(resources)
        response = discovery_pb2.DiscoveryResponse(
            type_url=type_url,
            version_info=version,
            nonce=nonce,
            resources=[any_pb2.Any(type_url=type_url, value=item.body) for item in resources],
        )
        await self._send(type_url, Delta(resources, ()), nonce, since, lambda: write(response))
