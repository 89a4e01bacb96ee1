"""The incremental variant of a discovery stream.

Envoy holds a changed cluster back until it has its endpoints, and does not request endpoints again that it has
(envoyproxy/envoy issue 13009). So the endpoints of a cluster are sent again after it; they have the cluster's name.
"""

from collections.abc import Awaitable, Callable

from envoy.service.discovery.v3 import discovery_pb2

from meshapi import names as known
from meshkit.xds.admission import Admission
from meshkit.xds.order import ordered
from meshkit.xds.peer import Observer
from meshkit.xds.source import ResourceSource
from meshkit.xds.stream import Stream, View, reason_of
from meshkit.xds.subscription import Delta, Subscription


class DeltaStream(Stream[discovery_pb2.DeltaDiscoveryRequest, bytes]):
    """Serves one incremental stream."""

    def __init__(self, view: View, observer: Observer, identity: str, admission: Admission | None = None) -> None:
        super().__init__(view, observer, identity, admission)
        self._answers: list[tuple[str, Delta]] = []
        self._without_endpoints: set[str] = set()
        """Clusters that were sent after their endpoints, if the client had these before."""

    def _take(self, source: ResourceSource, request: discovery_pb2.DeltaDiscoveryRequest) -> None:
        type_url = request.type_url
        subscription: Subscription | None = self.peer.subscriptions.get(type_url)
        is_first = subscription is None
        if subscription is None:
            subscription = self.peer.subscriptions[type_url] = Subscription(type_url, source)
        if request.response_nonce and not is_first:
            self._acknowledged(type_url, request.response_nonce, reason_of(request))
        if is_first or request.resource_names_subscribe or request.resource_names_unsubscribe:
            delta = subscription.request(
                request.resource_names_subscribe,
                request.resource_names_unsubscribe,
                request.initial_resource_versions,
            )
            self._answers.append((type_url, delta))
            self._wake.set()

    async def _flush(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        answers, self._answers = self._answers, []
        for type_url, delta in answers:
            await self._send_delta(write, type_url, delta, None)
        changed, self._changed = self._changed, {}
        since, self._changed_at = self._changed_at, {}
        # What is made comes before what needs it, what is gone after what needed it.
        gone = []
        types = ordered(changed)
        for type_url in types:
            names = changed[type_url]
            delta = self.peer.subscriptions[type_url].changed(
                names[0] if len(names) == 1 else names[0].union(*names[1:])
            )
            if delta.removes and type_url != types[-1]:
                gone.append((type_url, Delta((), delta.removes)))
                delta = Delta(delta.upserts, ())
            await self._send_delta(write, type_url, delta, since[type_url])
        for type_url, delta in reversed(gone):
            await self._send_delta(write, type_url, delta, since[type_url])
        await self._send_endpoints_again(write)

    async def _send_endpoints_again(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        subscription: Subscription | None = self.peer.subscriptions.get(known.ENDPOINT_TYPE)
        if subscription is not None and self._without_endpoints:
            held = subscription.again(self._without_endpoints)
            self._without_endpoints.clear()
            await self._send_delta(write, known.ENDPOINT_TYPE, held, None)

    async def _send_delta(
        self, write: Callable[[bytes], Awaitable[None]], type_url: str, delta: Delta, since: float | None
    ) -> None:
        if not delta:
            return
        if type_url == known.CLUSTER_TYPE:
            self._without_endpoints.update(item.name for item in delta.upserts)
        elif type_url == known.ENDPOINT_TYPE:
            self._without_endpoints.difference_update(item.name for item in delta.upserts)
        nonce = self.peer.subscriptions[type_url].sent()
        await self._send(type_url, delta, nonce, since, lambda: write(encode(type_url, delta, nonce)))


def encode(type_url: str, delta: Delta, nonce: str) -> bytes:
    """Return the serialized ``DeltaDiscoveryResponse`` for a delta.

    Messages that are joined are merged (Protocol Buffers, "Last one wins"): lists are appended, so ready entries need
    not be encoded again.
    """
    head = discovery_pb2.DeltaDiscoveryResponse(type_url=type_url, nonce=nonce, removed_resources=delta.removes)
    return b"".join((head.SerializeToString(), *(item.entry(type_url) for item in delta.upserts)))
