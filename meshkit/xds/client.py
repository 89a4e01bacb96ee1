"""A delta discovery client: subscribe, hand resources over as bytes, acknowledge, reconnect.

State across connections is one dictionary: the version of every resource held. A reconnect says what is held, so only
what has changed meanwhile comes again. A refused resource is left out of it, so the server sends it again.

Resources are not decoded here: the receiver (the engine) checks them and answers with what it refused.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final, NoReturn, Protocol, TypeAlias

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import struct_pb2
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, status_pb2

from meshapi.errors import brief, listed
from meshkit.log import logger
from meshkit.tasks import Backoff
from meshkit.xds import credentials
from meshkit.xds.counts import End, StreamCounts

_log = logger("xds.client")

CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_receive_message_length", 200 * 1024 * 1024),
    ("grpc.enable_retries", 0),
    # The library shares failed connections, and their backoff of seconds, between channels; the backoff here is ours.
    ("grpc.use_local_subchannel_pool", 1),
)
_AUTHORITY = ("grpc.default_authority", "localhost")
"""A socket's path is no valid HTTP/2 authority; strict servers refuse it."""
_CONNECT_TIMEOUT_S = 5.0
_MOST_REASONS = 100
"""Refused resources that one answer names: servers take messages of 4 MiB."""
_OUTCOMES = (
    grpc.ChannelConnectivity.READY,
    grpc.ChannelConnectivity.TRANSIENT_FAILURE,
    grpc.ChannelConnectivity.SHUTDOWN,
)
_EXPECTED_ENDS = (grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)
"""How streams end in normal operation (server restart, stream age): the backoff starts afresh."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """A resource that the receiver refused."""

    name: str
    reason: str


class Receiver(Protocol):
    """Receives resources."""

    async def on_update(
        self, type_url: str, upserts: list[tuple[str, str, bytes]], removes: list[str]
    ) -> Sequence[Rejection]:
        """Apply (name, version, serialized message) and removed names; return the rejections.

        Every other resource is in force. Must not raise for bad resources.
        """
        ...


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """The node that this client reports to the server.

    Attributes:
        id: as ``ztunnel~10.0.0.1~ztunnel-x.istio-system~istio-system.svc.cluster.local``.
        metadata: text values by key, as ``NODE_NAME``.
    """

    id: str
    metadata: Mapping[str, str] = field(default_factory=dict)


class Service(StrEnum):
    """Which discovery service is called."""

    AGGREGATED = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
    SECRETS = "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets"


EVERYTHING: Final = None
"""Subscription to all resources of a type."""

Connect = Callable[[], grpc.aio.Channel]
Request: TypeAlias = discovery_pb2.DeltaDiscoveryRequest


def tls_channel(target: str, root_file: Path, server_name: str | None = None) -> Connect:
    """Return a way to connect over TLS; the root file is read at every connection, since it may be replaced."""

    def connect() -> grpc.aio.Channel:
        options: list[tuple[str, str | int]] = list(CHANNEL_OPTIONS)
        if server_name:
            options.append(("grpc.ssl_target_name_override", server_name))
        return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(root_file.read_bytes()), options=options)

    return connect


def unix_channel(path: Path) -> Connect:
    """Return a way to connect to a Unix socket."""
    return lambda: grpc.aio.insecure_channel(f"unix:{path}", options=[*CHANNEL_OPTIONS, _AUTHORITY])


class DeltaClient:
    """Keeps a receiver up to date over one stream. Construct, then ``run`` as a task. Not thread-safe.

    Args:
        connect: opens a channel, as ``tls_channel`` gives it.
        metadata: gives the metadata of one call, as ``credentials.token_metadata``.
        node: sent with the first request of every type.
        subscriptions: by type URL the first names, or ``EVERYTHING``; ``subscribe`` adds names later.
        service: ``AGGREGATED``, or ``SECRETS`` for an SDS server.
        receiver: takes the resources.
        optional: types that a server need not serve; they are not waited for.
        backoff: delays between attempts; by default 10 ms, doubling to 15 s.
    """

    def __init__(
        self,
        *,
        connect: Connect,
        node: NodeInfo,
        subscriptions: Mapping[str, Iterable[str] | None],
        receiver: Receiver,
        metadata: Callable[[], credentials.Metadata] = tuple,
        service: Service = Service.AGGREGATED,
        optional: Collection[str] = (),
        backoff: Backoff | None = None,
    ) -> None:
        self._connect = connect
        self._metadata = metadata
        self._node = node
        self._receiver = receiver
        self._service = service
        self._backoff = backoff or Backoff(first_s=0.01, cap_s=15.0)
        self._wanted = {url: None if wanted is None else set(wanted) for url, wanted in subscriptions.items()}
        self._required = self._wanted.keys() - set(optional)
        self._held: dict[str, dict[str, str]] = {type_url: {} for type_url in subscriptions}
        self._outgoing: asyncio.Queue[Request] | None = None
        self._started: set[str] = set()
        self._received: set[str] = set()
        self._all_received = asyncio.Event()
        self.connected = False
        """Whether a stream is open now and has been answered."""
        self.counts = StreamCounts(subscriptions)

    def subscribe(self, type_url: str, names: Iterable[str]) -> None:
        """Subscribe to more names of a type that has no wildcard subscription; sent at once when connected."""
        wanted = self._names(type_url)
        added = sorted(set(names) - wanted)
        wanted.update(added)
        if not added or self._outgoing is None:
            return
        if type_url in self._started:
            self._outgoing.put_nowait(Request(type_url=type_url, resource_names_subscribe=added))
        else:
            self._start(self._outgoing, type_url)

    def unsubscribe(self, type_url: str, names: Iterable[str]) -> None:
        """Unsubscribe from names. The receiver is not called: it is the caller."""
        wanted = self._names(type_url)
        dropped = sorted(wanted.intersection(names))
        wanted.difference_update(dropped)
        for name in dropped:
            self._held[type_url].pop(name, None)
        if dropped and self._outgoing is not None and type_url in self._started:
            self._outgoing.put_nowait(Request(type_url=type_url, resource_names_unsubscribe=dropped))

    async def wait_received(self) -> None:
        """Wait until a response of every type that is not optional has been accepted since the start."""
        await self._all_received.wait()

    def hold(self, type_url: str, versions: Mapping[str, str]) -> None:
        """Declare resources that are held already, restored from a snapshot. Call before ``run``."""
        self._held.setdefault(type_url, {}).update(versions)

    async def run(self) -> NoReturn:
        """Follow the server, reconnecting, until cancelled."""
        while True:
            reason, end = await self._attempt()
            self.connected = False
            self.counts.ends[end] += 1
            delay_s = self._backoff.next()
            _log.info("discovery stream ended, will reconnect", reason=reason, retry_in_s=round(delay_s, 3))
            await asyncio.sleep(delay_s)

    async def _attempt(self) -> tuple[str, End]:
        """Follow one stream to its end; return why it ended, for the log and for the metric."""
        try:
            channel = self._connect()
        except OSError as error:
            return f"cannot read the trust root: {error}", End.CONNECTION_ERROR
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                await settled(channel)
            await self._stream(channel)
        except TimeoutError:
            return f"no connection within {_CONNECT_TIMEOUT_S:.0f} s", End.CONNECTION_ERROR
        except OSError as error:
            return f"cannot read the token: {error}", End.CONNECTION_ERROR
        except DecodeError as error:
            return f"the server's response cannot be decoded: {error}", End.ERROR
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}", self._end_of(error.code())
        finally:
            self._outgoing = None
            self._started.clear()
            await channel.close()
        return "the server closed the stream", End.COMPLETE

    def _end_of(self, code: grpc.StatusCode) -> End:
        if code in _EXPECTED_ENDS:
            self._backoff.reset()
            return End.RECONNECT
        return End.ERROR if self.connected else End.CONNECTION_ERROR

    async def _stream(self, channel: grpc.aio.Channel) -> None:
        outgoing = self._outgoing = asyncio.Queue()
        for type_url in self._wanted:
            self._start(outgoing, type_url)
        call = channel.stream_stream(
            self._service.value,
            request_serializer=Request.SerializeToString,
            response_deserializer=bytes,
        )
        async for body in call(_drain(outgoing), metadata=self._metadata()):
            # Decoded here: the library gives nothing where its decoder fails.
            response = discovery_pb2.DeltaDiscoveryResponse.FromString(body)
            if not self.connected:
                self.connected = True
                self._backoff.reset()
                _log.info("discovery stream open", service=self._service.name.lower())
            outgoing.put_nowait(await self._take(response))
        self._backoff.reset()

    def _start(self, outgoing: "asyncio.Queue[Request]", type_url: str) -> None:
        """Send the first request of a type. Subscribing to nothing would mean everything, so no names: not yet."""
        wanted = self._wanted[type_url]
        if wanted is not None and not wanted:
            return
        metadata = struct_pb2.Struct()
        metadata.update(dict(self._node.metadata))
        self._started.add(type_url)
        outgoing.put_nowait(
            Request(
                node=base_pb2.Node(id=self._node.id, metadata=metadata),
                type_url=type_url,
                resource_names_subscribe=sorted(wanted or ()),
                initial_resource_versions=self._held[type_url],
            )
        )

    def _names(self, type_url: str) -> set[str]:
        wanted = self._wanted.get(type_url)
        if wanted is None:
            raise ValueError(f"{type_url} is not subscribed to by name")
        return wanted

    async def _take(self, response: discovery_pb2.DeltaDiscoveryResponse) -> Request:
        type_url = response.type_url
        if type_url not in self._wanted:
            return self._refusal(response, f"type {brief(type_url)!r} was not subscribed to")
        self.counts.received(response)
        upserts = [(item.name, item.version, item.resource.value) for item in response.resources]
        removes = list(response.removed_resources)
        rejections = await self._receiver.on_update(type_url, upserts, removes)
        refused = {rejection.name for rejection in rejections}
        held = self._held[type_url]
        held.update({name: version for name, version, _ in upserts if name not in refused})
        for name in refused.union(removes):
            held.pop(name, None)
        if rejections:
            reasons = [f"{rejection.name}: {rejection.reason}" for rejection in rejections]
            return self._refusal(response, listed(reasons, most=_MOST_REASONS))
        self._note_received(type_url)
        return Request(type_url=type_url, response_nonce=response.nonce)

    def _refusal(self, response: discovery_pb2.DeltaDiscoveryResponse, reason: str) -> Request:
        _log.warning("resources refused, last good ones stay", type=response.type_url, reason=reason)
        answer = Request(type_url=response.type_url, response_nonce=response.nonce)
        answer.error_detail.CopyFrom(status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message=reason))
        return answer

    def _note_received(self, type_url: str) -> None:
        self._received.add(type_url)
        if self._received >= self._required:
            self._all_received.set()


async def settled(channel: grpc.aio.Channel) -> grpc.ChannelConnectivity:
    """Wait for the outcome of one attempt to connect, and return it. Waiting longer would be the library's backoff.

    After a failure the call that follows fails at once, and its error says why, as a refused certificate.
    """
    while True:
        state = channel.get_state(try_to_connect=True)
        if state in _OUTCOMES:
            return state
        await channel.wait_for_state_change(state)


async def _drain(queue: "asyncio.Queue[Request]") -> AsyncIterator[Request]:
    while True:
        yield await queue.get()
