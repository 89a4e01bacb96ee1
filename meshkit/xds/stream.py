"""One delta discovery stream on the server's side: requests in, responses out, at the client's speed.

A change reaches an idle stream at once. While a response is being written (a slow client, a large answer) further
changes collect as sets of names, so a stream never holds more than one response in memory and always sends the newest
state.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from envoy.service.discovery.v3 import discovery_pb2

from meshkit.xds.admission import Admission, Slot
from meshkit.xds.source import ResourceSource
from meshkit.xds.subscription import Delta, Subscription

_MAX_UNANSWERED = 64
"""Unacknowledged responses whose names are kept for the log of a NACK; beyond, the oldest are dropped."""

_MOST_ERROR = 16 * 1024
"""Characters of a NACK that are looked at, logged and kept."""


@dataclass(slots=True)
class Peer:
    """The client at the other end.

    Attributes:
        node_id: what it calls itself; set by its first request.
        metadata: its node metadata.
        identity: who it was authenticated as.
        connected_at: loop time.
        subscriptions: by type URL.
    """

    identity: str
    connected_at: float
    node_id: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    subscriptions: dict[str, Subscription] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a response took, in seconds.

    Attributes:
        queued_s: from the change that caused it to its beginning; ``None`` for the answer to a request.
        write_s: until it was written.
    """

    queued_s: float | None
    write_s: float


class Observer(Protocol):
    """Sees what happens on the streams of a server: for metrics, logs and debug pages."""

    def connected(self, peer: Peer) -> None:
        """Note that a peer has opened a stream."""
        ...

    def disconnected(self, peer: Peer) -> None:
        """Note that the stream has ended."""
        ...

    def sent(self, peer: Peer, type_url: str, delta: Delta, timing: Timing) -> None:
        """Note a response that has been written."""
        ...

    def refused(self, peer: Peer, type_url: str, resources: list[str], reason: str) -> None:
        """Note a NACK; ``resources`` are the names in the response that was refused."""
        ...


class SilentObserver:
    """Sees nothing."""

    def connected(self, peer: Peer) -> None:
        """Ignore it."""

    def disconnected(self, peer: Peer) -> None:
        """Ignore it."""

    def sent(self, peer: Peer, type_url: str, delta: Delta, timing: Timing) -> None:
        """Ignore it."""

    def refused(self, peer: Peer, type_url: str, resources: list[str], reason: str) -> None:
        """Ignore it."""


class DeltaStream:
    """Serves one stream until the client leaves. Construct, then ``run`` once."""

    def __init__(
        self, source: ResourceSource, observer: Observer, identity: str, admission: Admission | None = None
    ) -> None:
        self._admission = admission or Admission()
        self._source = source
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        self.peer = Peer(identity=identity, connected_at=self._loop.time())
        self._changed: dict[str, list[frozenset[str]]] = {}
        self._changed_at: dict[str, float] = {}
        self._answers: list[tuple[str, Delta]] = []
        self._wake = asyncio.Event()
        self._in_flight: dict[tuple[str, str], list[str]] = {}

    async def run(
        self,
        requests: AsyncIterator[discovery_pb2.DeltaDiscoveryRequest],
        write: Callable[[bytes], Awaitable[None]],
    ) -> None:
        """Serve ``requests`` with ``write`` until either ends."""
        slot = await self._admission.enter()
        stop_watching = self._source.watch(self._on_change)
        self._observer.connected(self.peer)
        reader = asyncio.create_task(self._read(requests))
        writer = asyncio.create_task(self._write(write, slot))
        try:
            done, _ = await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            slot.leave()
            stop_watching()
            for task in (reader, writer):
                task.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)
            self._observer.disconnected(self.peer)

    def _on_change(self, type_url: str, names: frozenset[str]) -> None:
        subscription = self.peer.subscriptions.get(type_url)
        if subscription is None or not subscription.concerns(names):
            return
        # The set is the source's own and shared by all streams: a change of everything is not copied a thousand times.
        self._changed.setdefault(type_url, []).append(names)
        self._changed_at.setdefault(type_url, self._loop.time())
        self._wake.set()

    async def _read(self, requests: AsyncIterator[discovery_pb2.DeltaDiscoveryRequest]) -> None:
        async for request in requests:
            if request.HasField("node") and not self.peer.node_id:
                self.peer.node_id = request.node.id
                self.peer.metadata = dict(request.node.metadata.items())
            if self._source.serves(request.type_url):
                self._take(request)

    def _take(self, request: discovery_pb2.DeltaDiscoveryRequest) -> None:
        type_url = request.type_url
        subscription = self.peer.subscriptions.get(type_url)
        is_first = subscription is None
        if subscription is None:
            subscription = self.peer.subscriptions[type_url] = Subscription(type_url, self._source)
        if request.response_nonce and not is_first:
            self._acknowledge(subscription, request)
        if is_first or request.resource_names_subscribe or request.resource_names_unsubscribe:
            delta = subscription.request(
                request.resource_names_subscribe,
                request.resource_names_unsubscribe,
                request.initial_resource_versions,
            )
            self._answers.append((type_url, delta))
            self._wake.set()

    def _acknowledge(self, subscription: Subscription, request: discovery_pb2.DeltaDiscoveryRequest) -> None:
        resources = self._in_flight.pop((request.type_url, request.response_nonce), [])
        error = request.error_detail.message[:_MOST_ERROR] if request.HasField("error_detail") else None
        subscription.answered(request.response_nonce, error, resources)
        if error is not None:
            self._observer.refused(self.peer, request.type_url, resources, error)

    async def _write(self, write: Callable[[bytes], Awaitable[None]], slot: Slot) -> None:
        while True:
            if self._has_begun():
                slot.leave()
            await self._wake.wait()
            self._wake.clear()
            answers, self._answers = self._answers, []
            for type_url, delta in answers:
                await self._send(write, type_url, delta, None)
            changed, self._changed = self._changed, {}
            since, self._changed_at = self._changed_at, {}
            # What is made comes before what needs it, what is gone after what needed it: types have the order in which
            # the source announces them, and removals in reverse.
            gone = []
            for number, (type_url, names) in enumerate(changed.items(), start=1):
                delta = self.peer.subscriptions[type_url].changed(
                    names[0] if len(names) == 1 else names[0].union(*names[1:])
                )
                if delta.removes and number < len(changed):
                    gone.append((type_url, Delta((), delta.removes)))
                    delta = Delta(delta.upserts, ())
                await self._send(write, type_url, delta, since[type_url])
            for type_url, delta in reversed(gone):
                await self._send(write, type_url, delta, since[type_url])

    def _has_begun(self) -> bool:
        """Return whether the client has had its first response of each type that it subscribes to."""
        subscriptions = self.peer.subscriptions.values()
        return bool(subscriptions) and not self._answers and all(item.record.sent for item in subscriptions)

    async def _send(
        self,
        write: Callable[[bytes], Awaitable[None]],
        type_url: str,
        delta: Delta,
        since: float | None,
    ) -> None:
        if not delta:
            return
        nonce = self.peer.subscriptions[type_url].sent()
        self._in_flight[type_url, nonce] = [*(item.name for item in delta.upserts), *delta.removes]
        if len(self._in_flight) > _MAX_UNANSWERED:
            del self._in_flight[next(iter(self._in_flight))]
        begun = self._loop.time()
        await write(encode(type_url, delta, nonce))
        timing = Timing(None if since is None else begun - since, self._loop.time() - begun)
        self._observer.sent(self.peer, type_url, delta, timing)


def encode(type_url: str, delta: Delta, nonce: str) -> bytes:
    """Return the serialized ``DeltaDiscoveryResponse`` for a delta.

    Messages that are joined are merged (Protocol Buffers, "Last one wins"): lists are appended, so ready entries need
    not be encoded again.
    """
    head = discovery_pb2.DeltaDiscoveryResponse(type_url=type_url, nonce=nonce, removed_resources=delta.removes)
    return b"".join((head.SerializeToString(), *(item.entry(type_url) for item in delta.upserts)))
