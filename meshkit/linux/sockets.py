"""TCP sockets of the namespace that the calling thread is in (see ``netns.run``)."""

from collections.abc import Set
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshkit.linux import links

if TYPE_CHECKING:
    from pyroute2 import DiagSocket

_V4, _V6 = 2, 10
_OPENING, _LISTEN = (2, 3), 10  # SYN_SENT and SYN_RECV
_GONE = (6, 7)
_ALL_BUT_GONE = 0xFFF & ~((1 << 6) | (1 << 7))
"""Every state but TIME_WAIT (6) and CLOSE (7)."""


def _diag() -> "DiagSocket":
    # Imported here: a process that lists sockets only at its end would carry the library's 8 MB all its life.
    from pyroute2 import DiagSocket  # noqa: PLC0415

    return DiagSocket()


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket; its inode number distinguishes it from others on the same port."""

    port: int
    inode: int


@dataclass(frozen=True, slots=True)
class Connection:
    """A TCP connection: address and port of both ends, and whether its handshake is over."""

    local: tuple[str, int]
    remote: tuple[str, int]
    open: bool


def listeners_on(ports: Set[int]) -> list[Listener]:
    """Return the listening TCP sockets of all processes on ``ports``."""
    found: list[Listener] = []
    with _diag() as diag:
        diag.bind()
        for family in (_V4, _V6):
            found += [
                Listener(message["idiag_sport"], message["idiag_inode"])
                for message in diag.get_sock_stats(family=family, states=1 << _LISTEN)
                if message["idiag_sport"] in ports
            ]
    return found


def own_inodes() -> frozenset[int]:
    """Return the inode numbers of all sockets that this process has open, in whatever namespace."""
    inodes = set()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            kind, _, number = str(entry.readlink()).partition(":[")
            if kind == "socket":
                inodes.add(int(number.removesuffix("]")))
    return frozenset(inodes)


def connections_on(ports: Set[int]) -> int:
    """Return the number of TCP connections, listeners left out, whose local port is one of ``ports``."""
    count = 0
    with _diag() as diag:
        diag.bind()
        for family in (_V4, _V6):
            for message in diag.get_sock_stats(family=family, states=_ALL_BUT_GONE):
                count += message["idiag_state"] != _LISTEN and message["idiag_sport"] in ports
    return count


def carried(tunnel: Set[int]) -> tuple[Connection, ...]:
    """Return the TCP connections that a tunnel in the namespace carries.

    Those on its ports, and those that it has opened to the application under another's address: a connection that a BPF
    hook has handed to it is on the application's port.

    Args:
        tunnel: the tunnel's ports.
    """
    own = {str(one.interface.ip) for one in links.addresses()}
    with _diag() as diag:
        diag.bind()
        found = [
            _connection(message)
            for family in (_V4, _V6)
            for message in diag.get_sock_stats(family=family, states=_ALL_BUT_GONE & ~(1 << _LISTEN))
        ]

    def is_foreign(address: str) -> bool:
        return address not in own and not ip_address(address).is_loopback

    return tuple(one for one in found if one.local[1] in tunnel or is_foreign(one.local[0]))


def accepted() -> tuple[Connection, ...]:
    """Return the TCP connections that peers outside of the namespace have begun.

    They are known by their port here, on which a socket listens.
    """
    with _diag() as diag:
        diag.bind()
        found = [message for family in (_V4, _V6) for message in diag.get_sock_stats(family=family)]
    listening = {message["idiag_sport"] for message in found if message["idiag_state"] == _LISTEN}
    connections = [_connection(message) for message in found if message["idiag_state"] not in (*_GONE, _LISTEN)]
    return tuple(one for one in connections if one.local[1] in listening and not ip_address(one.remote[0]).is_loopback)


def outside(tunnel: Set[int]) -> tuple[Connection, ...]:
    """Return the TCP connections that lead out of the namespace and are not carried by a tunnel in it.

    Args:
        tunnel: the tunnel's ports here and elsewhere. What is connected to one of them is the tunnel's; what the
            tunnel has accepted, or has opened under another's address, has its other end in this namespace too.
    """
    with _diag() as diag:
        diag.bind()
        found = [
            _connection(message)
            for family in (_V4, _V6)
            for message in diag.get_sock_stats(family=family, states=_ALL_BUT_GONE & ~(1 << _LISTEN))
        ]
    ends = {(one.local, one.remote) for one in found}
    accepted = {one.remote for one in found if one.local[1] in tunnel}
    return tuple(
        one
        for one in found
        if not ({one.local[1], one.remote[1]} & tunnel or one.local in accepted or (one.remote, one.local) in ends)
        and not ip_address(one.remote[0]).is_loopback
    )


def _connection(message: Any) -> Connection:
    local = (_plain(message["idiag_src"]), message["idiag_sport"])
    return Connection(
        local, (_plain(message["idiag_dst"]), message["idiag_dport"]), message["idiag_state"] not in _OPENING
    )


def _plain(text: str) -> str:
    """Return an address as what it is on the wire: sockets of IPv6 show IPv4 as mapped."""
    address = ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)
