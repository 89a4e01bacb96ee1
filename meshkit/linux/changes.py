"""Detects changes of rules and routes of a network namespace without reading them again and again.

The kernel reports changes of nftables, of links and their filters, of route rules and of routes to subscribed sockets,
and what it cannot deliver it reports as lost. It reports nothing of the old iptables tables, nor of pinned BPF
programs; for those ``Changes.sizes`` is compared periodically. A notification does not say what changed: the
subscriber compares actual and desired state.
"""

import ctypes
import errno
import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_NETLINK_NETFILTER: Final = 12
_NFTABLES: Final = 1 << 6  # NFNLGRP_NFTABLES
_ROUTES: Final = 1 << 0 | 1 << 3 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 18
"""RTNLGRP_LINK, RTNLGRP_TC, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV4_RULE, RTNLGRP_IPV6_ROUTE, RTNLGRP_IPV6_RULE."""
_GET_INFO: Final = 64  # IPT_SO_GET_INFO and IP6T_SO_GET_INFO
_LEVELS: Final = {4: (socket.AF_INET, 0), 6: (socket.AF_INET6, 41)}
_INFO_BYTES: Final = 84
"""Of ``struct ipt_getinfo``: a name of 32 bytes, then hooks, where they begin and end, number of entries, bytes."""

_libc: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class Changes:
    """Listens in one namespace. Owns its sockets.

    Attributes:
        events: readable when something has changed; for an event loop.
        tables: sockets that read the sizes of iptables tables, by version of IP.
        names: of those tables.
        files: whose times are compared too.
    """

    events: tuple[socket.socket, ...]
    tables: dict[int, socket.socket] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    def drain(self) -> None:
        """Forget the events that have been reported."""
        for one in self.events:
            with suppress(BlockingIOError):
                while _receive(one):
                    pass

    def sizes(self) -> tuple[bytes, ...]:
        """Return what differs after most changes: hooks, sizes and numbers of rules of the tables, times of files."""
        of_tables = (
            _info(one.fileno(), _LEVELS[version][1], name)
            for version, one in self.tables.items()
            for name in self.names
        )
        return (*of_tables, *map(_time, self.files))

    def close(self) -> None:
        """End."""
        for one in (*self.events, *self.tables.values()):
            one.close()


def watch(
    *,
    routes: bool = True,
    tables: Iterable[str] = (),
    versions: Iterable[int] = (),
    files: Iterable[Path] = (),
) -> Changes:
    """Begin to listen in the namespace that the calling thread is in (see ``netns.run``).

    Args:
        routes: whether links, their filters, and rules and routes of routing count.
        tables: iptables tables whose sizes can be read.
        versions: of IP, of those tables.
        files: whose times can be read.

    Raises:
        OSError: nothing is open.
    """
    kinds = [(_NETLINK_NETFILTER, _NFTABLES), *[(socket.NETLINK_ROUTE, _ROUTES)] * routes]
    events: list[socket.socket] = []
    size_sockets: dict[int, socket.socket] = {}
    try:
        for protocol, groups in kinds:
            events.append(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol))
            events[-1].bind((0, groups))
        for version in versions:
            size_sockets[version] = socket.socket(_LEVELS[version][0], socket.SOCK_RAW, socket.IPPROTO_RAW)
    except OSError:
        Changes(tuple(events), size_sockets).close()
        raise
    return Changes(tuple(events), size_sockets, tuple(tables), tuple(files))


def _receive(one: socket.socket) -> bool:
    try:
        return bool(one.recv(65536))
    except OSError as error:
        if error.errno == errno.ENOBUFS:  # some were lost, which is news enough
            return True
        raise


def _info(descriptor: int, level: int, table: str) -> bytes:
    buffer = ctypes.create_string_buffer(table.encode(), _INFO_BYTES)
    length = ctypes.c_uint32(_INFO_BYTES)
    if _libc.getsockopt(descriptor, level, _GET_INFO, buffer, ctypes.byref(length)) != 0:
        return os.strerror(ctypes.get_errno()).encode()
    return buffer.raw


def _time(path: Path) -> bytes:
    try:
        return str(path.stat().st_mtime_ns).encode()
    except OSError as error:
        return os.strerror(error.errno or 0).encode()
