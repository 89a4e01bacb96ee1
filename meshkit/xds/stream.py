"""One discovery stream on the server's side, whichever variant: requests in, responses out, at the client's speed.

A change reaches an idle stream at once. While a response is being written (a slow client, a large answer) further
changes collect as sets of names, so a stream never holds more than one response in memory and always sends the newest
state.

What a client sees is a *view*: it is chosen when the client has said who it is, with its first request.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Generic, TypeVar

from google.protobuf import json_format

from meshkit.xds.admission import Admission, Slot
from meshkit.xds.errors import Unserved
from meshkit.xds.peer import Observer, Peer, Timing
from meshkit.xds.source import ResourceSource
from meshkit.xds.subscription import Delta

RequestT = TypeVar("RequestT")
WrittenT = TypeVar("WrittenT")
View = Callable[[Peer], ResourceSource]
"""From a peer, with its node ID and metadata, to the resources that it may see."""

MAX_UNANSWERED = 64
"""Unacknowledged responses whose names are kept for the log of a NACK; beyond, the oldest are dropped."""
MAX_REASON = 16 * 1024
"""Characters of a NACK that are looked at, logged and kept."""


class Stream(ABC, Generic[RequestT, WrittenT]):
    """Serves one stream until the client leaves. Construct, then ``run`` once.

    Requests for types that the source does not serve are ignored.

    Args:
        view: chooses what the client sees.
        observer: sees what happens.
        identity: who the client was authenticated as.
        admission: limits how many streams begin at once.
    """

    _must_serve = False
    """Whether a client whose first request is for a type that is not served is turned away."""

    def __init__(self, view: View, observer: Observer, identity: str, admission: Admission | None = None) -> None:
        self._view = view
        self._source: ResourceSource | None = None
        self._stop_watching: Callable[[], None] = lambda: None
        self._admission = admission or Admission()
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        self.peer = Peer(identity=identity, connected_at=self._loop.time())
        self._changed: dict[str, list[frozenset[str]]] = {}
        self._changed_at: dict[str, float] = {}
        self._wake = asyncio.Event()
        self._is_read = False
        """Whether the client has sent its last request."""
        self._in_flight: dict[tuple[str, str], list[str]] = {}

    async def run(self, requests: AsyncIterator[RequestT], write: Callable[[WrittenT], Awaitable[None]]) -> None:
        """Serve ``requests`` with ``write`` until either ends.

        Raises:
            Unserved: the first request is for a type that is not served, and must be.
        """
        slot = await self._admission.enter()
        reader = asyncio.create_task(self._read(requests))
        writer = asyncio.create_task(self._write(write, slot))
        try:
            # A client that has sent its last request still gets what is due then.
            done, _ = await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            slot.leave()
            self._stop_watching()
            for task in (reader, writer):
                task.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)
            if self._source is not None:
                self._observer.disconnected(self.peer)

    @abstractmethod
    def _take(self, source: ResourceSource, request: RequestT) -> None:
        """Take a request for a type that the source serves."""

    @abstractmethod
    async def _flush(self, write: Callable[[WrittenT], Awaitable[None]]) -> None:
        """Write what requests and changes have made due."""

    def _on_change(self, type_url: str, names: frozenset[str]) -> None:
        subscription = self.peer.subscriptions.get(type_url)
        if subscription is None or not subscription.concerns(names):
            return
        # The set is the source's own and shared by all streams: a change of everything is not copied a thousand times.
        self._changed.setdefault(type_url, []).append(names)
        self._changed_at.setdefault(type_url, self._loop.time())
        self._wake.set()

    async def _read(self, requests: AsyncIterator[Any]) -> None:
        async for request in requests:
            if request.HasField("node") and not self.peer.node_id:
                self.peer.node_id = request.node.id
                self.peer.metadata = json_format.MessageToDict(request.node.metadata)
            source = self._source or self._view(self.peer)
            if self._source is None:
                if self._must_serve and not source.serves(request.type_url):
                    raise Unserved(f"type {request.type_url!r} is not served to {self.peer.node_id or 'this client'}")
                self._source = source
                self._stop_watching = source.watch(self._on_change)
                self._observer.connected(self.peer)
            if source.serves(request.type_url):
                self._take(source, request)
        self._is_read = True
        self._wake.set()

    async def _write(self, write: Callable[[WrittenT], Awaitable[None]], slot: Slot) -> None:
        while True:
            if self._has_begun():
                slot.leave()
            await self._wake.wait()
            self._wake.clear()
            was_read = self._is_read
            await self._flush(write)
            if was_read:
                return

    def _has_begun(self) -> bool:
        """Return whether the client has had its first response of each type that it subscribes to."""
        subscriptions = self.peer.subscriptions.values()
        return bool(subscriptions) and all(item.record.sent for item in subscriptions)

    def _acknowledged(self, type_url: str, nonce: str, error: str | None) -> None:
        """Note an ACK (``error`` is ``None``) or a NACK."""
        subscription = self.peer.subscriptions[type_url]
        resources = self._in_flight.pop((type_url, nonce), [])
        before = dict(subscription.record.refused)
        subscription.answered(nonce, error, resources)
        if error is not None:
            self._observer.refused(self.peer, type_url, resources, error)
        if subscription.record.refused != before:
            self._observer.refuses(self.peer, type_url, subscription.record.refused)

    async def _send(
        self, type_url: str, delta: Delta, nonce: str, since: float | None, written: Callable[[], Awaitable[None]]
    ) -> None:
        """Write a response and note it."""
        self._in_flight[type_url, nonce] = [*(item.name for item in delta.upserts), *delta.removes]
        if len(self._in_flight) > MAX_UNANSWERED:
            del self._in_flight[next(iter(self._in_flight))]
        begun = self._loop.time()
        await written()
        timing = Timing(None if since is None else begun - since, self._loop.time() - begun)
        self._observer.sent(self.peer, type_url, delta, timing)


def reason_of(request: Any) -> str | None:
    """Return the reason of a NACK; ``None`` for any other request."""
    return str(request.error_detail.message)[:MAX_REASON] if request.HasField("error_detail") else None
