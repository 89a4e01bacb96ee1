"""TCP sockets of the namespace that the calling thread is in (see ``netns.run``)."""

from collections.abc import Set
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyroute2 import DiagSocket

_V4, _V6 = 2, 10
_ESTABLISHED, _LISTEN = 1, 10
_ALL_BUT_GONE = 0xFFF & ~((1 << 6) | (1 << 7))
"""Every state but TIME_WAIT (6) and CLOSE (7)."""


def _diag() -> "DiagSocket":
    # A process that asks once, at its end, shall not have the library in memory all its life: 8 MB.
    from pyroute2 import DiagSocket  # noqa: PLC0415

    return DiagSocket()


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket; its inode number is what tells it from others on the same port."""

    port: int
    inode: int


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


def established(*, but: Set[int]) -> int:
    """Return the number of established TCP connections that lead out of the namespace.

    Args:
        but: connections from or to these ports do not count.
    """
    count = 0
    with _diag() as diag:
        diag.bind()
        for family in (_V4, _V6):
            for message in diag.get_sock_stats(family=family, states=1 << _ESTABLISHED):
                here, there = ip_address(message["idiag_src"]), ip_address(message["idiag_dst"])
                ports = {message["idiag_sport"], message["idiag_dport"]}
                count += here != there and not _is_loopback(there) and not ports & but
    return count


def _is_loopback(address: IPv4Address | IPv6Address) -> bool:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback
