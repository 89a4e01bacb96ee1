"""Joins what the kernel sees of sockets, and what ztunnel reports at the end, to connections. Pure.

The client's address and port name a connection: they are the same at its socket and at the listener of the tunnel to
which it is redirected, whatever the backend. A tunnel is a connection of its own, which carries many; its beginning
is shown with the connection for which it was opened. At the called pod's end, the tunnel's connection to the
application is found by its destination and time.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from meshapi import names
from nodeagent.trace.access_log import Entry
from nodeagent.trace.events import Endpoint, KernelEvent, What

_GRACE_S: Final = 0.5
"""How long after its end a connection is waited for: by then each side has said what it has to say."""
_SETTLED_S: Final = 0.25
"""How long after its end an entry waits for the events that it is about: they come by another way, in portions."""
_SLACK_S: Final = 0.05
"""Durations of entries are in steps of a millisecond, and clocks are read one after another."""
_MOST: Final = 20_000
"""Connections that are remembered; beyond, the oldest is forgotten."""


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happened to a connection."""

    at_s: float
    text: str


@dataclass(slots=True)
class Connection:
    """One connection, as far as it has been seen.

    Attributes:
        client: its own end.
        server: what it has called, as far as is known.
        events: of the kernel.
        entry: of ztunnel.
        tunnel: was opened for it.
        delivery: ztunnel's connection to the application, where the client's own one is known too.
        is_tunnel: it carries others.
        is_from_tunnel: ztunnel has made it, to an application.
    """

    client: Endpoint
    server: Endpoint | None = None
    events: list[KernelEvent] = field(default_factory=list)
    entry: Entry | None = None
    tunnel: "Connection | None" = None
    delivery: "Connection | None" = None
    is_tunnel: bool = False
    is_from_tunnel: bool = False
    last_s: float = 0.0

    @property
    def began_s(self) -> float:
        """When it was first seen."""
        began = [min(event.at_s for event in self.events)] if self.events else []
        return min([*began, *([self.entry.began_s] if self.entry else [])])

    @property
    def closed(self) -> bool:
        """Whether its client has closed it."""
        return any(event.what is What.CLOSED and event.local == self.client for event in self.events)

    @property
    def first_byte_s(self) -> float | None:
        """Seconds from the client's connect to the first byte that it has read; nothing if one was not seen."""
        own = {event.what: event.at_s for event in reversed(self.events) if event.local == self.client}
        if What.CONNECT not in own or What.FIRST_BYTE not in own:
            return None
        return own[What.FIRST_BYTE] - own[What.CONNECT]


class Journal:
    """Takes events and entries in any order, and gives connections when they are complete."""

    def __init__(self) -> None:
        self._open: dict[Endpoint, Connection] = {}
        self._entries: list[Entry] = []
        self._tunnel_pids: set[int] = set()

    def kernel(self, event: KernelEvent) -> None:
        """Take an event."""
        if event.what is What.DROP:
            return
        if event.what is What.ACCEPT and event.local[1] in names.CAPTURE_PORTS:
            self._tunnel_pids.add(event.pid)
        found = self._of(event)
        if found is None:
            return
        found.events.append(event)
        found.last_s = max(found.last_s, event.at_s)
        if event.what is What.CONNECT:
            found.server = event.remote
            found.is_from_tunnel = event.pid in self._tunnel_pids
            found.is_tunnel = event.remote[1] == names.HBONE_PORT
        elif event.what is What.ACCEPT and event.local[1] == names.HBONE_PORT:
            found.is_tunnel = True
        if found.is_tunnel and event.what is What.CONNECT:
            self._opened_for(found)

    def logged(self, entry: Entry) -> None:
        """Take an entry of the access log."""
        self._entries.append(entry)

    def finished(self, now_s: float) -> Iterator[Connection]:
        """Give up those that have ended a moment ago, in the order of their beginning.

        Args:
            now_s: since the epoch, UTC.
        """
        self._attach(now_s - _SETTLED_S)
        done = {
            key: one
            for key, one in self._open.items()
            if (one.closed or one.entry) and now_s - one.last_s > _GRACE_S
        }  # fmt: skip
        for key in done:
            del self._open[key]
        yield from sorted((one for one in done.values() if not one.is_tunnel), key=lambda one: one.began_s)

    def rest(self) -> Iterator[Connection]:
        """Give up those that are open."""
        self._attach(float("inf"))
        found = [one for one in self._open.values() if not one.is_tunnel]
        self._open.clear()
        yield from sorted(found, key=lambda one: one.began_s)

    def _attach(self, until_s: float) -> None:
        """Bring entries that ended before a moment to their connections."""
        waiting = self._entries
        self._entries = [entry for entry in waiting if entry.ended_s >= until_s]
        for entry in waiting:
            if entry.ended_s < until_s:
                self._attach_one(entry)

    def _attach_one(self, entry: Entry) -> None:
        found = self._open.get(entry.source)
        if entry.is_inbound:
            delivery = self._delivered(entry)
            if found is None or found.is_tunnel:
                found = delivery
            elif delivery is not None:  # plain text: the client's own connection is here, and ends at the tunnel
                found.delivery = self._open.pop(delivery.client)
        if found is None or found.entry is not None:
            found = Connection(entry.source, entry.target or entry.destination)
            # A key of its own: at the called pod's end, the source of an entry is a tunnel that carries others.
            self._remember((f"{entry.source[0]}#{id(entry)}", entry.source[1]), found)
        found.entry = entry
        found.last_s = max(found.last_s, entry.ended_s)

    def _of(self, event: KernelEvent) -> Connection | None:
        if event.what is What.CONNECT:
            return self._remember(event.local, Connection(event.local))
        for key in (event.local, event.remote):
            if key in self._open:
                return self._open[key]
        # The client is on another node, or older than the probes.
        return (
            self._remember(event.remote, Connection(event.remote, event.local)) if event.what is What.ACCEPT else None
        )

    def _remember(self, key: Endpoint, connection: Connection) -> Connection:
        # Processors' buffers are read one after another: the server's event may be here before the client's.
        known = self._open.get(key)
        if known is not None and not known.closed:
            return known
        if len(self._open) >= _MOST:
            del self._open[next(iter(self._open))]
        self._open[key] = connection
        return connection

    def _opened_for(self, tunnel: Connection) -> None:
        """Note a new tunnel with the connection that waits for it: the last one of its pod that has none."""
        waiting = [
            one
            for one in self._open.values()
            if one.client[0] == tunnel.client[0] and not one.is_tunnel and not one.is_from_tunnel and one.entry is None
        ]
        if waiting and waiting[-1].tunnel is None:
            waiting[-1].tunnel = tunnel

    def _delivered(self, entry: Entry) -> Connection | None:
        """Return ztunnel's connection to the application that an entry of the called pod's end is about."""
        target = entry.target or entry.destination
        fitting = [
            one
            for one in self._open.values()
            if one.is_from_tunnel and one.server == target and one.client[0] == entry.source[0] and one.entry is None
            and one.began_s <= entry.began_s + _SLACK_S
        ]  # fmt: skip
        return max(fitting, key=lambda one: one.began_s, default=None)


