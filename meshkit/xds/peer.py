"""The client at the other end of a discovery stream, and what is to be seen of the conversation."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from meshkit.xds.subscription import Delta


@dataclass(slots=True)
class Peer:
    """The client.

    Attributes:
        identity: who it was authenticated as.
        connected_at: loop time.
        node_id: what it calls itself, set by its first request; as
            ``ztunnel~10.0.0.1~ztunnel-x.istio-system~istio-system.svc.cluster.local``.
        metadata: its node metadata.
        subscriptions: by type URL, a ``Subscription`` or a ``WholeSubscription``.
    """

    identity: str
    connected_at: float
    node_id: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    subscriptions: dict[str, Any] = field(default_factory=dict)

    @property
    def node_type(self) -> str:
        """The first part of the node ID: ``ztunnel``, ``waypoint``, ``router`` or ``sidecar``."""
        return self.node_id.partition("~")[0]

    @property
    def name(self) -> str:
        """``pod.namespace``: the third part of the node ID, or all of another form of it."""
        parts = self.node_id.split("~")
        return parts[2] if len(parts) == 4 else self.node_id


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
        """Note that a peer has opened a stream and said who it is."""
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

    def refuses(self, peer: Peer, type_url: str, reasons: Mapping[str, str]) -> None:
        """Note which resources of a type the peer refuses now, with its reasons, when that has changed."""
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

    def refuses(self, peer: Peer, type_url: str, reasons: Mapping[str, str]) -> None:
        """Ignore it."""