def steps(connection: Connection) -> list[Step]:
    """Return what happened, in order."""
    found = [*_of_kernel(connection), *_of_tunnel(connection), *_of_entry(connection)]
    if connection.delivery is not None:
        found += _of_kernel(connection.delivery)
    return sorted(found, key=lambda step: step.at_s)


def _of_kernel(connection: Connection) -> Iterator[Step]:
    for event in connection.events:
        is_tunnels = event.local[1] in names.CAPTURE_PORTS
        side = "server"
        if is_tunnels or (connection.is_from_tunnel and event.local == connection.client):
            side = "ztunnel"
        elif event.local == connection.client:
            side = "client"
        text = _TEXTS[event.what].format(
            who=f"{event.process}[{event.pid}]",
            remote=f"{event.remote[0]}:{event.remote[1]}",
            captured="captured: " if is_tunnels else "",
            port=event.local[1],
            side=side,
        )
        yield Step(event.at_s, text)


_TEXTS: Final = {
    What.CONNECT: "{who} connects to {remote}",
    What.ACCEPT: "{captured}{who} accepts at port {port}",
    What.ESTABLISHED: "{side}: TCP is established",
    What.FIRST_BYTE: "{side}: {who} reads the first byte",
    What.CLOSED: "{side}: closed",
    What.RETRANSMIT: "{side}: sends again",
    What.RESET_SENT: "{side}: sends a reset",
    What.RESET_RECEIVED: "{side}: gets a reset",
}


def _of_tunnel(connection: Connection) -> Iterator[Step]:
    if connection.tunnel is None or connection.tunnel.server is None:
        return
    peer = f"{connection.tunnel.server[0]}:{connection.tunnel.server[1]}"
    texts = {
        What.CONNECT: f"a tunnel is opened to {peer}",
        What.ESTABLISHED: "tunnel: TCP is established",
        What.FIRST_BYTE: "tunnel: the peer's first byte, in the handshake of TLS",
    }
    for event in _first(connection.tunnel):
        if event.what in texts:
            yield Step(event.at_s, texts[event.what])


def _first(tunnel: Connection) -> Iterable[KernelEvent]:
    """Return the first event of each kind at the tunnel's own end."""
    own: dict[What, KernelEvent] = {}
    for event in tunnel.events:
        if event.local == tunnel.client:
            own.setdefault(event.what, event)
    return own.values()


def _of_entry(connection: Connection) -> Iterator[Step]:
    entry = connection.entry
    if entry is None:
        return
    fields = entry.fields
    where = "called pod's" if entry.is_inbound else "caller's"
    if entry.duration_s or not entry.error:
        is_tunnelled = not entry.is_inbound and entry.destination[1] == names.HBONE_PORT
        yield Step(entry.began_s, "CONNECT is answered, open at both ends" if is_tunnelled else "open at both ends")
    if entry.error:
        yield Step(entry.ended_s, f"ztunnel, {where} end: {entry.error}")
        return
    sent, received = fields.get("bytes_sent", "0"), fields.get("bytes_recv", "0")
    yield Step(entry.ended_s, f"ztunnel, {where} end: complete, {sent} bytes sent, {received} received")


def verdict(connection: Connection) -> str:
    """Return in a sentence by which way it went, and who decided; empty where ztunnel has not reported it."""
    entry = connection.entry
    if entry is None:
        return ""
    fields = entry.fields
    if entry.error:
        return f"refused or broken: {entry.error}"
    if entry.is_inbound:
        caller = fields.get("src.identity")
        return f"allowed by policy, as {caller}" if caller else "allowed by policy, in plain text"
    if entry.destination[1] == names.HBONE_PORT and fields.get("dst.identity"):
        return f"through the tunnel to {fields['dst.identity']}: CONNECT {fields.get('dst.hbone_addr', '')}, status 200"
    return "in plain text: the called pod is not of the mesh"
